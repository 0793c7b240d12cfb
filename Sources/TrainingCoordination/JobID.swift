package import WireCoding

/// A job's name: 16 random bytes, drawn where it is submitted.
package struct JobID: Hashable, Comparable, Sendable, WireCodable, CustomStringConvertible {
  private let upper, lower: UInt64

  /// The job with these two words.
  package init(_ upper: UInt64, _ lower: UInt64) {
    self.upper = upper
    self.lower = lower
  }

  /// The job that 32 hexadecimal digits name; nil for any other text.
  package init?(_ text: some StringProtocol) {
    guard text.utf8.count == 32, let upper = UInt64(text.prefix(16), radix: 16),
      let lower = UInt64(text.suffix(16), radix: 16)
    else { return nil }
    self.init(upper, lower)
  }

  /// Reads 16 bytes.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    self.init(try reader.integer("job"), try reader.integer("job"))
  }

  /// Writes 16 bytes.
  package func encode(to writer: inout ByteWriter) {
    writer.integer(upper)
    writer.integer(lower)
  }

  /// 32 hexadecimal digits.
  package var description: String { Self.digits(upper) + Self.digits(lower) }
  /// The first eight digits, which people type.
  package var short: String { String(description.prefix(8)) }

  /// Whether `left` comes first in lists.
  package static func < (left: JobID, right: JobID) -> Bool {
    (left.upper, left.lower) < (right.upper, right.lower)
  }

  private static func digits(_ word: UInt64) -> String {
    let text = String(word, radix: 16)
    return String(repeating: "0", count: 16 - text.count) + text
  }
}

/// Fences everything that devices send for a job: what carries another stamp than the receiver's is dropped.
package struct JobStamp: Hashable, Sendable, WireCodable {
  /// The job.
  package var job: JobID
  /// Changed only when an admin adopts a job that lost its majority.
  package var term: UInt32
  /// Number of the plan.
  package var epoch: UInt64

  /// A stamp.
  package init(job: JobID, term: UInt32, epoch: UInt64) {
    self.job = job
    self.term = term
    self.epoch = epoch
  }

  /// Reads 28 bytes.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    job = try JobID(from: &reader)
    term = try reader.integer("term")
    epoch = try reader.integer("plan epoch")
  }

  /// Writes 28 bytes.
  package func encode(to writer: inout ByteWriter) {
    job.encode(to: &writer)
    writer.integer(term)
    writer.integer(epoch)
  }
}
