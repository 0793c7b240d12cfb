import Determinism
import DistributedTraining
import Testing

@Suite("Sums on the wire")
struct RingPackingTests {
  private func encode(_ integers: [Int64]) -> [UInt8] {
    integers.withUnsafeBufferPointer { values in
      values.baseAddress.map { PackedIntegers.encode($0, count: values.count) } ?? []
    }
  }

  private func decode(_ message: [UInt8], count: Int) -> [Int64]? {
    guard PackedIntegers.count(message) == count else { return nil }
    var back = [Int64](repeating: 7, count: count)
    PackedIntegers.decode(message, into: &back)
    return back
  }

  @Test("take as many bits as the largest of their block needs in two's complement, and come back exactly")
  func widths() throws {
    for width in 1...64 {
      // The least and the greatest integer of so many bits, and their neighbours inside.
      let least = Int64.min >> Int64(64 - width)
      let integers = [least, -1, 0, -(least + 1), least &+ (width > 1 ? 1 : 0)]
      let message = encode(integers)
      #expect(decode(message, count: integers.count) == integers)
      #expect(message.count == 4 + 1 + 32 * width)
    }
  }

  @Test("a block of large integers costs the other blocks nothing, and one of zeros nothing at all")
  func blocks() throws {
    var integers = [Int64](repeating: 0, count: 4 * 256)
    integers[256..<512] = ArraySlice(repeating: -3, count: 256)
    integers[600] = 1 << 40
    let message = encode(integers)
    #expect(message.count == 4 + 4 + 32 * (0 + 3 + 42 + 0))
    #expect(decode(message, count: integers.count) == integers)
  }

  @Test("any number of random integers of any size comes back")
  func random() throws {
    var generator = SeededGenerator(seed: 4)
    for count in [1, 2, 3, 4, 5, 63, 64, 65, 255, 256, 257, 511, 512, 1000] {
      for bits in [1, 7, 8, 9, 15, 16, 31, 32, 33, 36, 40, 47, 56, 63, 64] {
        let integers = (0..<count).map { _ in Int64(bitPattern: generator.next()) >> Int64(64 - bits) }
        #expect(decode(encode(integers), count: count) == integers, "\(count) of \(bits) bits")
      }
    }
  }

  @Test("integers of a message are added to others as they would be after unpacking, wrapping")
  func added() throws {
    var generator = SeededGenerator(seed: 6)
    for count in [1, 255, 256, 257, 1000] {
      for bits in [1, 9, 33, 64] {
        var integers = (0..<count).map { _ in Int64(bitPattern: generator.next()) >> Int64(64 - bits) }
        // A block that takes no bytes leaves what it is added to.
        for index in integers.indices.prefix(256) where count > 256 { integers[index] = 0 }
        let others = (0..<count).map { _ in Int64(bitPattern: generator.next()) }
        var sums = others
        PackedIntegers.add(encode(integers), to: &sums)
        #expect(sums == zip(others, integers).map { $0 &+ $1 }, "\(count) of \(bits) bits")
      }
    }
  }

  @Test("the bits lie where docs/FILE-FORMATS.md says")
  func layout() throws {
    var generator = SeededGenerator(seed: 5)
    for width in [3, 26, 33, 64] {
      let integers = (0..<256).map { _ in Int64(bitPattern: generator.next()) >> Int64(64 - width) }
      let message = encode(integers)
      #expect(message.prefix(4) == [0, 1, 0, 0])
      #expect(message[4] == UInt8(width))
      for (index, integer) in integers.enumerated() {
        let (row, column) = (index / 4, index % 4)
        for bit in 0..<width {
          let (word, place) = ((row * width + bit) / 64, (row * width + bit) % 64)
          let byte = message[5 + (word * 4 + column) * 8 + place / 8]
          #expect(Int64(byte >> UInt8(place % 8) & 1) == integer >> Int64(bit) & 1)
        }
      }
    }
  }

  @Test("a message of another shape has no count")
  func malformed() {
    let message = encode([1, 2, 3])
    #expect(PackedIntegers.count(message) == 3)
    #expect(PackedIntegers.count(message, atMost: 2) == nil)
    #expect(PackedIntegers.count([]) == nil)
    #expect(PackedIntegers.count([1, 0, 0]) == nil)
    #expect(PackedIntegers.count([1, 0, 0, 0]) == nil)
    for end in 0..<message.count { #expect(PackedIntegers.count(Array(message[..<end])) == nil) }
    #expect(PackedIntegers.count(message + [0]) == nil)
    // A width that no integer has.
    #expect(PackedIntegers.count([1, 0, 0, 0, 65] + [UInt8](repeating: 0, count: 65 * 32)) == nil)
    // A number that nobody sends.
    #expect(PackedIntegers.count([255, 255, 255, 255, 0]) == nil)
    #expect(PackedIntegers.count([0, 0, 0, 0]) == 0)
  }
}
