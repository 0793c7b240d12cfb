import Determinism
import FineTuning
import Testing

private func rows(_ count: Int, pair: String? = nil) -> [LabelledText] {
  (0..<count).map { LabelledText(row: $0 + 1, text: "row \($0)", pair: pair, label: "0") }
}

@Suite("A split by hash")
struct HashSplitTests {
  // The rows whose place is under the share, by Python's hashlib:
  //   place = int.from_bytes(blake2b(framed, digest_size=32).digest()[:8], 'big') / 2**64, where framed is
  //   pack('<Q', seed), then for text and pair: pack('<Q', len(utf8)) + utf8
  @Test("holds out the rows that Python's BLAKE2b says")
  func reference() throws {
    func heldOut(_ examples: [LabelledText], _ fraction: Double, seed: UInt64 = 0) throws -> [Int] {
      try splitByHash(examples, validationFraction: fraction, seed: seed).validation.map { $0.row - 1 }
    }
    #expect(try heldOut(rows(20), 0.5) == [0, 3, 6, 7, 9, 14, 16, 17, 18, 19])
    #expect(try heldOut(rows(20), 0.5, seed: 7) == [3, 4, 8, 11, 13, 14, 19])
    #expect(try heldOut(rows(20, pair: "\u{E9}"), 0.25) == [6, 9, 10, 14])
  }

  @Test("depends on neither the order, the labels nor the other rows, and keeps the order of the file")
  func stable() throws {
    let all = rows(2_000)
    let whole = try splitByHash(all, validationFraction: 0.1)
    let heldOut = Set(whole.validation.map(\.text))
    let reversed = try splitByHash(all.reversed(), validationFraction: 0.1)
    #expect(Set(reversed.validation.map(\.text)) == heldOut)
    let half = try splitByHash(Array(all[..<1_000]), validationFraction: 0.1)
    #expect(Set(half.validation.map(\.text)) == heldOut.intersection(all[..<1_000].map(\.text)))
    #expect(whole.validation.map(\.row) == whole.validation.map(\.row).sorted())
    #expect(whole.training.count + whole.validation.count == 2_000)
    // 200 expected, standard deviation 13.4.
    #expect((140...260).contains(whole.validation.count))
  }

  @Test("puts identical texts on the same side, whatever their labels")
  func duplicates() throws {
    var examples = rows(50)
    examples += rows(50).map { LabelledText(row: $0.row + 50, text: $0.text, label: "1") }
    let split = try splitByHash(examples, validationFraction: 0.3)
    #expect(Set(split.training.map(\.text)).isDisjoint(with: split.validation.map(\.text)))
  }

  @Test("tells text and pair apart from one longer text")
  func framing() throws {
    let joined = (0..<200).map { LabelledText(row: $0, text: "a\($0)b") }
    let parted = (0..<200).map { LabelledText(row: $0, text: "a\($0)", pair: "b") }
    let first = try splitByHash(joined, validationFraction: 0.5).validation.map(\.row)
    #expect(first != (try splitByHash(parted, validationFraction: 0.5).validation.map(\.row)))
  }

  @Test("refuses to leave a side empty, and holds out nothing when asked to")
  func emptySides() throws {
    #expect(throws: DataFailure.emptySplit(rows: 2, fraction: 0.01)) {
      try splitByHash(rows(2), validationFraction: 0.01)
    }
    #expect(try splitByHash(rows(2), validationFraction: 0).training.count == 2)
  }
}

@Suite("A subset")
struct SubsetTests {
  @Test("is drawn by its seed without repetition, in the order of the file")
  func draw() {
    let all = rows(100)
    let drawn = subset(of: all, count: 30, seed: 5)
    #expect(drawn == subset(of: all, count: 30, seed: 5))
    #expect(drawn != subset(of: all, count: 30, seed: 6))
    #expect(drawn.map(\.row) == Set(drawn.map(\.row)).sorted() && drawn.count == 30)
    #expect(subset(of: all, count: 100, seed: 5) == all && subset(of: all, count: 500, seed: 5) == all)
    #expect(subset(of: all, count: 0, seed: 5).isEmpty)
  }
}
