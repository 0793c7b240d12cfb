package import MeshModel
package import WireCoding

/// A measured value with its name.
package struct NamedMetric: Hashable, Sendable {
  /// Its name, for instance `accuracy`.
  package var name: String
  /// Its value.
  package var value: Double

  /// A metric.
  package init(name: String, value: Double) {
    self.name = name
    self.value = value
  }
}

/// A finished epoch as one device saw it.
package struct FinishedEpoch: Hashable, Sendable, WireCodable {
  /// 1-based.
  package var index: UInt32
  /// Whether it read cached activations.
  package var isCached: Bool
  /// What it took, evaluation not counted.
  package var seconds: Double
  /// Samples a second of the whole job.
  package var samplesPerSecond: Double
  /// Mean training loss.
  package var loss: Double

  /// An epoch.
  package init(index: UInt32, isCached: Bool, seconds: Double, samplesPerSecond: Double, loss: Double) {
    self.index = index
    self.isCached = isCached
    self.seconds = seconds
    self.samplesPerSecond = samplesPerSecond
    self.loss = loss
  }

  /// Reads an epoch.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    index = try reader.integer("epoch")
    isCached = try reader.flag("cached")
    seconds = try readNumber(&reader, "seconds of an epoch")
    samplesPerSecond = try readNumber(&reader, "samples a second")
    loss = try readNumber(&reader, "loss")
  }

  /// Writes the epoch; a number that is none is written as 0.
  package func encode(to writer: inout ByteWriter) {
    writer.integer(index)
    writer.flag(isCached)
    for value in [seconds, samplesPerSecond, loss] {
      writer.integer((value.isFinite ? value : 0).bitPattern)
    }
  }
}

/// What a device's transition to the cached epochs took, and what it freed.
package struct TransitionFigures: Hashable, Sendable, WireCodable {
  /// Seconds from the end of the first phase to the first step from the cache.
  package var seconds: Double
  /// Resident bytes of the process before the backbone was released.
  package var residentBefore: UInt64
  /// Resident bytes afterwards.
  package var residentAfter: UInt64

  /// A transition.
  package init(seconds: Double, residentBefore: UInt64, residentAfter: UInt64) {
    self.seconds = seconds
    self.residentBefore = residentBefore
    self.residentAfter = residentAfter
  }

  /// Reads a transition.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    seconds = try readNumber(&reader, "seconds of the transition")
    residentBefore = try reader.integer("resident bytes before")
    residentAfter = try reader.integer("resident bytes after")
  }

  /// Writes the transition; a number that is none is written as 0.
  package func encode(to writer: inout ByteWriter) {
    writer.integer((seconds.isFinite ? seconds : 0).bitPattern)
    writer.integer(residentBefore)
    writer.integer(residentAfter)
  }
}

/// What went over one device's link to another.
package struct LinkBytes: Hashable, Sendable {
  /// The other device's place in the plan.
  package var place: UInt8
  /// Bytes that were sent there.
  package var sent: UInt64
  /// Bytes that came from there.
  package var received: UInt64

  /// A link.
  package init(place: UInt8, sent: UInt64, received: UInt64) {
    self.place = place
    self.sent = sent
    self.received = received
  }
}

/// Where a device of a job is, as it tells the others about once a second.
package struct DeviceProgress: Hashable, Sendable, WireCodable {
  /// What it is busy with.
  package var phase: DevicePhase
  /// 1-based epoch; 0 outside an epoch.
  package var epoch: UInt32 = 0
  /// Finished steps of the phase.
  package var step: UInt64 = 0
  /// Steps of the phase.
  package var steps: UInt64 = 0
  /// Samples a second of the whole job.
  package var samplesPerSecond: Double = 0
  /// Mean loss since the phase began; nil when nothing is trained.
  package var loss: Double?
  /// Seconds until the phase ends at this rate; nil while unknown.
  package var etaSeconds: Double?
  /// Share of the phase in which it waited for others; nil while unknown.
  package var waitingShare: Double?
  /// Bytes that the job takes of its memory.
  package var memoryBytes: UInt64 = 0
  /// Bytes that a job may take of its memory; 0 while unknown.
  package var budgetBytes: UInt64 = 0
  /// Of what it has to fetch, how many bytes are there.
  package var fetchedBytes: UInt64 = 0
  /// Bytes that it has to fetch.
  package var fetchBytes: UInt64 = 0
  /// What it sent and received for the job, ascending by place.
  package var links: [LinkBytes] = []
  /// The last finished epoch.
  package var finished: FinishedEpoch?
  /// Its transition to the cached epochs; nil before it.
  package var transition: TransitionFigures?
  /// After how many epochs `metrics` were measured.
  package var metricsEpoch: UInt32 = 0
  /// What was measured last on held-out samples.
  package var metrics: [NamedMetric] = []
  /// Optimizer steps whose update this device has applied.
  package var committedStep: UInt64 = 0
  /// Seconds that this device itself computes for a step, without its waiting; nil while unknown.
  package var secondsPerStep: Double?
  /// Why it is where it is, for people; nil when nothing has to be said.
  package var reason: String?
  /// The device that broke its run off, as far as it can tell.
  package var culprit: DeviceID?
  /// Whether it wants to leave the job.
  package var isLeaving = false
  /// Whether it holds all that its part of the next plan needs.
  package var hasLearned = false
  /// Whether it has measured itself since its daemon started, and can take a part.
  package var isPrepared = false

  /// The progress of a device that has just entered a phase.
  package init(_ phase: DevicePhase) { self.phase = phase }

  /// Whether a run has come further since it said this.
  func hasMoved(since old: DeviceProgress) -> Bool {
    phase != old.phase || epoch != old.epoch || step != old.step || committedStep != old.committedStep
      || links != old.links
  }

  /// Reads a progress; all numbers are finite.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    let code = try reader.integer("phase", as: UInt8.self)
    guard let phase = DevicePhase(rawValue: code) else {
      throw .invalid(field: "phase", value: UInt64(code))
    }
    self.init(phase)
    epoch = try reader.integer("epoch")
    step = try reader.integer("step")
    steps = try reader.integer("steps")
    samplesPerSecond = try readNumber(&reader, "samples a second")
    if try reader.flag("loss") { loss = try readNumber(&reader, "loss") }
    if try reader.flag("time to the end") { etaSeconds = try readNumber(&reader, "time to the end") }
    if try reader.flag("waiting share") { waitingShare = try readNumber(&reader, "waiting share") }
    memoryBytes = try reader.integer("memory")
    budgetBytes = try reader.integer("memory budget")
    fetchedBytes = try reader.integer("bytes fetched")
    fetchBytes = try reader.integer("bytes to fetch")
    for _ in 0..<(try reader.count("links", limit: JobLimits.roster)) {
      let place = try reader.integer("place", as: UInt8.self)
      if let last = links.last, last.place >= place { throw .notAscending(field: "links") }
      links.append(
        LinkBytes(
          place: place, sent: try reader.integer("bytes sent"),
          received: try reader.integer("bytes received")))
    }
    if try reader.flag("finished epoch") { finished = try FinishedEpoch(from: &reader) }
    if try reader.flag("transition") { transition = try TransitionFigures(from: &reader) }
    metricsEpoch = try reader.integer("epoch of the metrics")
    for _ in 0..<(try reader.count("metrics", limit: JobLimits.metrics)) {
      let name = try reader.text("name of a metric", limit: JobLimits.metricNameBytes)
      metrics.append(NamedMetric(name: name, value: try readNumber(&reader, "metric")))
    }
    committedStep = try reader.integer("committed step")
    if try reader.flag("seconds a step") { secondsPerStep = try readNumber(&reader, "seconds a step") }
    if try reader.flag("reason") { reason = try reader.text("reason", limit: JobLimits.reasonBytes) }
    if try reader.flag("culprit") { culprit = try DeviceID(from: &reader) }
    isLeaving = try reader.flag("leaving")
    hasLearned = try reader.flag("learned")
    isPrepared = try reader.flag("prepared")
  }

  /// Writes the progress; numbers that are none, and metrics over the limit, are left out.
  package func encode(to writer: inout ByteWriter) {
    writer.integer(phase.rawValue)
    writer.integer(epoch)
    writer.integer(step)
    writer.integer(steps)
    writer.integer((samplesPerSecond.isFinite ? samplesPerSecond : 0).bitPattern)
    for value in [loss, etaSeconds, waitingShare] {
      let value = value.flatMap { $0.isFinite ? $0 : nil }
      writer.flag(value != nil)
      if let value { writer.integer(value.bitPattern) }
    }
    for bytes in [memoryBytes, budgetBytes, fetchedBytes, fetchBytes] { writer.integer(bytes) }
    writer.count(links.count)
    for link in links {
      writer.integer(link.place)
      writer.integer(link.sent)
      writer.integer(link.received)
    }
    writer.flag(finished != nil)
    finished?.encode(to: &writer)
    writer.flag(transition != nil)
    transition?.encode(to: &writer)
    writer.integer(metricsEpoch)
    let told = metrics.filter { $0.value.isFinite && $0.name.utf8.count <= JobLimits.metricNameBytes }
      .prefix(JobLimits.metrics)
    writer.count(told.count)
    for metric in told {
      writer.text(metric.name)
      writer.integer(metric.value.bitPattern)
    }
    writer.integer(committedStep)
    let seconds = secondsPerStep.flatMap { $0.isFinite ? $0 : nil }
    writer.flag(seconds != nil)
    if let seconds { writer.integer(seconds.bitPattern) }
    writer.flag(reason != nil)
    if let reason { writer.text(cut(reason, to: JobLimits.reasonBytes)) }
    writer.flag(culprit != nil)
    culprit?.encode(to: &writer)
    writer.flag(isLeaving)
    writer.flag(hasLearned)
    writer.flag(isPrepared)
  }
}
