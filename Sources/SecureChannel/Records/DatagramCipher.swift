package import CryptoPrimitives
import WireCoding

/// Sizes of a datagram: type and version u8, receiver's index u24, counter u64, ciphertext, tag.
package enum DatagramLimits {
  /// Type and version, the only ones there are.
  package static let kind: UInt8 = 0x11
  /// Bytes before the ciphertext; they are authenticated.
  package static let headerByteCount = 12
  /// Bytes beside the body.
  package static let overheadByteCount = headerByteCount + ChaChaPoly.tagByteCount
  /// Bytes of the longest datagram, which fits every household's links.
  package static let datagramByteCount = 1_200
  /// Bytes of the longest body.
  package static let bodyByteCount = datagramByteCount - overheadByteCount
  /// The largest index that a receiver gives to its side of a session.
  package static let largestIndex: UInt32 = 0xFF_FFFF
}

/// Why a datagram was dropped; the next one may be good.
package enum DatagramFailure: Error, Equatable, Sendable, CustomStringConvertible {
  /// Too short or too long, or of another type or version.
  case malformed(byteCount: Int)
  /// The counter was seen, or is older than the window.
  case replayed(counter: UInt64)
  /// The tag does not fit.
  case notAuthentic(counter: UInt64)

  /// What is wrong.
  package var description: String {
    switch self {
    case .malformed(let byteCount): "a datagram of \(byteCount) bytes that is none of ours; it is dropped"
    case .replayed(let counter): "datagram \(counter) came again or too late; it is dropped"
    case .notAuthentic(let counter): "datagram \(counter) is not authentic; it is dropped"
    }
  }
}

/// Seals the datagrams that one side of a session sends.
package struct DatagramSealer: ~Copyable, Sendable {
  private let cipher: ChaChaPoly
  private let index: UInt32
  private var counter: UInt64 = 0

  /// The sending half: a key that this side has drawn, and the index that the receiver has told.
  package init(key: consuming SecretBytes, receiverIndex: UInt32) {
    precondition(receiverIndex <= DatagramLimits.largestIndex, "a receiver's index of \(receiverIndex)")
    cipher = ChaChaPoly(key: key)
    index = receiverIndex
  }

  /// The datagram of a body.
  package mutating func sealed(_ body: [UInt8]) -> [UInt8] {
    precondition(body.count <= DatagramLimits.bodyByteCount, "a datagram body of \(body.count) bytes")
    precondition(counter < .max, "a session of 2^64 datagrams")
    var datagram = ByteWriter(reserving: body.count + DatagramLimits.overheadByteCount)
    datagram.integer(index << 8 | UInt32(DatagramLimits.kind))
    datagram.integer(counter)
    let header = datagram.bytes
    datagram.raw(body)
    var bytes = datagram.bytes
    bytes.append(contentsOf: repeatElement(0, count: ChaChaPoly.tagByteCount))
    bytes.withUnsafeMutableBytes { buffer in
      header.withUnsafeBytes { header in
        cipher.seal(
          UnsafeMutableRawBufferPointer(rebasing: buffer[DatagramLimits.headerByteCount...]),
          counter: counter, associated: header)
      }
    }
    counter += 1
    return bytes
  }
}

/// Opens the datagrams that the other side of a session sends, in any order, each once.
package struct DatagramOpener: ~Copyable, Sendable {
  private let cipher: ChaChaPoly
  private var window = ReplayWindow()

  /// The receiving half: the key that the other side has drawn and told.
  package init(key: consuming SecretBytes) {
    cipher = ChaChaPoly(key: key)
  }

  /// The body of a datagram.
  package mutating func opened(_ datagram: [UInt8]) throws(DatagramFailure) -> [UInt8] {
    guard let header = DatagramHeader(of: datagram) else { throw .malformed(byteCount: datagram.count) }
    // The cheap test first: a flood of replays costs no decryption.
    guard window.isFresh(header.counter) else { throw .replayed(counter: header.counter) }
    let body = cipher.opened(
      datagram[DatagramLimits.headerByteCount...], counter: header.counter,
      associated: Array(datagram.prefix(DatagramLimits.headerByteCount)))
    guard let body else { throw .notAuthentic(counter: header.counter) }
    guard window.insert(header.counter) else { throw .replayed(counter: header.counter) }
    return body
  }
}

/// What stands in clear at the head of a datagram.
package struct DatagramHeader: Hashable, Sendable {
  /// The index that the receiver gave to its side of the session, by which it finds the key.
  package let receiverIndex: UInt32
  /// The number of the datagram in its session and direction.
  package let counter: UInt64

  /// The header of a datagram; nil when its length, type or version is none of ours.
  package init?(of datagram: [UInt8]) {
    guard (DatagramLimits.overheadByteCount...DatagramLimits.datagramByteCount).contains(datagram.count)
    else {
      return nil
    }
    var reader = ByteReader(datagram)
    guard let first = try? reader.integer("datagram kind and index", as: UInt32.self),
      UInt8(truncatingIfNeeded: first) == DatagramLimits.kind,
      let counter = try? reader.integer("datagram counter", as: UInt64.self)
    else { return nil }
    receiverIndex = first >> 8
    self.counter = counter
  }
}
