import FineTuning
import Testing

private func examples(_ labels: [String]) -> [LabelledText] {
  labels.enumerated().map { LabelledText(row: $0 + 1, text: "text \($0)", label: $1) }
}

@Suite("A label map")
struct LabelMapTests {
  @Test("orders integers as numbers and names by their bytes")
  func order() throws {
    #expect(try LabelMap(of: examples(["10", "9", "-1", "9", "10", "-1"])).names == ["-1", "9", "10"])
    #expect(
      try LabelMap(of: examples(["pos", "neg", "Neutral", "pos", "neg", "pos"])).names == [
        "Neutral", "neg", "pos",
      ])
    #expect(try LabelMap(of: examples(["10", "9", "x", "9", "10", "x"])).names == ["10", "9", "x"])
  }

  @Test("gives each row the index of its label, and names a label that it does not know")
  func indices() throws {
    let map = try LabelMap(of: examples(["b", "a", "b", "a"]))
    #expect(try map.indices(of: examples(["a", "b", "b"])) == [0, 1, 1])
    #expect(map.index(of: "c") == nil)
    #expect(throws: DataFailure.unknownLabel(label: "c", row: 2, known: ["a", "b"])) {
      try map.indices(of: examples(["a", "c"]))
    }
  }

  @Test("refuses one class, and points at regression when the classes look like scores")
  func refusals() throws {
    #expect(throws: DataFailure.oneLabel(label: "1", rows: 3)) {
      try LabelMap(of: examples(["1", "1", "1"]))
    }
    let scores = (0..<100).map { "\(Double($0 % 60) / 10)" }
    #expect(throws: DataFailure.tooManyLabels(count: 60, rows: 100, limit: 50)) {
      try LabelMap(of: examples(scores))
    }
    let many = (0..<4_000).map { "\($0 % 1_001)" }
    #expect(throws: DataFailure.tooManyLabels(count: 1_001, rows: 4_000, limit: 1_000)) {
      try LabelMap(of: examples(many))
    }
    #expect(DataFailure.tooManyLabels(count: 60, rows: 100, limit: 50).description.contains("--task regress"))
    #expect(try LabelMap(of: examples(["a", "b"])).count == 2)
  }
}
