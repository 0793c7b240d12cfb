import WireCoding

/// What the receiver of a burst answers to its last frame.
///
/// On the wire: verdict u8, bytes of the burst u32.
struct BurstReport: Hashable, Sendable, WireCodable {
  /// What became of the burst.
  enum Verdict: UInt8, Hashable, Sendable, CaseIterable {
    /// It was received.
    case received = 0
    /// Another survey is under way here.
    case busy = 1
    /// The last one from the same device was too short a time ago.
    case tooOften = 2
  }

  /// What became of it.
  let verdict: Verdict
  /// Bytes that the burst's frames carried.
  let byteCount: UInt32

  init(_ verdict: Verdict, byteCount: Int) {
    self.verdict = verdict
    self.byteCount = UInt32(clamping: byteCount)
  }

  /// Reads a report.
  init(from reader: inout ByteReader) throws(DecodingFailure) {
    let value = try reader.integer("burst verdict", as: UInt8.self)
    guard let verdict = Verdict(rawValue: value) else {
      throw .invalid(field: "burst verdict", value: UInt64(value))
    }
    self.verdict = verdict
    byteCount = try reader.integer("burst bytes")
  }

  /// Writes the report.
  func encode(to writer: inout ByteWriter) {
    writer.integer(verdict.rawValue)
    writer.integer(byteCount)
  }
}
