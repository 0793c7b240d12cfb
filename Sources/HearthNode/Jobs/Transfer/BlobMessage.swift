import CryptoPrimitives
import HearthStorage
import MeshProtocol
import TrainingCoordination
import WireCoding

/// The bounds of what devices say to each other about blobs.
package enum BlobMessageLimits {
  /// Bytes of an offer or a chunk in one frame.
  package static let part = 60 << 10
  /// Bytes of an offer: a manifest and a bit for each chunk.
  package static let offer = BlobManifest.encodedLimit + BlobLimits.chunks / 8
  /// Chunks in one question.
  package static let chunksInQuestion = 16
  /// Questions of one session that wait for their answer; more are refused.
  package static let waitingQuestions = 64
  /// Bytes of chunks that wait to be stored before a session is read no further.
  package static let waitingBytes = 32 << 20
}

/// What a frame of a bulk session says about a blob; its channel is `BulkStream.blob`.
enum BlobMessage: WireCodable {
  /// What do you have of this blob?
  case askOffer(JobID, ContentDigest)
  /// A part of the encoded manifest and the bits of the chunks behind it.
  case offer(ContentDigest, offset: Int, total: Int, ArraySlice<UInt8>)
  /// Send these chunks.
  case askChunks(JobID, ContentDigest, first: Int, count: Int)
  /// A part of a chunk.
  case chunk(ContentDigest, chunk: Int, offset: Int, total: Int, ArraySlice<UInt8>)
  /// The chunk, or the blob (nil), is not given.
  case refusal(ContentDigest, chunk: Int?)

  private enum Kind: UInt8 {
    case askOffer = 1
    case offer = 2
    case askChunks = 3
    case chunk = 4
    case refusal = 5
  }

  private static let whole = UInt32.max

  init(from reader: inout ByteReader) throws(DecodingFailure) {
    let value = try reader.integer("blob message", as: UInt8.self)
    guard let kind = Kind(rawValue: value) else {
      throw .invalid(field: "blob message", value: UInt64(value))
    }
    let job = kind == .askOffer || kind == .askChunks ? try JobID(from: &reader) : nil
    guard let blob = ContentDigest(bytes: try reader.bytes("blob", count: ContentDigest.byteCount)) else {
      preconditionFailure("a digest of \(ContentDigest.byteCount) bytes was not taken")
    }
    switch (kind, job) {
    case (.askOffer, let job?): self = .askOffer(job, blob)
    case (.askChunks, let job?):
      let first = try reader.chunk()
      let count = Int(try reader.integer("chunks", as: UInt16.self))
      guard count >= 1, count <= BlobMessageLimits.chunksInQuestion else {
        throw .overLimit(field: "chunks", value: UInt64(count), limit: BlobMessageLimits.chunksInQuestion)
      }
      self = .askChunks(job, blob, first: first, count: count)
    case (.chunk, _):
      let chunk = try reader.chunk()
      let (offset, total, part) = try reader.part(limit: BlobLimits.chunk)
      self = .chunk(blob, chunk: chunk, offset: offset, total: total, part)
    case (.refusal, _):
      let chunk = try reader.integer("chunk", as: UInt32.self)
      self = .refusal(blob, chunk: chunk == Self.whole ? nil : Int(chunk))
    default:
      let (offset, total, part) = try reader.part(limit: BlobMessageLimits.offer)
      self = .offer(blob, offset: offset, total: total, part)
    }
  }

  func encode(to writer: inout ByteWriter) {
    func begin(_ kind: Kind, _ blob: ContentDigest, for job: JobID? = nil) {
      writer.integer(kind.rawValue)
      job?.encode(to: &writer)
      writer.raw(blob.bytes)
    }
    func part(_ offset: Int, _ total: Int, _ bytes: ArraySlice<UInt8>) {
      writer.integer(UInt32(offset))
      writer.integer(UInt32(total))
      writer.raw(bytes)
    }
    switch self {
    case .askOffer(let job, let blob): begin(.askOffer, blob, for: job)
    case .offer(let blob, let offset, let total, let bytes):
      begin(.offer, blob)
      part(offset, total, bytes)
    case .askChunks(let job, let blob, let first, let count):
      begin(.askChunks, blob, for: job)
      writer.integer(UInt32(first))
      writer.integer(UInt16(count))
    case .chunk(let blob, let chunk, let offset, let total, let bytes):
      begin(.chunk, blob)
      writer.integer(UInt32(chunk))
      part(offset, total, bytes)
    case .refusal(let blob, let chunk):
      begin(.refusal, blob)
      writer.integer(chunk.map(UInt32.init) ?? Self.whole)
    }
  }

  /// The frame that says this.
  var frame: MeshFrame { MeshFrame(.bulk, channel: BulkStream.blob.rawValue, body: encoded) }

  /// The frames of an answer of many bytes.
  static func frames(
    of bytes: [UInt8], _ make: (_ offset: Int, _ total: Int, ArraySlice<UInt8>) -> BlobMessage
  ) -> [MeshFrame] {
    stride(from: 0, to: bytes.count, by: BlobMessageLimits.part).map { first in
      make(first, bytes.count, bytes[first..<min(bytes.count, first + BlobMessageLimits.part)]).frame
    }
  }
}

/// An answer of many bytes that comes in parts, in order.
struct BlobAssembly {
  private var total = 0
  private(set) var bytes: [UInt8] = []

  /// Adds a part; whether the answer is whole, nil when the part is not the next one.
  mutating func add(offset: Int, total: Int, _ part: ArraySlice<UInt8>) -> Bool? {
    if offset == 0 {
      bytes = []
      bytes.reserveCapacity(total)
      self.total = total
    }
    guard offset == bytes.count, total == self.total else { return nil }
    bytes += part
    return bytes.count == total
  }
}

extension ByteReader {
  fileprivate mutating func chunk() throws(DecodingFailure) -> Int {
    let chunk = try integer("chunk", as: UInt32.self)
    guard chunk < BlobLimits.chunks else {
      throw .overLimit(field: "chunk", value: UInt64(chunk), limit: BlobLimits.chunks)
    }
    return Int(chunk)
  }

  /// A part that lies in an answer of at most `limit` bytes.
  fileprivate mutating func part(
    limit: Int
  ) throws(DecodingFailure) -> (offset: Int, total: Int, part: ArraySlice<UInt8>) {
    let offset = Int(try integer("part offset", as: UInt32.self))
    let total = Int(try integer("answer length", as: UInt32.self))
    guard total <= limit else { throw .overLimit(field: "answer length", value: UInt64(total), limit: limit) }
    let part = rest()
    guard !part.isEmpty, offset + part.count <= total else {
      throw .invalid(field: "part offset", value: UInt64(offset))
    }
    return (offset, total, part)
  }
}
