package import CryptoPrimitives
package import MeshModel
package import WireCoding

/// What a device of a job is busy with; the raw values are the wire's.
package enum DevicePhase: UInt8, Hashable, Sendable, CaseIterable, Comparable {
  /// It knows of the job and has not begun.
  case waiting = 0
  /// It fetches the package and measures itself.
  case preparing = 1
  /// It has told the leader what it can do, and waits for the plan.
  case prepared = 2
  /// It leads, and looks for the best plan.
  case planning = 3
  /// It leads, and waits for the others' votes.
  case deciding = 4
  /// It fetches the weights of its layers.
  case fetching = 5
  /// It waits until all devices of the plan have theirs.
  case ready = 6
  /// Forward passes fill the activation cache.
  case filling = 7
  /// An epoch that runs the backbone.
  case live = 8
  /// Parameters and cached activations go to those who need them next.
  case transition = 9
  /// An epoch from the cache.
  case cached = 10
  /// Held-out samples are measured.
  case evaluating = 11
  /// Its part is done.
  case completed = 12

  /// Whether `left` comes before `right` in a job without an evaluation between.
  package static func < (left: DevicePhase, right: DevicePhase) -> Bool { left.rawValue < right.rawValue }
}

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
  /// After how many epochs `metrics` were measured.
  package var metricsEpoch: UInt32 = 0
  /// What was measured last on held-out samples.
  package var metrics: [NamedMetric] = []

  /// The progress of a device that has just entered a phase.
  package init(_ phase: DevicePhase) { self.phase = phase }

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
    metricsEpoch = try reader.integer("epoch of the metrics")
    for _ in 0..<(try reader.count("metrics", limit: JobLimits.metrics)) {
      let name = try reader.text("name of a metric", limit: JobLimits.metricNameBytes)
      metrics.append(NamedMetric(name: name, value: try readNumber(&reader, "metric")))
    }
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
    writer.integer(metricsEpoch)
    let told = metrics.filter { $0.value.isFinite && $0.name.utf8.count <= JobLimits.metricNameBytes }
      .prefix(JobLimits.metrics)
    writer.count(told.count)
    for metric in told {
      writer.text(metric.name)
      writer.integer(metric.value.bitPattern)
    }
  }
}

/// What a device has when its part of a job is done.
package struct RunCompletion: Hashable, Sendable, WireCodable {
  /// Digest of all trained parameters, the same on every device; nil when this device does not hold them all.
  package var digest: ContentDigest?
  /// The trained parameters, for an owner that has none; nil when this device does not hold them all.
  package var result: BlobReference?
  /// What the run measured, for the adapter's description; its form is not the coordinator's concern.
  package var results: [UInt8]
  /// Bytes of the activations that this device kept.
  package var cacheBytes: UInt64

  /// A completion; `results` has at most `JobLimits.resultsBytes`.
  package init(digest: ContentDigest?, result: BlobReference?, results: [UInt8], cacheBytes: UInt64 = 0) {
    precondition(results.count <= JobLimits.resultsBytes, "\(results.count) bytes of results")
    self.digest = digest
    self.result = result
    self.results = results
    self.cacheBytes = cacheBytes
  }

  /// Reads a completion.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    if try reader.flag("parameters") { digest = try readDigest(&reader, "parameters") }
    if try reader.flag("result") { result = try BlobReference(from: &reader) }
    results = Array(try reader.lengthPrefixed("results", limit: JobLimits.resultsBytes))
    cacheBytes = try reader.integer("bytes of activations")
  }

  /// Writes the completion.
  package func encode(to writer: inout ByteWriter) {
    writer.flag(digest != nil)
    if let digest { writer.raw(digest.bytes) }
    writer.flag(result != nil)
    result?.encode(to: &writer)
    writer.lengthPrefixed(results)
    writer.integer(cacheBytes)
  }
}

/// How a job ended, for good.
package enum JobOutcome: Hashable, Sendable, WireCodable {
  /// The owner has the adapter, whose tensors have this digest.
  case finished(adapter: ContentDigest, results: [UInt8])
  /// It cannot go on; the device that is the cause, when there is one, and why.
  case failed(device: DeviceID?, reason: String)
  /// A person stopped it, on this device.
  case stopped(by: DeviceID)

  /// A failure whose reason is cut to what may travel.
  package static func failure(of device: DeviceID?, _ reason: String) -> JobOutcome {
    .failed(device: device, reason: cut(reason, to: JobLimits.reasonBytes))
  }

  /// Reads an outcome.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    let code = try reader.integer("outcome", as: UInt8.self)
    switch code {
    case 1:
      let adapter = try readDigest(&reader, "adapter")
      self = .finished(
        adapter: adapter, results: Array(try reader.lengthPrefixed("results", limit: JobLimits.resultsBytes)))
    case 2:
      let device = try reader.flag("device") ? try DeviceID(from: &reader) : nil
      self = .failed(device: device, reason: try reader.text("reason", limit: JobLimits.reasonBytes))
    case 3: self = .stopped(by: try DeviceID(from: &reader))
    default: throw .invalid(field: "outcome", value: UInt64(code))
    }
  }

  /// Writes the outcome.
  package func encode(to writer: inout ByteWriter) {
    switch self {
    case .finished(let adapter, let results):
      writer.integer(UInt8(1))
      writer.raw(adapter.bytes)
      writer.lengthPrefixed(results)
    case .failed(let device, let reason):
      writer.integer(UInt8(2))
      writer.flag(device != nil)
      device?.encode(to: &writer)
      writer.text(cut(reason, to: JobLimits.reasonBytes))
    case .stopped(let device):
      writer.integer(UInt8(3))
      device.encode(to: &writer)
    }
  }
}

/// The longest beginning of a text that has at most `limit` bytes of UTF-8.
package func cut(_ text: String, to limit: Int) -> String {
  guard text.utf8.count > limit else { return text }
  var kept = ""
  var bytes = 0
  for character in text {
    bytes += character.utf8.count
    if bytes > limit { break }
    kept.append(character)
  }
  return kept
}
