package import WireCoding

/// What a device gets that was admitted: the household's genesis and its whole log, in which its certificate and its
/// sealed network key are.
package struct Welcome: Sendable, Equatable, WireCodable {
  /// Bytes of the longest welcome.
  package static let byteLimit = Genesis.byteCount + 4 + TrustLimits.logBytes + rootBytes
  private static let rootBytes = TrustLimits.rootEntries * TrustLimits.entryBytes
  private static let entryLimit = TrustLimits.deviceEntries + TrustLimits.rootEntries

  /// The household's genesis.
  package let genesis: Genesis
  /// The entries, each after those that it builds on.
  package let entries: [LogEntry]

  /// The welcome to the household of this log.
  package init(_ log: MembershipLog) {
    genesis = log.genesis
    entries = log.entries
  }

  /// The log; entries that do not belong in it are left out.
  package func log() -> MembershipLog {
    var log = MembershipLog(genesis: genesis)
    _ = log.merge(entries)
    return log
  }

  /// Reads a welcome; the signatures of its entries are not verified yet.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    genesis = try Genesis(from: &reader)
    entries = try decodeEntries(&reader, limit: Self.entryLimit)
  }

  /// Writes the welcome.
  package func encode(to writer: inout ByteWriter) {
    genesis.encode(to: &writer)
    encodeEntries(entries, to: &writer)
  }
}

/// A part of a log as one message: what a device sends to one that lacks it.
package struct LogPart: Sendable, Equatable, WireCodable {
  /// Bytes of the longest part that `parts` makes; fits a session's record.
  package static let byteLimit = 60_000

  /// The entries, each after those that it builds on.
  package let entries: [LogEntry]

  /// Cuts entries into parts that each fit one message, in their order.
  package static func parts(_ entries: [LogEntry]) -> [LogPart] {
    var parts: [LogPart] = []
    var open: [LogEntry] = []
    var size = 2
    for entry in entries {
      if size + entry.byteCount > byteLimit, !open.isEmpty {
        parts.append(LogPart(entries: open))
        open = []
        size = 2
      }
      open.append(entry)
      size += entry.byteCount
    }
    if !open.isEmpty { parts.append(LogPart(entries: open)) }
    return parts
  }

  private init(entries: [LogEntry]) { self.entries = entries }

  /// Reads a part; the signatures of its entries are not verified yet.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    entries = try decodeEntries(&reader, limit: TrustLimits.deviceEntries)
  }

  /// Writes the part.
  package func encode(to writer: inout ByteWriter) { encodeEntries(entries, to: &writer) }
}

private func decodeEntries(_ reader: inout ByteReader, limit: Int) throws(DecodingFailure) -> [LogEntry] {
  var entries: [LogEntry] = []
  for _ in 0..<(try reader.count("log entries", limit: limit)) { entries.append(try LogEntry(from: &reader)) }
  return entries
}

private func encodeEntries(_ entries: [LogEntry], to writer: inout ByteWriter) {
  writer.count(entries.count)
  for entry in entries { entry.encode(to: &writer) }
}
