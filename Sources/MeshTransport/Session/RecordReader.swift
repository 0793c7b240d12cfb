/// Cuts a stream into its messages: a length of 16 bits, little-endian, and so many bytes.
///
/// A message that lies whole in what arrived is handed out where it lies, to be decrypted in place; only one that
/// is spread over two arrivals is put together in memory of the reader's own.
package final class RecordReader {
  /// What came of reading on.
  package enum Step {
    /// The next message; valid until the next call, and may be overwritten.
    case message(UnsafeMutableRawBufferPointer)
    /// All that arrived is read.
    case more
    /// A message is announced that is longer than allowed.
    case overLimit(Int)
  }

  private var memory: UnsafeMutableRawPointer?
  private var capacity = 0
  /// Bytes in `memory`, the length included.
  private var held = 0

  /// A reader at the start of a stream.
  package init() {}

  /// Bytes of memory that the reader holds.
  package var memoryByteCount: Int { capacity }

  deinit { memory?.deallocate() }

  /// The next message of `input`, which shrinks by what is read.
  package func next(_ input: inout UnsafeMutableRawBufferPointer, limit: Int) -> Step {
    guard !input.isEmpty else { return .more }
    if held > 0 { return completed(&input, limit: limit) }
    guard input.count >= TransportLimits.lengthByteCount else {
      keep(&input, input.count)
      return .more
    }
    let count = length(at: UnsafeRawPointer(input.baseAddress!))
    guard count <= limit else { return .overLimit(count) }
    let whole = TransportLimits.lengthByteCount + count
    guard input.count >= whole else {
      keep(&input, input.count, reserving: whole)
      return .more
    }
    let message = UnsafeMutableRawBufferPointer(rebasing: input[TransportLimits.lengthByteCount..<whole])
    input = UnsafeMutableRawBufferPointer(rebasing: input[whole...])
    return .message(message)
  }

  /// Goes on with the message whose beginning is in `memory`.
  private func completed(_ input: inout UnsafeMutableRawBufferPointer, limit: Int) -> Step {
    if held < TransportLimits.lengthByteCount {
      keep(&input, min(input.count, TransportLimits.lengthByteCount - held))
      guard held == TransportLimits.lengthByteCount else { return .more }
    }
    let count = length(at: UnsafeRawPointer(memory!))
    guard count <= limit else { return .overLimit(count) }
    let whole = TransportLimits.lengthByteCount + count
    keep(&input, min(input.count, whole - held), reserving: whole)
    guard held == whole else { return .more }
    held = 0
    return .message(
      UnsafeMutableRawBufferPointer(start: memory! + TransportLimits.lengthByteCount, count: count))
  }

  private func keep(_ input: inout UnsafeMutableRawBufferPointer, _ count: Int, reserving whole: Int = 64) {
    reserve(max(whole, held + count))
    guard count > 0 else { return }
    (memory! + held).copyMemory(from: input.baseAddress!, byteCount: count)
    held += count
    input = UnsafeMutableRawBufferPointer(rebasing: input[count...])
  }

  private func reserve(_ count: Int) {
    guard count > capacity else { return }
    // A handshake needs little; the first long record goes to the full size at once.
    let larger =
      count <= TransportLimits.handshakeMessageByteCount
      ? count : TransportLimits.lengthByteCount + TransportLimits.recordByteCount
    let grown = UnsafeMutableRawPointer.allocate(byteCount: larger, alignment: 16)
    if let memory {
      grown.copyMemory(from: memory, byteCount: held)
      memory.deallocate()
    }
    memory = grown
    capacity = larger
  }

  private func length(at pointer: UnsafeRawPointer) -> Int {
    Int(UInt16(littleEndian: pointer.loadUnaligned(as: UInt16.self)))
  }
}
