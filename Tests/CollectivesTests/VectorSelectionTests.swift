import Collectives
import Determinism
import Testing

@Suite("The part of a vector that a ring reduces")
struct VectorSelectionTests {
  @Test("keeps ranges in order and joins those that touch")
  func ranges() {
    let selection = VectorSelection([0..<0, 2..<5, 5..<9, 12..<12, 20..<21])
    #expect(selection.ranges == [2..<9, 20..<21])
    #expect(selection.count == 8)
    #expect(selection.flatRanges(0..<8) == [2..<9, 20..<21])
    #expect(selection.flatRanges(6..<8) == [8..<9, 20..<21])
    #expect(selection.flatRanges(7..<8) == [20..<21])
    #expect(selection.flatRanges(3..<3) == [])
    #expect(VectorSelection([]).flatRanges(0..<0) == [])
    #expect(VectorSelection(whole: 10).flatRanges(3..<7) == [3..<7])
  }

  @Test("maps every range to the elements that a list of all of them names")
  func mapping() {
    for seed in UInt64(0)..<100 {
      var generator = SeededGenerator(seed: seed)
      var position = 0
      var ranges: [Range<Int>] = []
      for _ in 0..<generator.uniform(below: 6) {
        let start = position + generator.uniform(below: 4)
        position = start + generator.uniform(below: 9)
        ranges.append(start..<position)
      }
      let selection = VectorSelection(ranges)
      let all = ranges.flatMap(Array.init)
      #expect(selection.count == all.count, "seed \(seed)")
      for start in 0...all.count {
        for end in start...all.count {
          #expect(selection.flatRanges(start..<end).flatMap(Array.init) == Array(all[start..<end]))
        }
      }
    }
  }
}
