import Determinism
import HearthNode
import Testing

@Suite struct LineSplitterTests {
  private func lines(_ bytes: [UInt8], cuts: [Int] = []) throws -> [String] {
    var splitter = LineSplitter(name: "input")
    var lines: [String] = []
    var start = 0
    for end in cuts + [bytes.count] {
      lines += try splitter.add(bytes[start..<end])
      start = end
    }
    return try lines + (splitter.finish().map { [$0] } ?? [])
  }

  @Test func linesEndInLFOrCRLFAndTheLastOneNeedsNeither() throws {
    #expect(try lines(Array("a\nb\r\n\nc".utf8)) == ["a", "b", "", "c"])
    #expect(try lines([]) == [])
    #expect(try lines(Array("\n".utf8)) == [""])
  }

  @Test func aByteOrderMarkIsDroppedAtTheStartOnly() throws {
    #expect(try lines([0xEF, 0xBB, 0xBF] + Array("a\n\u{FEFF}b".utf8)) == ["a", "\u{FEFF}b"])
  }

  @Test func theLinesDoNotDependOnHowTheBytesArrive() throws {
    let bytes = Array("één\r\ntwee 🙂\n\n\ndrie\r".utf8)
    let whole = try lines(bytes)
    for seed in 0..<50 {
      var generator = SeededGenerator(seed: UInt64(seed), 1)
      let cuts = (0..<5).map { _ in Int(generator.next() % UInt64(bytes.count)) }.sorted()
      #expect(try lines(bytes, cuts: cuts) == whole, "seed \(seed), cuts \(cuts)")
    }
  }

  @Test func bytesThatAreNoUTF8NameTheLine() {
    #expect {
      try lines([0x61, 0x0A, 0xFF, 0x0A])
    } throws: { error in
      "\(error)".contains("line 2 is not UTF-8")
    }
  }

  @Test func aLineWithoutEndIsRefusedBeforeItFillsMemory() throws {
    var splitter = LineSplitter(name: "input")
    let mebibyte = [UInt8](repeating: 0x61, count: LineSplitter.maximumLineBytes)
    #expect(try splitter.add(mebibyte) == [])
    #expect(throws: RunFailure.self) { try splitter.add([0x61]) }
  }
}

@Suite struct PredictionTextTests {
  @Test func aLabelComesWithAllProbabilitiesInTheAdaptersOrder() throws {
    let text = PredictionText(task: .classify, labels: ["neg", "p\tos"], json: false)
    #expect(text.header == "label\tneg\tp os\n")
    let prediction = Prediction(label: "p\tos", scores: [0.25, 0.75], truncated: false)
    #expect(try text.line(prediction, row: 1) == "p os\t0.250000\t0.750000\n")
  }

  @Test func aRegressionIsOneNumber() throws {
    let text = PredictionText(task: .regress, labels: [], json: false)
    #expect(text.header == "score\n")
    #expect(try text.line(Prediction(label: nil, scores: [-1.5], truncated: false), row: 1) == "-1.500000\n")
  }

  @Test func jsonKeepsLabelsAsTheyAre() throws {
    let text = PredictionText(task: .classify, labels: ["veryGood", "1"], json: true)
    let prediction = Prediction(label: "veryGood", scores: [0.75, 0.25], truncated: true)
    #expect(
      try text.line(prediction, row: 3)
        == #"{"label":"veryGood","row":3,"scores":{"1":0.25,"veryGood":0.75},"truncated":true}"# + "\n")
    let number = PredictionText(task: .regress, labels: [], json: true)
    #expect(
      try number.line(Prediction(label: nil, scores: [2.5], truncated: false), row: 1)
        == #"{"row":1,"score":2.5,"truncated":false}"# + "\n")
  }
}
