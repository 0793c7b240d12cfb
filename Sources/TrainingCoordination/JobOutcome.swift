package import CryptoPrimitives
package import MeshModel
package import WireCoding

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
