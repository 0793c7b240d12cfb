import ActivationCache
import ComputeRuntime
import DistributedTraining
import FineTuning
import LanguageModels
import ParallelPlanner
import Synchronization
import TensorKernels
import Testing

/// The devices of a household through the plan epochs of one job: what each has in memory and on its disk.
///
/// - Safety: an epoch's threads only touch their own device's part, under the lock.
final class TestHousehold: @unchecked Sendable {
  /// What one device has of the job.
  struct Device {
    var held: [TrainingState] = []
    /// The last checkpoint's bytes.
    var disk: [UInt8]?
    var storage = SimulatedStorage()
  }

  /// What a test wants of one plan epoch.
  struct Epoch: Sendable {
    /// The device of each place.
    var household: [Int]
    var plan: Plan
    var next: Plan?
    /// Whether states are written at every boundary, or at the first one alone.
    var writesOften = true
    /// Called before every message, by place.
    var fault: (@Sendable (_ from: Int, _ to: Int, JobTag) -> InMemoryJobChannels.Fault?)?
    /// The place that asks for a stop once it has done that step; before the first step with 0.
    var stop: (place: Int, step: Int)?
    /// The device whose parameters are asked for at the end of a job without cached epochs, by place.
    var collector: Int?
    /// Called on the threads of the devices; a place that is given true asks for a stop.
    var asks: (@Sendable (_ place: Int, DistributedEvent) -> Bool)?
    /// Called on the threads of the devices.
    var event: (@Sendable (_ place: Int, DistributedEvent) -> Void)?

    init(_ household: [Int], _ plan: Plan, next: Plan? = nil) {
      self.household = household
      self.plan = plan
      self.next = next
    }
  }

  let job: TinyJob
  private let devices = Mutex<[Int: Device]>([:])

  init(_ job: TinyJob) { self.job = job }

  subscript(device: Int) -> Device {
    get { devices.withLock { $0[device] ?? Device() } }
    set { devices.withLock { $0[device] = newValue } }
  }

  /// A device is gone for good, with all that it had.
  func lose(_ device: Int) { devices.withLock { $0[device] = nil } }

  /// Power is lost: only what was written is left.
  func losePower() throws {
    let all = devices.withLock { $0 }
    for (number, device) in all {
      var device = device
      device.held = try device.disk.map { [try TrainingState(decoding: $0)] } ?? []
      device.storage.crash(keeping: { false })
      self[number] = device
    }
  }

  /// Runs a plan epoch on all devices of its household; outcomes by place.
  func run(_ epoch: Epoch) throws -> [DeviceOutcome] {
    let roles = Set(
      epoch.plan.stages.flatMap { $0.members.map(\.device) } + epoch.plan.cached.map(\.device))
    let fault = epoch.fault
    let channels = InMemoryJobChannels(
      devices: epoch.household.count, optional: Set(epoch.household.indices).subtracting(roles)
    ) { from, to, tag, _ in fault?(from, to, tag) }
    for device in epoch.household where devices.withLock({ $0[device] == nil }) { self[device] = Device() }
    let outcomes = Mutex([DeviceOutcome](repeating: DeviceOutcome(), count: epoch.household.count))
    let threads = epoch.household.indices.map { place in
      OperatingSystemThread(name: "device-\(place)") { [self] in
        let outcome = run(epoch, place, channels.channel(place))
        outcomes.withLock { $0[place] = outcome }
      }
    }
    for thread in threads { thread.join() }
    for place in channels.lost { lose(epoch.household[place]) }
    channels.abort("the epoch is over")
    // Every thread of a run knows its channel. Lessons end with it, when the processors have nothing better to do.
    #expect(channels.areReleased(), "a run has left a thread behind")
    return outcomes.withLock { $0 }
  }

  private func run(_ epoch: Epoch, _ place: Int, _ channel: any JobChannel) -> DeviceOutcome {
    let number = epoch.household[place]
    var device = self[number]
    var outcome = DeviceOutcome()
    let checkpoints = RecordedCheckpoints(isFrequent: epoch.writesOften)
    var run: DistributedRun?
    do {
      let backbone = try job.backbone()
      let cache = try job.cache(backbone, in: device.storage)
      let begun = try job.begin(
        epoch.plan,
        entry: RunEntry(
          held: device.held, next: epoch.next),
        devices: epoch.household.count, channel: channel, collector: epoch.collector, backbone: backbone,
        cache: cache, isCancelled: { false }, opened: { outcome.hasOpened = true },
        checkpoints: checkpoints,
        report: { event in
          outcome.events.append(event)
          epoch.event?(place, event)
          if epoch.asks?(place, event) == true { run?.requestStop() }
          if case .committed(let step, _) = event, let stop = epoch.stop, stop.place == place,
            step == stop.step
          {
            run?.requestStop()
          }
        })
      run = begun
      if let stop = epoch.stop, stop.place == place, stop.step == 0 { begun.requestStop() }
      outcome.result = try begun.run()
    } catch {
      outcome.failure = error
    }
    // Whoever has the result is asked for it.
    let held = outcome.result?.isComplete == true ? run?.held : run?.surrenderHeld()
    device.held = held ?? device.held
    device.disk = checkpoints.disk ?? device.disk
    outcome.checkpoints = checkpoints.steps
    // The report's closure names the run, and the run has the closure.
    run = nil
    self[number] = device
    return outcome
  }
}

/// A disk that keeps the newest state.
private final class RecordedCheckpoints: CheckpointSink {
  private let isFrequent: Bool
  private(set) var disk: [UInt8]?
  private(set) var steps: [Int] = []

  init(isFrequent: Bool) { self.isFrequent = isFrequent }

  func isDue(bytes: Int) -> Bool { isFrequent || steps.isEmpty }

  func take(_ state: TrainingState) {
    disk = state.encoded
    steps.append(state.step)
  }
}

extension DeviceOutcome {
  /// Where the run went on, as it told.
  var start: Int? {
    for case .handover(let handover) in events { return handover.start }
    return nil
  }

  /// Units whose activations it computed again.
  var recomputed: Int {
    for case .handover(let handover) in events { return handover.unitsToCompute }
    return 0
  }

  /// Units whose activations it was handed.
  var fetched: Int {
    for case .handover(let handover) in events { return handover.unitsFetched }
    return 0
  }

  /// The optimizer steps that it has applied.
  var committed: [Int] {
    events.compactMap { if case .committed(let step, _) = $0 { step } else { nil } }
  }
}

/// The devices at `complete` have ended the job with the parameters and predictions of one device.
func expectEnd(
  _ outcomes: [DeviceOutcome], _ reference: TinyJob.Reference, complete: [Int], _ comment: Comment
) {
  for place in complete {
    guard let result = outcomes[place].result else {
      Issue.record("\(comment), place \(place): \(String(describing: outcomes[place].failure))")
      continue
    }
    #expect(result.ending == .finished && result.isComplete, "\(comment), place \(place)")
    #expect(TinyJob.bits(result.parameters) == reference.vector, "\(comment), place \(place)")
    #expect(result.after?.predictions == reference.after, "\(comment), place \(place)")
    if let loss = reference.lossAfter { #expect(result.after?.lossSum == loss) }
    let trained = result.epochs.filter { $0.phase != .filling }
    #expect(
      trained.map(\.loss) == Array(reference.losses.suffix(trained.count)), "\(comment), place \(place)")
  }
}
