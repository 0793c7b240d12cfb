import ComputeRuntime
import FineTuning

/// What all parts of one device's run share.
final class RunContext {
  let job: DistributedJob
  let division: WorkDivision
  let links: JobLinks
  let team: ComputeTeam
  /// Gradients are reduced in buckets of at least so many bytes.
  let leastBucketBytes: Int
  private let isCancelled: () -> Bool
  /// Whether this device asks all to stop.
  let stopRequest = StopRequest()
  let report: (DistributedEvent) -> Void

  init(
    job: DistributedJob, division: WorkDivision, links: JobLinks, team: ComputeTeam,
    leastBucketBytes: Int, isCancelled: @escaping () -> Bool, report: @escaping (DistributedEvent) -> Void
  ) {
    self.job = job
    self.division = division
    self.links = links
    self.team = team
    self.leastBucketBytes = leastBucketBytes
    self.isCancelled = isCancelled
    self.report = report
  }

  var place: Int { links.place }

  /// Ends the run when somebody has stopped it.
  func checkCancellation(step: Int) throws(DistributedRunFailure) {
    if isCancelled() { throw .cancelled(step: step) }
  }

  /// Ends the run on all devices when this one was asked to stop, at a place where nothing is lost by that.
  func breakOffIfAsked() throws(DistributedRunFailure) {
    guard stopRequest.isRaised else { return }
    links.abort(DistributedRun.stopReason)
    throw .channel(.aborted(DistributedRun.stopReason), during: "stopping")
  }

  /// Reports how far a phase has come, with what this device waited and sent.
  func report(
    _ progress: DistributedProgress, clock: PhaseClock, ring: UInt64 = 0, tapWaits: UInt64 = 0
  ) {
    var progress = progress
    progress.waitShare = clock.times(links, ring: ring, tapWaits: tapWaits).waitShare
    for traffic in links.bytes {
      progress.sentBytes += traffic.sent
      progress.receivedBytes += traffic.received
    }
    report(.progress(progress))
  }

  /// Runs `work` for each unit on the team, some at a time, and looks for a cancellation between, and for a stop if it
  /// `mayStop`.
  func forEachUnit<Unit: Sendable, Value: Sendable>(
    _ units: [Unit], mayStop: Bool, _ work: @escaping @Sendable (Unit, Int) throws(TrainingFailure) -> Value,
    finished: ([Unit], [Value]) throws(DistributedRunFailure) -> Void
  ) throws(DistributedRunFailure) {
    let wave = team.width * 4
    for start in stride(from: 0, to: units.count, by: wave) {
      try checkCancellation(step: 0)
      if mayStop { try breakOffIfAsked() }
      let part = Array(units[start..<min(start + wave, units.count)])
      let results = UnitResults<Value>(part.count)
      team.forEach(part.count) { piece, worker in
        results.set(piece) { () throws(TrainingFailure) in try work(part[piece], worker) }
      }
      try finished(part, results.values())
    }
  }
}

/// Reads the counters of a run at both ends of a phase.
struct PhaseClock {
  private let start: UInt64
  private let waits: [UInt64]
  private let tapWaits: UInt64
  private let ring: UInt64
  private let bytes: [LinkTraffic]

  init(_ links: JobLinks, ring: UInt64 = 0, tapWaits: UInt64 = 0) {
    start = MonotonicClock.nanoseconds()
    waits = links.waits
    bytes = links.bytes
    self.ring = ring
    self.tapWaits = tapWaits
  }

  var seconds: Double { Double(MonotonicClock.nanoseconds() - start) * 1e-9 }

  func times(_ links: JobLinks, ring: UInt64 = 0, tapWaits: UInt64 = 0) -> DeviceTimes {
    let now = links.waits
    func wait(_ reason: WaitReason) -> Double {
      Double(now[reason.rawValue] - waits[reason.rawValue]) * 1e-9
    }
    var times = DeviceTimes()
    times.seconds = seconds
    times.boundaryWait = wait(.boundary)
    times.shareWait = wait(.share)
    times.ringWait = wait(.ring)
    times.ring = Double(ring - self.ring) * 1e-9
    times.tapWait = wait(.taps) + Double(tapWaits - self.tapWaits) * 1e-9
    return times
  }

  func traffic(_ links: JobLinks) -> [LinkTraffic] {
    zip(links.bytes, bytes).map { now, before in
      var traffic = LinkTraffic()
      traffic.sent = now.sent - before.sent
      traffic.received = now.received - before.received
      return traffic
    }
  }
}
