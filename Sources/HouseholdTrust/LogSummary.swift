import CryptoPrimitives
package import WireCoding

/// What a device has of the membership log, small enough to send every few seconds.
///
/// Two devices with equal summaries have equal logs.
package struct LogSummary: Hashable, Sendable, WireCodable {
  /// The ends of one issuer's chain.
  package struct Heads: Hashable, Sendable {
    /// The issuer.
    package let issuer: EntryIssuer
    /// The ends in ascending order: one, unless the issuer's disk was copied.
    package let points: [ChainPoint]
  }

  static let digestByteCount = 16
  private static let issuerLimit = 2 * TrustLimits.devices + 1

  /// 16 bytes that stand for the whole set of entries.
  package let digest: [UInt8]
  /// How many entries there are.
  package let entryCount: UInt32
  /// The ends of all chains, in ascending order of their issuers; those of at most 513 issuers.
  package let heads: [Heads]

  /// The summary of a set of entries in ascending order of their digests.
  init(sortedDigests: [ContentDigest], heads: [Heads]) {
    var hasher = ContentHasher(digestByteCount: Self.digestByteCount)
    for digest in sortedDigests { hasher.update(bytes: digest.bytes) }
    digest = hasher.finalizeBytes()
    entryCount = UInt32(sortedDigests.count)
    self.heads = Array(heads.prefix(Self.issuerLimit))
  }

  /// Reads a summary.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    digest = Array(try reader.bytes("log digest", count: Self.digestByteCount))
    entryCount = try reader.integer("log entries")
    var heads: [Heads] = []
    for _ in 0..<(try reader.count("issuers", limit: Self.issuerLimit)) {
      let issuer = try EntryIssuer(from: &reader)
      if let last = heads.last, last.issuer >= issuer { throw .notAscending(field: "issuers") }
      let count = try reader.integer("chain ends", as: UInt8.self)
      guard (1...TrustLimits.headsPerIssuer).contains(Int(count)) else {
        throw .overLimit(field: "chain ends", value: UInt64(count), limit: TrustLimits.headsPerIssuer)
      }
      var points: [ChainPoint] = []
      for _ in 0..<count {
        let point = try ChainPoint(from: &reader)
        if let last = points.last, last >= point { throw .notAscending(field: "chain ends") }
        points.append(point)
      }
      heads.append(Heads(issuer: issuer, points: points))
    }
    self.heads = heads
  }

  /// Writes the summary.
  package func encode(to writer: inout ByteWriter) {
    writer.raw(digest)
    writer.integer(entryCount)
    writer.count(heads.count)
    for head in heads {
      head.issuer.encode(to: &writer)
      writer.integer(UInt8(head.points.count))
      for point in head.points { point.encode(to: &writer) }
    }
  }
}
