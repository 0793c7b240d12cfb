import CryptoPrimitives
import WireCoding

/// One file of the household's state: a header, the payload and a digest over both.
///
/// The digest finds torn and rotten files; it does not protect against who can write here, the permissions do.
enum HouseholdFile: UInt32, CaseIterable {
  case identity = 1
  case boot = 2
  case log = 3
  case peers = 4
  case invites = 5

  static let formatVersion: UInt32 = 1
  private static let magic = Array("HRTHHOME".utf8)
  private static let headerByteCount = 8 + 4 + 4 + 4

  /// The file's name in the directory.
  var name: String {
    switch self {
    case .identity: "identity"
    case .boot: "boot"
    case .log: "log"
    case .peers: "peers"
    case .invites: "invites"
    }
  }

  /// Bytes of the longest payload.
  var payloadLimit: Int {
    switch self {
    case .identity: 1024
    case .boot: 4
    case .log: 32 << 20
    case .peers: 64 << 10
    case .invites: 16 << 10
    }
  }

  /// Bytes of the longest file.
  var byteLimit: Int { Self.headerByteCount + payloadLimit + ContentDigest.byteCount }

  /// The whole file of a payload; the caller wipes both when they are secret.
  func bytes(payload: [UInt8]) -> [UInt8] {
    precondition(payload.count <= payloadLimit, "\(name) of \(payload.count) bytes")
    var writer = ByteWriter(reserving: Self.headerByteCount + payload.count + ContentDigest.byteCount)
    writer.raw(Self.magic)
    writer.integer(rawValue)
    writer.integer(Self.formatVersion)
    writer.integer(UInt32(payload.count))
    writer.raw(payload)
    writer.raw(Self.digest(of: writer.bytes[...]).bytes)
    return writer.bytes
  }

  /// Where the payload is in the bytes of a file.
  func payload(of bytes: [UInt8], path: String) throws(HouseholdStorageFailure) -> Range<Int> {
    let frame: Frame
    do throws(DecodingFailure) { frame = try Frame(bytes) } catch {
      throw .damaged(path: path, reason: error.description)
    }
    guard frame.magic == Self.magic else {
      throw .damaged(path: path, reason: "it does not begin like a file of a household")
    }
    guard frame.digest == Self.digest(of: bytes.prefix(frame.payload.upperBound)) else {
      throw .damaged(path: path, reason: "its digest does not fit")
    }
    guard frame.kind == rawValue else {
      throw .damaged(path: path, reason: "it holds another kind of state")
    }
    guard frame.version == Self.formatVersion else {
      throw .newerFormat(path: path, version: frame.version, known: Self.formatVersion)
    }
    return frame.payload
  }

  private struct Frame {
    let magic: [UInt8]
    let kind: UInt32
    let version: UInt32
    let payload: Range<Int>
    let digest: ContentDigest?

    init(_ bytes: [UInt8]) throws(DecodingFailure) {
      var reader = ByteReader(bytes)
      magic = Array(try reader.bytes("magic", count: HouseholdFile.magic.count))
      kind = try reader.integer("kind")
      version = try reader.integer("format version")
      let count = Int(try reader.integer("payload length", as: UInt32.self))
      _ = try reader.bytes("payload", count: count)
      payload = HouseholdFile.headerByteCount..<(HouseholdFile.headerByteCount + count)
      digest = ContentDigest(bytes: try reader.bytes("digest", count: ContentDigest.byteCount))
      try reader.finish()
    }
  }

  private static func digest(of bytes: ArraySlice<UInt8>) -> ContentDigest {
    var hasher = ContentHasher()
    bytes.withUnsafeBytes { hasher.update($0) }
    return hasher.finalize()
  }
}
