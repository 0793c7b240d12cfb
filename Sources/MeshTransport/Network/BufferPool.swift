import NIOCore

/// Buffers for records on their way to the kernel, used again when the kernel has taken them.
///
/// A bulk stream seals thousands of records of 64 KiB a second; with a few buffers in turn they stay in the cache.
struct BufferPool {
  /// Buffers that are kept.
  private static let limit = 16
  /// Smaller ones are not worth keeping.
  private static let smallest = 8 << 10

  private var kept: [ByteBuffer?] = []
  private var next = 0

  /// An empty buffer for so many bytes, that nobody else holds.
  mutating func take(_ byteCount: Int, from allocator: ByteBufferAllocator) -> ByteBuffer {
    guard byteCount >= Self.smallest, kept.count == Self.limit else {
      return allocator.buffer(capacity: byteCount)
    }
    var oldest = kept[next]
    kept[next] = nil
    // Somebody else's reference means that the kernel has not taken it yet.
    let isFree = oldest?.modifyIfUniquelyOwned { $0.clear(minimumCapacity: byteCount) } != nil
    return isFree ? oldest! : allocator.buffer(capacity: byteCount)
  }

  /// Remembers a buffer that is given to the kernel.
  mutating func keep(_ buffer: ByteBuffer) {
    guard buffer.readableBytes >= Self.smallest else { return }
    if kept.count < Self.limit {
      kept.append(buffer)
    } else {
      kept[next] = buffer
      next = (next + 1) % Self.limit
    }
  }
}
