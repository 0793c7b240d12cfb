package import CryptoPrimitives

/// Sizes of the records of a stream.
package enum RecordLimits {
  /// Bytes of the length before each record, little-endian.
  package static let lengthByteCount = 2
  /// Bytes of the longest record, tag included.
  package static let recordByteCount = 65_535
  /// Bytes of the longest message in a record.
  package static let messageByteCount = recordByteCount - ChaChaPoly.tagByteCount
  /// Records under one key; then both sides replace it (Noise §4.2).
  package static let recordsPerKey: UInt64 = 1 << 20
}

/// Why a record was refused; nothing more can be read from its stream.
package enum RecordFailure: Error, Equatable, Sendable, CustomStringConvertible {
  /// The record is shorter than a tag or longer than the limit.
  case badLength(Int)
  /// The tag does not fit: bytes were changed, or records left out, repeated or reordered.
  case notAuthentic(record: UInt64)
  /// An earlier record was refused.
  case alreadyBroken

  /// What is wrong with which record.
  package var description: String {
    switch self {
    case .badLength(let byteCount):
      "a record of \(byteCount) bytes; \(ChaChaPoly.tagByteCount) to \(RecordLimits.recordByteCount) are allowed"
    case .notAuthentic(let record):
      "record \(record) is not authentic or out of order; close the session and dial again"
    case .alreadyBroken: "an earlier record of this session was refused; close the session and dial again"
    }
  }
}

/// Seals the records that one side sends, in place; the counter is the number of the record.
///
/// The key is replaced after every 2^20 records, and whenever `rekeyRecord` says so to the other side.
package struct RecordSealer: ~Copyable, Sendable {
  private var cipher: BulkChaChaPoly
  private var counter: UInt64 = 0
  private let recordsPerKey: UInt64

  /// The sending half of a session; another number of records per key is for tests.
  package init(key: consuming SecretBytes, recordsPerKey: UInt64 = RecordLimits.recordsPerKey) {
    cipher = BulkChaChaPoly(key: key, .sealing)
    self.recordsPerKey = recordsPerKey
  }

  /// How many records have been sealed.
  package var sealedCount: UInt64 { counter }

  /// Seals the message that fills the buffer up to its last 16 bytes; the whole buffer is the record.
  ///
  /// - Parameter tail: the end of the message, where it lies elsewhere; the buffer's bytes in its place are not read.
  package mutating func seal(
    _ record: UnsafeMutableRawBufferPointer, tail: UnsafeRawBufferPointer = .init(start: nil, count: 0)
  ) {
    precondition(
      record.count > ChaChaPoly.tagByteCount && record.count <= RecordLimits.recordByteCount,
      "a record of \(record.count) bytes; an empty message is kept for changing keys")
    sealNext(record, tail: tail)
  }

  /// The length and the record of a message; it copies, so bulk data is sealed in its own buffer instead.
  package mutating func framed(_ message: some Collection<UInt8>) -> [UInt8] {
    var frame = lengthPrefix(message.count + ChaChaPoly.tagByteCount)
    frame.reserveCapacity(frame.count + message.count + ChaChaPoly.tagByteCount)
    frame.append(contentsOf: message)
    frame.append(contentsOf: repeatElement(0, count: ChaChaPoly.tagByteCount))
    frame.withUnsafeMutableBytes {
      seal(UnsafeMutableRawBufferPointer(rebasing: $0[RecordLimits.lengthByteCount...]))
    }
    return frame
  }

  /// Replaces the key; the returned frame (an empty message) tells the other side to do so too.
  package mutating func rekeyFrame() -> [UInt8] {
    var frame = lengthPrefix(ChaChaPoly.tagByteCount)
    frame.append(contentsOf: repeatElement(0, count: ChaChaPoly.tagByteCount))
    frame.withUnsafeMutableBytes {
      sealNext(UnsafeMutableRawBufferPointer(rebasing: $0[RecordLimits.lengthByteCount...]))
    }
    cipher.rekey()
    return frame
  }

  private mutating func sealNext(
    _ record: UnsafeMutableRawBufferPointer, tail: UnsafeRawBufferPointer = .init(start: nil, count: 0)
  ) {
    precondition(counter < .max, "a session of 2^64 records")
    cipher.seal(record, tail: tail, counter: counter)
    counter += 1
    if counter % recordsPerKey == 0 { cipher.rekey() }
  }
}

/// Opens the records that the other side sends, in place and in their order.
package struct RecordOpener: ~Copyable, Sendable {
  private var cipher: BulkChaChaPoly
  private var counter: UInt64 = 0
  private let recordsPerKey: UInt64
  private var isBroken = false

  /// The receiving half of a session; another number of records per key is for tests.
  package init(key: consuming SecretBytes, recordsPerKey: UInt64 = RecordLimits.recordsPerKey) {
    cipher = BulkChaChaPoly(key: key, .opening)
    self.recordsPerKey = recordsPerKey
  }

  /// How many records have been opened.
  package var openedCount: UInt64 { counter }

  /// Opens a record; the message is the buffer's first bytes, as many as are returned.
  ///
  /// 0 means that the other side has replaced its key: there is no message, go on reading.
  package mutating func open(_ record: UnsafeMutableRawBufferPointer) throws(RecordFailure) -> Int {
    guard !isBroken else { throw .alreadyBroken }
    guard (ChaChaPoly.tagByteCount...RecordLimits.recordByteCount).contains(record.count) else {
      isBroken = true
      throw .badLength(record.count)
    }
    guard counter < .max, cipher.open(record, counter: counter) else {
      isBroken = true
      throw .notAuthentic(record: counter)
    }
    counter += 1
    if counter % recordsPerKey == 0 { cipher.rekey() }
    let messageByteCount = record.count - ChaChaPoly.tagByteCount
    if messageByteCount == 0 { cipher.rekey() }
    return messageByteCount
  }

  /// The message of a record, without its length; it copies.
  package mutating func opened(_ record: some Collection<UInt8>) throws(RecordFailure) -> [UInt8] {
    var bytes = Array(record)
    let result = bytes.withUnsafeMutableBytes { buffer in
      Result { () throws(RecordFailure) in try open(buffer) }
    }
    let count = try result.get()
    bytes.removeLast(bytes.count - count)
    return bytes
  }
}

/// The length before a record or handshake message of `byteCount` bytes.
func lengthPrefix(_ byteCount: Int) -> [UInt8] {
  precondition(
    (0...RecordLimits.recordByteCount).contains(byteCount), "a length of \(byteCount) does not fit 16 bits")
  return [UInt8(byteCount & 0xFF), UInt8(byteCount >> 8)]
}
