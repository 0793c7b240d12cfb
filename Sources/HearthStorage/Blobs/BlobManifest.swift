package import CryptoPrimitives
package import WireCoding

/// The bounds of blobs: files that devices give each other in verified chunks.
package enum BlobLimits {
  /// Bytes of a chunk; the last of a blob has what is left.
  package static let chunk = 1 << 20
  /// Chunks of one blob, so that a manifest stays below about 2 MiB.
  package static let chunks = 1 << 16
  /// Blobs that one store knows.
  package static let blobs = 4096
}

/// What a blob consists of: its length, and the digest of each of its chunks.
///
/// The digest of a manifest's encoding names the blob, so whoever knows the name can verify the manifest, and by it every
/// chunk, whoever sent them.
package struct BlobManifest: Hashable, Sendable, WireCodable {
  private static let version: UInt8 = 1

  /// Bytes of the blob.
  package let byteCount: Int
  /// BLAKE2b-256 of each chunk.
  package let digests: [ContentDigest]

  /// A manifest of as many digests as the length asks for.
  package init(byteCount: Int, digests: [ContentDigest]) {
    precondition(
      digests.count == Self.chunkCount(byteCount) && digests.count <= BlobLimits.chunks,
      "\(digests.count) digests for \(byteCount) bytes")
    self.byteCount = byteCount
    self.digests = digests
  }

  /// Reads version u8, byte count u64, bytes of a chunk u32 and the digests.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    let version = try reader.integer("manifest version", as: UInt8.self)
    guard version == Self.version else { throw .invalid(field: "manifest version", value: UInt64(version)) }
    let byteCount = try reader.integer("blob length", as: UInt64.self)
    guard byteCount <= UInt64(BlobLimits.chunks * BlobLimits.chunk) else {
      throw .overLimit(field: "blob length", value: byteCount, limit: BlobLimits.chunks * BlobLimits.chunk)
    }
    let chunk = try reader.integer("bytes of a chunk", as: UInt32.self)
    guard chunk == UInt32(BlobLimits.chunk) else {
      throw .invalid(field: "bytes of a chunk", value: UInt64(chunk))
    }
    self.byteCount = Int(byteCount)
    var digests: [ContentDigest] = []
    for _ in 0..<Self.chunkCount(Int(byteCount)) {
      guard
        let digest = ContentDigest(bytes: try reader.bytes("chunk digest", count: ContentDigest.byteCount))
      else { preconditionFailure("a digest of \(ContentDigest.byteCount) bytes was not taken") }
      digests.append(digest)
    }
    self.digests = digests
  }

  /// Writes the same.
  package func encode(to writer: inout ByteWriter) {
    writer.integer(Self.version)
    writer.integer(UInt64(byteCount))
    writer.integer(UInt32(BlobLimits.chunk))
    for digest in digests { writer.raw(digest.bytes) }
  }

  /// Most bytes of an encoding.
  package static let encodedLimit = 13 + BlobLimits.chunks * ContentDigest.byteCount

  /// The blob's name: the digest of the encoding.
  package var id: ContentDigest { ContentDigest(of: encoded) }

  /// Chunks of the blob.
  package var chunkCount: Int { digests.count }

  /// Where a chunk lies in the blob.
  package func range(_ chunk: Int) -> Range<Int> {
    precondition(digests.indices ~= chunk, "chunk \(chunk) of \(digests.count)")
    return chunk * BlobLimits.chunk..<min(byteCount, (chunk + 1) * BlobLimits.chunk)
  }

  /// The chunks that hold a part of the blob.
  package func chunks(_ bytes: Range<Int>) -> Range<Int> {
    precondition(bytes.lowerBound >= 0 && bytes.upperBound <= byteCount, "bytes \(bytes) of \(byteCount)")
    guard !bytes.isEmpty else { return 0..<0 }
    return bytes.lowerBound / BlobLimits.chunk..<(bytes.upperBound - 1) / BlobLimits.chunk + 1
  }

  /// Whether these are the bytes of a chunk.
  package func verifies(_ bytes: [UInt8], as chunk: Int) -> Bool { verifies(HashedChunk(bytes), as: chunk) }

  /// Whether these are the bytes of a chunk, without another look at them.
  package func verifies(_ hashed: HashedChunk, as chunk: Int) -> Bool {
    guard digests.indices ~= chunk, hashed.bytes.count == range(chunk).count else { return false }
    return hashed.digest == digests[chunk]
  }

  private static func chunkCount(_ byteCount: Int) -> Int {
    (byteCount + BlobLimits.chunk - 1) / BlobLimits.chunk
  }
}

/// Bytes with their digest, which is taken once: whoever compares it with a manifest later need not read them again.
package struct HashedChunk: Hashable, Sendable {
  /// The bytes.
  package let bytes: [UInt8]
  /// Their BLAKE2b-256.
  package let digest: ContentDigest

  /// Takes the digest of some bytes.
  package init(_ bytes: [UInt8]) {
    self.bytes = bytes
    digest = ContentDigest(of: bytes)
  }
}
