import MeshModel
import MeshProtocol
import NIOCore
import SecureChannel
import Synchronization

extension MeshFrame {
  /// Longest body: a record less its tag and the frame's header.
  package static let bodyByteCount = RecordLimits.messageByteCount - headerByteCount

  /// The frame that a record's message holds; nil when its kind or a flag is not known.
  ///
  /// The same as decoding, without the copies that it makes of long bodies.
  init?(message: UnsafeRawBufferPointer) {
    guard message.count >= Self.headerByteCount, let kind = FrameKind(rawValue: message[0]), message[1] == 0
    else { return nil }
    self.init(
      kind, channel: UInt16(littleEndian: message.loadUnaligned(fromByteOffset: 2, as: UInt16.self)),
      request: UInt32(littleEndian: message.loadUnaligned(fromByteOffset: 4, as: UInt32.self)),
      body: Array(UnsafeRawBufferPointer(rebasing: message[Self.headerByteCount...])))
  }

  /// Bytes of the frame's record on the stream, its length and tag included.
  var streamByteCount: Int {
    RecordLimits.lengthByteCount + Self.headerByteCount + body.count + recordTagByteCount
  }

  /// Writes length and message to an empty buffer and seals the record where it lies.
  func seal(with keys: SessionKeys, into buffer: inout ByteBuffer) {
    let message = Self.headerByteCount + body.count
    buffer.writeInteger(UInt16(message + recordTagByteCount), endianness: .little)
    buffer.writeInteger(kind.rawValue)
    buffer.writeInteger(UInt8(0))
    buffer.writeInteger(channel, endianness: .little)
    buffer.writeInteger(request, endianness: .little)
    buffer.writeBytes(body)
    buffer.writeRepeatingByte(0, count: recordTagByteCount)
    buffer.withUnsafeMutableReadableBytes { bytes in
      keys.sealer.seal(UnsafeMutableRawBufferPointer(rebasing: bytes[RecordLimits.lengthByteCount...]))
    }
  }
}

/// Bytes of a record's tag.
let recordTagByteCount = RecordLimits.recordByteCount - RecordLimits.messageByteCount

/// The record keys of one session, used only where its connection lives.
final class SessionKeys {
  var sealer: RecordSealer
  var opener: RecordOpener

  init(sealer: consuming RecordSealer, opener: consuming RecordOpener) {
    self.sealer = sealer
    self.opener = opener
  }
}

/// The datagram keys of one control session; any thread may use them.
final class DatagramKeys: Sendable {
  private let sealer: Mutex<DatagramSealer>
  private let opener: Mutex<DatagramOpener>
  /// Where the other side was last seen to send from.
  private let path: Mutex<NetworkAddress>
  let index: UInt32

  init(
    sealer: consuming DatagramSealer, opener: consuming DatagramOpener, index: UInt32, path: NetworkAddress
  ) {
    self.sealer = Mutex(sealer)
    self.opener = Mutex(opener)
    self.index = index
    self.path = Mutex(path)
  }

  /// The datagram of a body, and where to send it.
  func seal(_ body: [UInt8]) -> (datagram: [UInt8], address: NetworkAddress) {
    (sealer.withLock { $0.sealed(body) }, path.withLock { $0 })
  }

  /// The body of a datagram; an authentic one moves the path to where it came from.
  func open(_ datagram: [UInt8], from source: NetworkAddress) -> Result<[UInt8], DatagramFailure> {
    let result = opener.withLock { opener in
      Result { () throws(DatagramFailure) in try opener.opened(datagram) }
    }
    if case .success = result { path.withLock { $0 = source } }
    return result
  }
}
