import CryptoPrimitives
import Testing

@Suite("Secret bytes")
struct SecretBytesTests {
  @Test("short and long secrets give back what was put in, and start as zeros")
  func content() {
    for count in [0, 1, 32, 192, 193, 5_000] {
      let zeros = SecretBytes(count: count) { _ in }
      #expect(revealed(zeros) == [UInt8](repeating: 0, count: count))
      var bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0) }
      let expected = bytes
      let kept = SecretBytes(copying: bytes)
      let moved = SecretBytes(wiping: &bytes)
      #expect(bytes.isEmpty)
      #expect(revealed(kept) == expected)
      #expect(revealed(moved.copy()) == expected)
      #expect(revealed(moved.part(0..<(count / 2))) == Array(expected.prefix(count / 2)))
    }
  }

  @Test("the memory of a secret that has ended is zero before it is used again")
  func wipedAtTheEnd() {
    // The pool gives the slot that was returned last to the next secret, which starts as zeros; a secret whose
    // slot was not wiped would show the old bytes here. Many rounds, as other tests use the pool too.
    for round in 0..<1_000 {
      do {
        let old = SecretBytes(copying: [UInt8](repeating: UInt8(round % 255) + 1, count: 192))
        #expect(old.count == 192)
      }
      let new = SecretBytes(count: 192) { _ in }
      #expect(revealed(new).allSatisfy { $0 == 0 })
    }
  }

  @Test("thousands of secrets live at once without touching each other")
  func manyAtOnce() {
    final class Box {
      let secret: SecretBytes
      init(_ number: Int) {
        secret = SecretBytes(copying: [UInt8](repeating: UInt8(number % 256), count: 64))
      }
    }
    var boxes = (0..<3_000).map { Box($0) }
    for stride in [3, 2] { boxes = boxes.enumerated().filter { $0.offset % stride != 0 }.map(\.element) }
    boxes += (3_000..<5_000).map { Box($0) }
    #expect(
      boxes.allSatisfy { box in
        let bytes = revealed(box.secret)
        return bytes.count == 64 && bytes.allSatisfy { $0 == bytes[0] }
      })
  }

  @Test("a class that holds a secret shows nothing of it in texts or mirrors")
  func showsNothing() {
    final class Holder {
      let key: SecretBytes
      init(_ key: consuming SecretBytes) { self.key = key }
    }
    let holder = Holder(SecretBytes(copying: [UInt8](repeating: 0x41, count: 32)))
    var shown = String(describing: holder) + String(reflecting: holder)
    dump(holder, to: &shown)
    for child in Mirror(reflecting: holder).children { shown += String(describing: child.value) }
    // A local class is named by where it lies in this process, and any two digits may stand there.
    shown = shown.replacing(#/\$[0-9a-f]+/#, with: "")
    #expect(!shown.contains("65"))
    #expect(!shown.contains("41"))
    #expect(!shown.contains("AAAA"))
  }

  @Test("equality looks at every byte and at the length")
  func equality() {
    let base = [UInt8](0..<32)
    for position in base.indices {
      var other = base
      other[position] ^= 1
      #expect(SecretBytes(copying: base).hasSameBytes(as: SecretBytes(copying: other)) == false)
      #expect(!equalInConstantTime(base, other))
    }
    #expect(SecretBytes(copying: base).hasSameBytes(as: SecretBytes(copying: base)) == true)
    #expect(SecretBytes(copying: base).hasSameBytes(as: SecretBytes(copying: base + [0])) == false)
    #expect(equalInConstantTime(base, base) && equalInConstantTime([], []))
    #expect(!equalInConstantTime(base, base + [0]))
  }
}

@Suite("Entropy")
struct EntropyTests {
  @Test("a seed decides the stream, and different seeds and fillings differ")
  func seeded() {
    var one = SeededEntropy(seed: 1)
    var same = SeededEntropy(seed: 1)
    var other = SeededEntropy(seed: 2)
    let (first, second) = (one.bytes(32), one.bytes(32))
    #expect(first != second)
    #expect(same.bytes(32) == first)
    #expect(same.bytes(32) == second)
    #expect(other.bytes(32) != first)
    #expect(one.bytes(0) == [])
  }

  @Test("the system's entropy does not repeat")
  func system() {
    var entropy = SystemEntropy()
    #expect(Set((0..<100).map { _ in entropy.integer(as: UInt64.self) }).count == 100)
  }
}
