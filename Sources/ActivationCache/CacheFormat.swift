import CryptoPrimitives
import TensorKernels

/// Sizes, names and limits of the cache's files; docs/FILE-FORMATS.md has the byte tables.
package enum CacheFormat {
  /// Version of all files of a cache.
  package static let version: UInt32 = 1
  /// Name of the manifest.
  package static let manifestName = "manifest.json"
  /// Bytes of a file header, a record header and an index entry, each.
  package static let headerBytes = 64
  /// Most shards of one cache.
  package static let maximumShards = 100_000
  /// Longest payload of one record.
  package static let maximumPayloadBytes = 1 << 40
  /// Longest index that is read.
  package static let maximumIndexBytes = 1 << 30
  /// Longest manifest that is read.
  package static let maximumManifestBytes = 1 << 24
  /// Length at which a new shard is started, unless the caller chooses another.
  package static let defaultShardLimit = 1 << 30

  /// Name of a shard.
  static func shardName(_ ordinal: Int) -> String { fiveDigits(ordinal) + ".shard" }
  /// Name of a shard's index.
  static func indexName(_ ordinal: Int) -> String { fiveDigits(ordinal) + ".index" }

  /// Whether a file of this name is one that a cache writes.
  package static func isCacheFile(_ name: String) -> Bool {
    name == manifestName || ordinal(name, suffix: ".shard") != nil || ordinal(name, suffix: ".index") != nil
  }

  /// The ordinal in a name with the given suffix, or nil.
  static func ordinal(_ name: String, suffix: String) -> Int? {
    guard name.hasSuffix(suffix) else { return nil }
    let digits = name.dropLast(suffix.count)
    guard digits.utf8.count == 5, digits.utf8.allSatisfy({ (48...57).contains($0) }) else { return nil }
    return Int(digits)
  }

  private static func fiveDigits(_ number: Int) -> String {
    let digits = String(number)
    return String(repeating: "0", count: max(0, 5 - digits.utf8.count)) + digits
  }
}

/// The first 64 bytes of a shard or an index: which cache and which shard the file belongs to.
struct CacheFileHeader: Equatable {
  enum Kind: UInt64 {
    // "HRTHTAPS" and "HRTHTIDX" as little-endian integers.
    case shard = 0x5350_4154_4854_5248
    case index = 0x5844_4954_4854_5248
  }

  var kind: Kind
  var identityDigest: ContentDigest
  var ordinal: Int

  /// The checksum of the header, which also seeds the checksums of the file's records or entries, so that a
  /// record is valid only in the file that it was written to.
  var checksum: UInt32 { crc32c(of: bytes.dropLast(4)) }

  var bytes: [UInt8] {
    var writer = FieldWriter()
    writer.put(kind.rawValue)
    writer.put(CacheFormat.version)
    writer.put(UInt32(CacheFormat.headerBytes))
    writer.bytes += identityDigest.bytes
    writer.put(UInt32(ordinal))
    writer.put(UInt64(0))
    writer.put(crc32c(of: writer.bytes[...]))
    return writer.bytes
  }

  /// What the first bytes of a file are, compared with this header.
  enum Comparison: Equatable {
    case matching
    case damaged(reason: String)
    case foreign(reason: String)
  }

  /// Compares the first 64 bytes of a file, or as many as it has.
  func check(_ found: ArraySlice<UInt8>) -> Comparison {
    guard found.count == CacheFormat.headerBytes else {
      return .damaged(
        reason: "it has \(found.count) bytes, its header alone needs \(CacheFormat.headerBytes)")
    }
    if Array(found) == bytes { return .matching }
    var reader = FieldReader(bytes: Array(found))
    guard reader.take(UInt64.self) == kind.rawValue else {
      return .damaged(reason: "it does not begin like one")
    }
    guard crc32c(of: found.dropLast(4)) == FieldReader.last(UInt32.self, of: Array(found)) else {
      return .damaged(reason: "the checksum of its header is wrong")
    }
    let version = reader.take(UInt32.self)
    return version == CacheFormat.version
      ? .foreign(reason: "it belongs to another cache or to another place in this one")
      : .foreign(reason: "it has format version \(version), this program reads \(CacheFormat.version)")
  }
}

/// Where a record is and what it holds: the content of a record's header and of an index entry.
struct CacheRecord: Equatable {
  // "TAPR" and "TAPE" as little-endian integers.
  static let recordMagic: UInt32 = 0x5250_4154
  static let entryMagic: UInt32 = 0x4550_4154

  var key: SampleKey
  var shape: CacheRecordShape
  /// Position of the record's header in its shard.
  var offset: Int
  var payloadBytes: Int
  var payloadChecksum: UInt32
  /// Whether the payload was found damaged; the entry then only marks the bytes as dead.
  var isDropped = false

  /// Position after the record.
  var end: Int { offset + CacheFormat.headerBytes + payloadBytes }

  /// The 64 bytes before the payload (`magic` of a record) or in the index (`magic` of an entry).
  func bytes(magic: UInt32, seed: UInt32) -> [UInt8] {
    var writer = FieldWriter()
    writer.put(magic)
    writer.put(UInt32(isDropped ? 1 : 0))
    writer.put(key.high.byteSwapped)
    writer.put(key.low.byteSwapped)
    writer.put(UInt64(offset))
    for stack in 0..<CacheIdentity.maximumStacks { writer.put(shape.counts[stack]) }
    // 40 bits of length leave the field's upper bits zero.
    writer.put(UInt64(payloadBytes))
    writer.put(payloadChecksum)
    writer.put(crc32c(of: writer.bytes[...], seed: seed))
    return writer.bytes
  }

  /// Reads 64 bytes; nil when the checksum or any field is not as this layout needs it.
  init?(_ bytes: ArraySlice<UInt8>, magic: UInt32, seed: UInt32, layout: CacheLayout) {
    guard bytes.count == CacheFormat.headerBytes,
      crc32c(of: bytes.dropLast(4), seed: seed) == FieldReader.last(UInt32.self, of: Array(bytes))
    else { return nil }
    var reader = FieldReader(bytes: Array(bytes))
    guard reader.take(UInt32.self) == magic else { return nil }
    let flags = reader.take(UInt32.self)
    let key = SampleKey(high: reader.take(UInt64.self).byteSwapped, low: reader.take(UInt64.self).byteSwapped)
    let offset = reader.take(UInt64.self)
    var counts = SIMD4<UInt32>()
    for stack in 0..<CacheIdentity.maximumStacks { counts[stack] = reader.take(UInt32.self) }
    let payloadBytes = reader.take(UInt64.self)
    guard flags <= 1, let shape = CacheRecordShape(counts: counts), offset < UInt64(Int64.max) / 2,
      payloadBytes <= UInt64(CacheFormat.maximumPayloadBytes),
      flags == 1 || (layout.admits(shape) && layout.payloadBytes(shape) == Int(payloadBytes))
    else { return nil }
    self.init(
      key: key, shape: shape, offset: Int(offset), payloadBytes: Int(payloadBytes),
      payloadChecksum: reader.take(UInt32.self), isDropped: flags == 1)
  }

  init(
    key: SampleKey, shape: CacheRecordShape, offset: Int, payloadBytes: Int, payloadChecksum: UInt32,
    isDropped: Bool = false
  ) {
    self.key = key
    self.shape = shape
    self.offset = offset
    self.payloadBytes = payloadBytes
    self.payloadChecksum = payloadChecksum
    self.isDropped = isDropped
  }
}

/// Appends integers as little-endian bytes.
struct FieldWriter {
  var bytes: [UInt8] = []

  mutating func put(_ value: some FixedWidthInteger) {
    withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
  }
}

/// Takes little-endian integers from bytes whose length the caller has checked.
struct FieldReader {
  var bytes: [UInt8]
  var position = 0

  mutating func take<Integer: FixedWidthInteger>(_ type: Integer.Type) -> Integer {
    defer { position += MemoryLayout<Integer>.size }
    return bytes.withUnsafeBytes {
      Integer(littleEndian: $0.loadUnaligned(fromByteOffset: position, as: Integer.self))
    }
  }

  static func last<Integer: FixedWidthInteger>(_ type: Integer.Type, of bytes: [UInt8]) -> Integer {
    var reader = FieldReader(bytes: bytes, position: bytes.count - MemoryLayout<Integer>.size)
    return reader.take(type)
  }
}

/// CRC-32C of bytes in an array.
func crc32c(of bytes: ArraySlice<UInt8>, seed: UInt32 = 0) -> UInt32 {
  bytes.withUnsafeBytes { crc32c($0, seed: seed) }
}
