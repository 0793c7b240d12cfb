package import HouseholdTrust
package import WireCoding

/// What two devices say to each other about the membership log, in frames of the kind `trustLog`.
///
/// On the wire: kind u8; then for a summary a byte that asks for an answer and the summary, for entries a count u16
/// and each entry with a length u16 before it.
package enum LogMessage: Sendable, WireCodable {
  /// What the sender has; with `wantsReply` it asks for what it lacks.
  case summary(LogSummary, wantsReply: Bool)
  /// Entries that the other side seemed to lack.
  case entries([LogEntry])

  /// Reads a message; entries are decoded, not verified.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    let kind = try reader.integer("log message", as: UInt8.self)
    switch kind {
    case 1:
      let wantsReply = try reader.flag("wants reply")
      self = .summary(try LogSummary(from: &reader), wantsReply: wantsReply)
    case 2:
      var entries: [LogEntry] = []
      for _ in 0..<(try reader.count("log entries", limit: MeshLimits.entriesPerFrame)) {
        let bytes = try reader.lengthPrefixed("log entry", limit: TrustLimits.entryBytes)
        entries.append(try LogEntry(decoding: bytes))
      }
      self = .entries(entries)
    default: throw .invalid(field: "log message", value: UInt64(kind))
    }
  }

  /// Writes the message.
  package func encode(to writer: inout ByteWriter) {
    switch self {
    case .summary(let summary, let wantsReply):
      writer.integer(UInt8(1))
      writer.flag(wantsReply)
      summary.encode(to: &writer)
    case .entries(let entries):
      writer.integer(UInt8(2))
      writer.count(entries.count)
      for entry in entries { writer.lengthPrefixed(entry.encoded) }
    }
  }

  /// The entries in as many messages as their sizes need, in their order.
  package static func messages(of entries: [LogEntry]) -> [LogMessage] {
    var messages: [LogMessage] = []
    var part: [LogEntry] = []
    var size = 3
    for entry in entries {
      let bytes = 2 + entry.encoded.count
      if !part.isEmpty, part.count == MeshLimits.entriesPerFrame || size + bytes > MeshLimits.frameBody {
        messages.append(.entries(part))
        part = []
        size = 3
      }
      part.append(entry)
      size += bytes
    }
    if !part.isEmpty { messages.append(.entries(part)) }
    return messages
  }
}
