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
    RecordLimits.lengthByteCount + Self.headerByteCount + contentByteCount + recordTagByteCount
  }

  /// Writes length and message to an empty buffer and seals the record there; the tail is read where it lies.
  func seal(with keys: SessionKeys, into buffer: inout ByteBuffer) {
    let message = Self.headerByteCount + contentByteCount
    buffer.writeInteger(UInt16(message + recordTagByteCount), endianness: .little)
    buffer.writeInteger(kind.rawValue)
    buffer.writeInteger(UInt8(0))
    buffer.writeInteger(channel, endianness: .little)
    buffer.writeInteger(request, endianness: .little)
    buffer.writeBytes(body)
    // For what the cipher writes: the sealed tail and the tag.
    buffer.reserveCapacity(minimumWritableBytes: tail.count + recordTagByteCount)
    buffer.moveWriterIndex(forwardBy: tail.count + recordTagByteCount)
    buffer.withUnsafeMutableReadableBytes { bytes in
      let record = UnsafeMutableRawBufferPointer(rebasing: bytes[RecordLimits.lengthByteCount...])
      tail.withUnsafeBytes { keys.seal(record, tail: $0) }
    }
  }
}

/// A frame of bulk data where it was decrypted.
package struct BulkFrame {
  /// Which of several streams.
  package let channel: UInt16
  /// Which request, or message, it belongs to.
  package let request: UInt32
  /// What is said; valid during the call that hands it over.
  package let body: UnsafeRawBufferPointer

  /// A view of a frame's parts.
  package init(channel: UInt16, request: UInt32, body: UnsafeRawBufferPointer) {
    self.channel = channel
    self.request = request
    self.body = body
  }

  /// The frame that a record's message holds; nil when it is none of bulk data.
  init?(message: UnsafeRawBufferPointer) {
    guard message.count >= MeshFrame.headerByteCount, message[0] == FrameKind.bulk.rawValue, message[1] == 0
    else { return nil }
    channel = UInt16(littleEndian: message.loadUnaligned(fromByteOffset: 2, as: UInt16.self))
    request = UInt32(littleEndian: message.loadUnaligned(fromByteOffset: 4, as: UInt32.self))
    body = UnsafeRawBufferPointer(rebasing: message[MeshFrame.headerByteCount...])
  }
}

/// Bytes of a record's tag.
let recordTagByteCount = RecordLimits.recordByteCount - RecordLimits.messageByteCount

/// The record keys of one session, used only where its connection lives.
final class SessionKeys {
  private var ciphers: RecordCiphers

  init(_ ciphers: consuming RecordCiphers) {
    self.ciphers = ciphers
  }

  /// Seals the message that fills the buffer up to its last 16 bytes; its end is read from `tail`.
  func seal(_ record: UnsafeMutableRawBufferPointer, tail: UnsafeRawBufferPointer) {
    ciphers.sealer.seal(record, tail: tail)
  }

  /// Opens a record in place; bytes of its message, 0 when the other side has changed its key.
  func open(_ record: UnsafeMutableRawBufferPointer) throws(RecordFailure) -> Int {
    try ciphers.opener.open(record)
  }

  /// Changes the sending key; the frame that tells so.
  func rekeyFrame() -> [UInt8] { ciphers.sealer.rekeyFrame() }
}

/// The datagram keys of one control session; any thread may use them.
final class DatagramKeys: Sendable {
  private let ciphers: Mutex<DatagramCiphers>
  /// Where the other side was last seen to send from.
  private let path: Mutex<NetworkAddress>
  let index: UInt32

  init(_ ciphers: consuming DatagramCiphers, index: UInt32, path: NetworkAddress) {
    self.ciphers = Mutex(ciphers)
    self.index = index
    self.path = Mutex(path)
  }

  /// The datagram of a body, and where to send it.
  func seal(_ body: [UInt8]) -> (datagram: [UInt8], address: NetworkAddress) {
    (ciphers.withLock { $0.sealer.sealed(body) }, path.withLock { $0 })
  }

  /// The body of a datagram; an authentic one moves the path to where it came from.
  func open(_ datagram: [UInt8], from source: NetworkAddress) -> Result<[UInt8], DatagramFailure> {
    let result = ciphers.withLock { ciphers in
      Result { () throws(DatagramFailure) in try ciphers.opener.opened(datagram) }
    }
    if case .success = result { path.withLock { $0 = source } }
    return result
  }
}
