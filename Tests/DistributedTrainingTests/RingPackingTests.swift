import Determinism
import DistributedTraining
import Testing

@Suite("Sums on the wire")
struct RingPackingTests {
  private func roundTrip(_ integers: [Int64]) -> (bytes: Int, back: [Int64])? {
    let message = integers.withUnsafeBufferPointer { values in
      values.baseAddress.map { PackedIntegers.encode($0, count: values.count) } ?? []
    }
    guard PackedIntegers.count(message) == integers.count else { return nil }
    var back = [Int64](repeating: 0, count: integers.count)
    PackedIntegers.decode(message, into: &back)
    return (message.count, back)
  }

  @Test("take as many bytes as the largest needs in two's complement, and come back exactly")
  func widths() throws {
    for width in 1...8 {
      // The least and the greatest integer of so many bytes, and their neighbours inside.
      let least = Int64.min >> Int64(64 - 8 * width)
      let integers = [least, -1, 0, 1, -(least + 1), least + 1]
      let trip = try #require(roundTrip(integers))
      #expect(trip.back == integers)
      #expect(trip.bytes == 1 + width * integers.count)
    }
  }

  @Test("any number of random integers of any size comes back")
  func random() throws {
    var generator = SeededGenerator(seed: 4)
    for count in 1..<40 {
      for bits in [1, 7, 8, 9, 15, 16, 31, 33, 36, 40, 47, 56, 63, 64] {
        let integers = (0..<count).map { _ in Int64(bitPattern: generator.next()) >> Int64(64 - bits) }
        #expect(try #require(roundTrip(integers)).back == integers)
      }
    }
  }

  @Test("a message of another shape has no count")
  func malformed() {
    #expect(PackedIntegers.count([]) == nil)
    #expect(PackedIntegers.count([0, 1, 2]) == nil)
    #expect(PackedIntegers.count([9] + [UInt8](repeating: 0, count: 9)) == nil)
    #expect(PackedIntegers.count([4, 1, 2, 3]) == nil)
    #expect(PackedIntegers.count([4, 1, 2, 3, 4]) == 1)
  }
}
