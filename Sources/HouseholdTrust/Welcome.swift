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
    var entries: [LogEntry] = []
    for _ in 0..<(try reader.count("log entries", limit: Self.entryLimit)) {
      entries.append(try LogEntry(from: &reader))
    }
    self.entries = entries
  }

  /// Writes the welcome.
  package func encode(to writer: inout ByteWriter) {
    genesis.encode(to: &writer)
    writer.count(entries.count)
    for entry in entries { entry.encode(to: &writer) }
  }
}
