/// Integers in as few bytes each as the largest of them needs: sums on a wire, exactly.
///
/// A gradient of 2^-10 under the exponent 44 is an integer of 36 bits: five bytes in place of eight. The first byte says
/// how many the others take each; they are the low bytes in two's complement, little-endian.
package enum PackedIntegers {
  /// The bytes of 64-bit integers.
  package static func encode(_ integers: UnsafePointer<Int64>, count: Int) -> [UInt8] {
    encode(count: count) { $0(UnsafeBufferPointer(start: integers, count: count)) }
  }

  /// The bytes of 64-bit integers that lie in several places.
  ///
  /// - Parameter forEachPart: calls its argument with each part in order; it is asked twice.
  static func encode(
    count: Int, _ forEachPart: ((UnsafeBufferPointer<Int64>) -> Void) -> Void
  ) -> [UInt8] {
    var all: UInt64 = 0
    // A negative number needs as many bits as its complement.
    forEachPart { part in
      for integer in part { all |= UInt64(bitPattern: integer ^ (integer >> 63)) }
    }
    let width = max(1, (64 - all.leadingZeroBitCount + 1 + 7) / 8)
    // Whole words are stored, each over the unused end of the one before.
    let room = 1 + count * width + 8
    return [UInt8](unsafeUninitializedCapacity: room) { buffer, initialized in
      guard let base = buffer.baseAddress else { return }
      let bytes = UnsafeMutableRawPointer(base)
      bytes.storeBytes(of: UInt8(width), as: UInt8.self)
      var place = 1
      forEachPart { part in
        precondition(place + part.count * width + 8 <= room, "more than \(count) integers in the parts")
        for integer in part {
          bytes.storeBytes(of: integer.littleEndian, toByteOffset: place, as: Int64.self)
          place += width
        }
      }
      initialized = place
    }
  }

  /// Integers of a message; nil when its length does not fit its width.
  package static func count(_ message: [UInt8]) -> Int? {
    guard let width = message.first, (1...8).contains(width), (message.count - 1) % Int(width) == 0 else {
      return nil
    }
    return (message.count - 1) / Int(width)
  }

  /// Writes the integers of a message whose `count` is not nil.
  package static func decode(_ message: [UInt8], into integers: UnsafeMutablePointer<Int64>) {
    guard let first = message.first else { return }
    let width = Int(first)
    let count = (message.count - 1) / width
    let shift = Int64(64 - 8 * width)
    message.withUnsafeBytes { bytes in
      guard let base = bytes.baseAddress else { return }
      // A word is read whole while there are eight bytes from its start on.
      let whole = bytes.count >= 9 ? max(0, min(count, (bytes.count - 9) / width + 1)) : 0
      var place = base + 1
      for index in 0..<whole {
        let word = Int64(littleEndian: place.loadUnaligned(as: Int64.self))
        integers[index] = (word &<< shift) &>> shift
        place += width
      }
      for index in whole..<count {
        var word: UInt64 = 0
        for byte in 0..<width { word |= UInt64(bytes[1 + index * width + byte]) << UInt64(8 * byte) }
        integers[index] = (Int64(bitPattern: word) &<< shift) &>> shift
      }
    }
  }
}
