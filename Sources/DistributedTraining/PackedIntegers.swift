import TensorKernels

/// Integers in as few bits each as the largest of their block needs: sums on a wire, exactly.
///
/// A gradient of 2^-18 under the exponent 34 is an integer of 17 bits. A message is the number of integers as a 32-bit word,
/// the width of each block of 256, and the blocks (docs/FILE-FORMATS.md, "Packed sums"). The last block's missing integers
/// are zero.
package enum PackedIntegers {
  /// Bytes before the widths.
  private static let headerBytes = MemoryLayout<UInt32>.size
  /// Most integers of a message.
  package static let limit = 1 << 24

  /// The message of 64-bit integers.
  package static func encode(_ integers: UnsafePointer<Int64>, count: Int) -> [UInt8] {
    precondition((0...limit).contains(count), "a message of \(count) integers")
    let (whole, rest) = count.quotientAndRemainder(dividingBy: packedBlockCount)
    let blocks = whole + (rest > 0 ? 1 : 0)
    return withUnsafeTemporaryAllocation(of: UInt8.self, capacity: blocks) { widths in
      withUnsafeTemporaryAllocation(of: Int64.self, capacity: packedBlockCount) { last in
        guard let widthsBase = widths.baseAddress, let lastBase = last.baseAddress else { return [] }
        packedWidths(integers, blocks: whole, into: widthsBase)
        if rest > 0 {
          last.initialize(repeating: 0)
          lastBase.update(from: integers + whole * packedBlockCount, count: rest)
          packedWidths(lastBase, blocks: 1, into: widthsBase + whole)
        }
        let size = headerBytes + blocks + widths.reduce(0) { $0 + packedBlockBytes(width: $1) }
        return [UInt8](unsafeUninitializedCapacity: size) { buffer, initialized in
          guard let base = buffer.baseAddress else { return }
          UnsafeMutableRawPointer(base).storeBytes(of: UInt32(count).littleEndian, as: UInt32.self)
          (base + headerBytes).update(from: widthsBase, count: blocks)
          var place = headerBytes + blocks
          for block in 0..<blocks {
            let source = block < whole ? integers + block * packedBlockCount : UnsafePointer(lastBase)
            packBlock(source, width: widths[block], into: base + place)
            place += packedBlockBytes(width: widths[block])
          }
          initialized = place
        }
      }
    }
  }

  /// Integers of a message; nil when it has another shape than `encode` gives, or more integers than `most`.
  package static func count(_ message: [UInt8], atMost most: Int = limit) -> Int? {
    guard message.count >= headerBytes else { return nil }
    let count = message.withUnsafeBytes {
      Int(UInt32(littleEndian: $0.loadUnaligned(as: UInt32.self)))
    }
    guard count <= min(most, limit) else { return nil }
    let blocks = (count + packedBlockCount - 1) / packedBlockCount
    guard message.count >= headerBytes + blocks else { return nil }
    var size = headerBytes + blocks
    for width in message[headerBytes..<headerBytes + blocks] {
      guard width <= packedWidthLimit else { return nil }
      size += packedBlockBytes(width: width)
    }
    return message.count == size ? count : nil
  }

  /// Writes the integers of a message whose `count` is not nil.
  package static func decode(_ message: [UInt8], into integers: UnsafeMutablePointer<Int64>) {
    forEachBlock(of: message) { packed, width, range, room in
      let place = integers + range.lowerBound
      let isWhole = range.count == packedBlockCount
      unpackBlock(packed, width: width, into: isWhole ? place : room)
      if !isWhole { place.update(from: room, count: range.count) }
    }
  }

  /// Adds the integers of a message whose `count` is not nil, wrapping.
  ///
  /// Block by block: what was unpacked is still in the first cache when it is added.
  package static func add(_ message: [UInt8], to sums: UnsafeMutablePointer<Int64>) {
    forEachBlock(of: message) { packed, width, range, room in
      guard width > 0 else { return }
      unpackBlock(packed, width: width, into: room)
      addFixedPoint(room, count: range.count, into: sums + range.lowerBound)
    }
  }

  /// Calls `body` with each block's bytes, its width, which integers it has, and room for a whole block.
  private static func forEachBlock(
    of message: [UInt8],
    _ body: (UnsafePointer<UInt8>, UInt8, Range<Int>, UnsafeMutablePointer<Int64>) -> Void
  ) {
    message.withUnsafeBufferPointer { bytes in
      withUnsafeTemporaryAllocation(of: Int64.self, capacity: packedBlockCount) { room in
        guard let base = bytes.baseAddress, let roomBase = room.baseAddress, let count = count(message) else {
          return
        }
        let widths = base + headerBytes
        var packed = widths + (count + packedBlockCount - 1) / packedBlockCount
        for start in stride(from: 0, to: count, by: packedBlockCount) {
          let width = widths[start / packedBlockCount]
          body(packed, width, start..<min(count, start + packedBlockCount), roomBase)
          packed += packedBlockBytes(width: width)
        }
      }
    }
  }
}
