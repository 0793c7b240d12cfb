import Determinism
import FineTuning
import Testing

/// Reads a literal; labels are class names unless said.
private func read(
  _ text: String, as name: String = "rows.tsv", labels: LabelKind = .name,
  columns: ColumnSelection = ColumnSelection(), hasHeader: Bool? = nil, strict: Bool = false,
  format: DataFormat? = nil, limits: DataLimits = DataLimits()
) throws(DataFailure) -> DataReadResult {
  var options = DataReadOptions(
    format: format, columns: columns, hasHeader: hasHeader, labels: labels, strict: strict)
  options.limits = limits
  return try readExamples(bytes: Array(text.utf8), name: name, options: options)
}

@Suite("A tab-separated file")
struct TabSeparatedTests {
  @Test("reads MRPC's shape: byte order mark, '#1 String' columns, quotes that mean nothing")
  func mrpc() throws {
    let text =
      "\u{FEFF}Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
      + "1\t702876\t702977\tHe called \"the witness\", of lies.\tReferring to \"the witness\n"
      + "0\t2108705\t2108831\tYucaipa owned Dominick's.\tYucaipa bought \"Dominick's\" in 1995.\n"
    let result = try read(text, as: "msr_train.txt")
    #expect(result.format == .tsv)
    #expect(result.hasHeader)
    #expect(result.examples.map(\.label) == ["1", "0"])
    #expect(result.examples[0].text == "He called \"the witness\", of lies.")
    #expect(result.examples[0].pair == "Referring to \"the witness")
    #expect(result.examples.map(\.row) == [2, 3])
    #expect(result.skippedCount == 0)
  }

  @Test(
    "reads STS-B's shape: .csv by name, no header, CRLF, score in field 5, two surplus fields in some rows")
  func stsb() throws {
    let text =
      "main-captions\tMSRvid\t2012test\t0024\t2.500\tA girl is styling her hair.\tA girl is brushing it.\r\n"
      + "main-news\tMSRpar\t2012\t0033\t3.600\tMen play, on a beach.\tBoys play there.\turl a\turl b\r\n"
      + "main-forums\tdeft\t2014\t0045\t5.000\tA man cuts a rope.\tA man is cutting a rope.\r\n"
    let result = try read(text, as: "sts-test.csv", labels: .number)
    #expect(result.format == .tsv)
    #expect(!result.hasHeader)
    #expect(result.examples.map(\.label) == ["2.500", "3.600", "5.000"])
    #expect(result.examples[1].text == "Men play, on a beach.")
    #expect(result.examples[1].pair == "Boys play there.")
    #expect(regressionTargets(of: result.examples) == [2.5, 3.6, 5])
  }

  @Test("reads SST-2's two shapes: with 'sentence label' above and without")
  func sst2() throws {
    let rows = "one long string of cliches\t0\na stirring , funny film\t1"
    let plain = try read(rows)
    let headed = try read("sentence\tlabel\n" + rows)
    #expect(plain.examples.map(\.text) == ["one long string of cliches", "a stirring , funny film"])
    #expect(plain.examples.map(\.label) == ["0", "1"])
    #expect(headed.examples.map(\.text) == plain.examples.map(\.text))
    #expect(headed.examples.map(\.label) == plain.examples.map(\.label))
  }

  @Test("reads vaderSentiment's shape: id, mean score, text")
  func vader() throws {
    let text = "1_1\t-0.9\tno picture scrolling b/w.\r\n1_2\t0.15\twith a better fit title.\r\n"
    let result = try read(text, as: "amazonReviewSnippets_GroundTruth.txt", labels: .number)
    #expect(result.examples.map(\.text) == ["no picture scrolling b/w.", "with a better fit title."])
    #expect(regressionTargets(of: result.examples) == [-0.9, 0.15])
  }

  @Test("ends rows at CR where there is no LF, and keeps a CR inside a text where there is")
  func carriageReturns() throws {
    let old = try read("a b\t0\rc d\t1\r")
    #expect(old.examples.map(\.text) == ["a b", "c d"])
    let stray = try read("a\rb\t0\nc d\t1\n")
    #expect(stray.examples.map(\.text) == ["a\rb", "c d"])
  }

  @Test("passes over blank lines without counting them, and counts malformed rows with number and reason")
  func malformedRows() throws {
    let text = "a b\t0.5\n\n  \t \nno tab here\n \t1\nc d\tmuch\ne f\t1.5\ng h\t1e999\ni j\t1e39\nk l\tnan"
    let filler = (0..<60).map { "\nx y\t\($0)" }.joined()
    let result = try read(text + filler, labels: .number)
    #expect(result.examples.count == 62)
    #expect(
      result.skipped == [
        SkippedRow(row: 4, fault: .tooFewFields(found: 1, needed: 2)),
        SkippedRow(row: 5, fault: .emptyText(column: "column 1")),
        SkippedRow(row: 6, fault: .badNumber(value: "much")),
        SkippedRow(row: 8, fault: .badNumber(value: "1e999")),
        SkippedRow(row: 9, fault: .badNumber(value: "1e39")),
        SkippedRow(row: 10, fault: .badNumber(value: "nan")),
      ])
    #expect(result.skippedCount == 6)
  }

  @Test("under strict, stops at the first malformed row and names it")
  func strict() {
    #expect(
      throws: DataFailure.malformedRow(
        name: "rows.tsv", row: SkippedRow(row: 3, fault: .tooFewFields(found: 1, needed: 2)))
    ) { try read("a b\t0\nc d\t1\nbroken\ne f\t1", strict: true) }
  }

  @Test("keeps the first reasons only, and counts all")
  func boundedReasons() throws {
    var limits = DataLimits()
    limits.reportedSkips = 2
    let result = try read(
      String(repeating: "a b\t0\n", count: 9) + String(repeating: "x\n", count: 8), limits: limits)
    #expect(result.skippedCount == 8)
    #expect(result.skipped.map(\.row) == [10, 11])
  }

  @Test("repairs invalid UTF-8 and counts the rows, or stops under strict")
  func invalidUTF8() throws {
    let bytes: [UInt8] = Array("caf".utf8) + [0xE9] + Array(" noir\t1\nth\u{E9} vert\t0\n".utf8)
    let options = DataReadOptions(labels: .name)
    let result = try readExamples(bytes: bytes, name: "rows.tsv", options: options)
    #expect(result.examples.map(\.text) == ["caf\u{FFFD} noir", "th\u{E9} vert"])
    #expect(result.repairedCount == 1)
    var strict = options
    strict.strict = true
    #expect(
      throws: DataFailure.malformedRow(name: "rows.tsv", row: SkippedRow(row: 1, fault: .invalidUTF8))
    ) { try readExamples(bytes: bytes, name: "rows.tsv", options: strict) }
  }

  @Test("skips rows over its limits and goes on")
  func limits() throws {
    var limits = DataLimits()
    limits.bytesPerRow = 16
    limits.fieldsPerRow = 3
    let result = try read(
      "a b\t0\n\(String(repeating: "x", count: 20))\t1\n1\t2\t3\t4\nc d\t1\n", limits: limits)
    #expect(result.examples.map(\.text) == ["a b", "c d"])
    #expect(
      result.skipped.map(\.fault) == [.rowTooLong(limit: 16), .fieldLimitExceeded(limit: 3)])
    limits.rows = 3
    #expect(throws: DataFailure.tooManyRows(name: "rows.tsv", limit: 3)) {
      try read("a b\t0\nc d\t1\ne f\t1\ng h\t1", limits: limits)
    }
  }

  @Test("is refused in one line when it is empty, unusable, or not UTF-8 at all")
  func refused() {
    #expect(throws: DataFailure.emptyFile(name: "rows.tsv")) { try read("\n \n") }
    #expect(throws: DataFailure.emptyFile(name: "rows.tsv")) { try read("") }
    #expect(throws: DataFailure.emptyFile(name: "rows.tsv")) { try read("sentence\tlabel\n") }
    #expect(
      throws: DataFailure.noUsableRows(
        name: "rows.tsv", skippedCount: 1, first: SkippedRow(row: 2, fault: .emptyLabel(column: "label")))
    ) { try read("sentence\tlabel\na b\t\n") }
    #expect(throws: DataFailure.unsupportedEncoding(name: "x.tsv", encoding: "UTF-16")) {
      try readExamples(bytes: [0xFF, 0xFE, 0x61, 0], name: "x.tsv", options: DataReadOptions(labels: .name))
    }
  }
}

@Suite("A comma-separated file")
struct CommaSeparatedTests {
  @Test("reads RFC 4180 quotes: commas, line ends and doubled quotes inside a field")
  func quotes() throws {
    let text = "text,label\r\n\"one, \"\"two\"\"\r\nthree\",pos\r\n5\" disk,neg\r\n\"\"\"x\"\"\",\"pos\"\r\n"
    let result = try read(text, as: "rows.csv")
    #expect(result.examples.map(\.text) == ["one, \"two\"\r\nthree", "5\" disk", "\"x\""])
    #expect(result.examples.map(\.label) == ["pos", "neg", "pos"])
    #expect(result.examples.map(\.row) == [2, 4, 5])
  }

  @Test("loses one row to a quote that never closes, not the rest of the file")
  func unterminatedQuote() throws {
    let text = "text,label\na b,0\n\"never closed,1\nc d,1\n\"closed\"badly,0\ne f,0\n"
    let result = try read(text, as: "rows.csv")
    #expect(result.examples.map(\.text) == ["a b", "c d", "e f"])
    #expect(
      result.skipped == [
        SkippedRow(row: 3, fault: .textAfterQuote), SkippedRow(row: 5, fault: .textAfterQuote),
      ])
    let last = try read("text,label\na b,0\nc d,1\n\"e f,1", as: "rows.csv")
    #expect(last.skipped == [SkippedRow(row: 4, fault: .unterminatedQuote)])
  }

  @Test("takes a surplus field for a comma that should have been quoted")
  func surplusField() throws {
    let result = try read("text,label\nfine,0\ngreat, really,1\ngood,1,\n", as: "rows.csv")
    #expect(result.examples.map(\.text) == ["fine", "good"])
    #expect(result.skipped == [SkippedRow(row: 3, fault: .tooManyFields(found: 3, expected: 2))])
  }

  @Test("written and read again gives the same rows, for random fields")
  func roundTrip() throws {
    for seed in UInt64(0)..<200 {
      var generator = SeededGenerator(seed: seed)
      let alphabet: [Character] = ["a", "b", " ", ",", "\"", "\n", "\r\n", "\t", "é", "😀", "\r", "x"]
      let lineEnd = generator.uniform(below: 2) == 0 ? "\n" : "\r\n"
      var written = "text,label" + lineEnd
      var expected: [LabelledText] = []
      for _ in 0..<(1 + generator.uniform(below: 8)) {
        let inner = String(
          (0..<generator.uniform(below: 12)).map { _ in alphabet[generator.uniform(below: 12)] })
        let field = "|" + inner + "|"  // reading trims white space at the ends
        let label = String(generator.uniform(below: 3))
        let mustQuote = field.contains { ",\"".contains($0) || $0.isNewline }
        let quoted =
          "\"" + field.split(separator: "\"", omittingEmptySubsequences: false).joined(separator: "\"\"")
          + "\""
        expected.append(LabelledText(row: 1 + written.utf8.count { $0 == 10 }, text: field, label: label))
        written += (mustQuote || generator.uniform(below: 3) == 0 ? quoted : field) + "," + label + lineEnd
      }
      if generator.uniform(below: 2) == 0 { written.removeLast() }
      let result = try read(written, as: "rows.csv", strict: true)
      #expect(result.examples == expected, "seed \(seed)")
    }
  }
}

@Suite("A file of JSON lines")
struct JSONLinesTests {
  @Test("reads strings, numbers and booleans by key, in any order of keys")
  func values() throws {
    let text = """
      {"id": 1, "text": "a \\"b\\"\\n\\u00e9", "label": 1}
      {"label": 0, "text": "c", "extra": [1, 2], "id": 2}
      {"text": "d", "label": true}
      {"text": "e", "label": 2.5}
      """
    let result = try read(text, as: "rows.jsonl")
    #expect(result.examples.map(\.text) == ["a \"b\"\n\u{E9}", "c", "d", "e"])
    #expect(result.examples.map(\.label) == ["1", "0", "true", "2.5"])
  }

  @Test("skips lines that are no object or lack a value, with the reason")
  func malformed() throws {
    let text = """
      {"sentence1": "a", "sentence2": "b", "score": 1.5}
      {"sentence1": "a"
      [1, 2]
      {"sentence1": "a", "sentence2": null, "score": 2}
      {"sentence1": "c", "sentence2": "d", "score": "3.5"}
      """
    let result = try read(text, as: "rows.ndjson", labels: .number)
    #expect(regressionTargets(of: result.examples) == [1.5, 3.5])
    #expect(
      result.skipped == [
        SkippedRow(row: 2, fault: .invalidJSON), SkippedRow(row: 3, fault: .notAnObject),
        SkippedRow(row: 4, fault: .missingValue(column: "sentence2")),
      ])
  }

  @Test("repairs invalid UTF-8 inside a string")
  func invalidUTF8() throws {
    let bytes = Array("{\"text\": \"a".utf8) + [0xFF] + Array("\", \"label\": 1}\n".utf8)
    let result = try readExamples(bytes: bytes, name: "x.jsonl", options: DataReadOptions(labels: .name))
    #expect(result.examples.map(\.text) == ["a\u{FFFD}"])
    #expect(result.repairedCount == 1)
  }
}

@Suite("Columns")
struct ColumnTests {
  @Test("are taken by name in any case, or by 1-based position")
  func asked() throws {
    let text = "id\tBody of text\tother one\tGrade\n1\ta b\tc d\tgood\n2\te f\tg h\tbad\n"
    let byName = ColumnSelection(
      text: ColumnReference("other one"), pair: ColumnReference("body of text"),
      label: ColumnReference("grade"))
    let byPosition = ColumnSelection(
      text: ColumnReference("3"), pair: ColumnReference("2"), label: ColumnReference("4"))
    for selection in [byName, byPosition] {
      let result = try read(text, columns: selection, hasHeader: true)
      #expect(result.examples.map(\.text) == ["c d", "g h"])
      #expect(result.examples.map(\.pair) == ["a b", "e f"])
      #expect(result.examples.map(\.label) == ["good", "bad"])
    }
  }

  @Test("guess the pair of a known pair set, and only the text when it was asked for alone")
  func pairs() throws {
    let text = "premise\thypothesis\tgold_label\na b\tc d\tneutral\ne f\tg h\tentailment\n"
    #expect(try read(text).examples.map(\.pair) == ["c d", "g h"])
    let alone = try read(text, columns: ColumnSelection(text: .name("premise")))
    #expect(alone.examples.map(\.pair) == [nil, nil])
  }

  @Test("prefer a score for a regression and a label for a classification")
  func scoreOrLabel() throws {
    let text = "text,label,score\na b,good,1.5\nc d,bad,2.5\n"
    #expect(try read(text, as: "x.csv", labels: .number).examples.map(\.label) == ["1.5", "2.5"])
    #expect(try read(text, as: "x.csv", labels: .name).examples.map(\.label) == ["good", "bad"])
    #expect(try read(text, as: "x.csv", labels: .none).examples.map(\.label) == [nil, nil])
  }

  @Test("find an unknown header by the numbers under it")
  func unknownHeader() throws {
    let result = try read("words\tvalue\na b\t1\nc d\t2\n")
    #expect(result.hasHeader)
    #expect(result.columns.names == ["words", "value"])
    #expect(result.examples.map(\.label) == ["1", "2"])
  }

  @Test("read texts of single words when the other column is a number")
  func singleWords() throws {
    #expect(try read("good\t1\nbad\t0\n").examples.map(\.text) == ["good", "bad"])
  }

  @Test("are listed when they cannot be guessed, do not exist, or are used twice")
  func undecided() {
    let text = "a\tb\tc\na b c\td e f\tg h i\nj k l\tm n o\tp q r\n"
    #expect(throws: DataFailure.undecidedColumn(name: "rows.tsv", role: .text, columns: ["a", "b", "c"])) {
      try read(text, hasHeader: true)
    }
    #expect(
      throws: DataFailure.unknownColumn(
        name: "rows.tsv", role: .label, requested: "mark", columns: ["text", "label"])
    ) { try read("text\tlabel\na b\t1\n", columns: ColumnSelection(label: .name("mark"))) }
    #expect(
      throws: DataFailure.unknownColumn(
        name: "rows.tsv", role: .label, requested: "3", columns: ["text", "label"])
    ) { try read("text\tlabel\na b\t1\n", columns: ColumnSelection(label: .position(3))) }
    #expect(throws: DataFailure.columnUsedTwice(name: "rows.tsv", column: "text")) {
      try read("text\tlabel\na b\t1\n", columns: ColumnSelection(text: .position(1), label: .position(1)))
    }
    let failure = DataFailure.undecidedColumn(name: "x.tsv", role: .label, columns: ["a", "b"])
    #expect(failure.description.contains("'a', 'b'") && failure.description.contains("--label-column"))
  }

  @Test("of a plain text file are one text a line")
  func plainText() throws {
    let result = try read("first, one\n\nsecond \"one\n", as: "lines.txt", labels: .none)
    #expect(result.format == .text)
    #expect(result.examples.map(\.text) == ["first, one", "second \"one"])
    #expect(result.examples.map(\.row) == [1, 3])
  }
}

@Suite("Arbitrary bytes")
struct DataFuzzTests {
  @Test("never crash a reader, and every row is read, skipped or blank", arguments: DataFormat.allCases)
  func anything(format: DataFormat) {
    let pieces: [[UInt8]] = [
      Array("text".utf8), Array("label".utf8), [9], [10], [13], [13, 10], [34], [44], [0], [0xFF], [0xC3],
      [0xEF, 0xBB, 0xBF], Array("{\"text\":\"a\",\"label\":".utf8), Array("}".utf8), Array("[".utf8),
      Array("1.5".utf8), Array("a b".utf8), Array("-".utf8), Array("\\u12".utf8), [0xF0, 0x9F],
    ]
    let rows: [DataFormat: String] = [
      .tsv: "a b\t1\n", .csv: "\"a \"\"b\",1\r\n", .jsonl: "{\"text\": \"a b\", \"label\": 1}\n",
      .text: "a b\n",
    ]
    let row = Array((rows[format] ?? "").utf8)
    var usable = 0
    for seed in UInt64(0)..<3_000 {
      var generator = SeededGenerator(seed: seed)
      var bytes: [UInt8] = []
      for _ in 0..<generator.uniform(below: 6) { bytes += row }
      for _ in 0..<generator.uniform(below: 12) {
        let place = generator.uniform(below: bytes.count + 1)
        let piece = pieces[generator.uniform(below: pieces.count)]
        bytes.replaceSubrange(place..<min(bytes.count, place + generator.uniform(below: 4)), with: piece)
        if generator.uniform(below: 4) == 0 { bytes.append(UInt8(truncatingIfNeeded: generator.next())) }
      }
      var options = DataReadOptions(
        format: format, labels: [.none, .name, .number][generator.uniform(below: 3)],
        strict: generator.uniform(below: 4) == 0)
      options.limits.bytesPerRow = 64
      options.limits.fieldsPerRow = 8
      guard let result = try? readExamples(bytes: bytes, name: "random", options: options) else { continue }
      usable += 1
      #expect(!result.examples.isEmpty && result.examples.allSatisfy { !$0.text.isEmpty }, "seed \(seed)")
      let rows = result.examples.map(\.row)
      #expect(rows == rows.sorted() && Set(rows).count == rows.count, "seed \(seed)")
      #expect(options.strict ? result.skippedCount == 0 : true, "seed \(seed)")
    }
    // A generator that never makes a readable file would test nothing.
    #expect(usable > 100)
  }
}

@Suite("A file of texts to write")
struct TargetTextTests {
  @Test("has its columns under their usual names, whatever their order")
  func usualNames() throws {
    let json = #"{"target":"das Haus","input":"the house","id":7}"# + "\n" + #"{"target":"ja","input":"yes"}"#
    let rows = try read(json, as: "pairs.jsonl", labels: .text)
    #expect(rows.examples.map(\.text) == ["the house", "yes"])
    #expect(rows.examples.map(\.label) == ["das Haus", "ja"])
    let csv = try read("summary,document\n\"short, so\",a long text\n", as: "x.csv", labels: .text)
    #expect(csv.hasHeader)
    #expect(csv.examples == [LabelledText(row: 2, text: "a long text", label: "short, so")])
  }

  @Test("without names reads the first column and writes the second, words or sentences")
  func twoColumns() throws {
    let words = try read("cat\tkæt\ndog\tdɒɡ\n", labels: .text)
    #expect(!words.hasHeader)
    #expect(words.examples.map(\.text) == ["cat", "dog"])
    #expect(words.examples.map(\.label) == ["kæt", "dɒɡ"])
    let turned = try read(
      "ein Haus\ta house\n", labels: .text, columns: ColumnSelection(label: .position(1)))
    #expect(turned.examples == [LabelledText(row: 1, text: "a house", label: "ein Haus")])
  }

  @Test("leaves out rows without a text to write")
  func emptyTarget() throws {
    let rows = try read("input\toutput\na\tb\nc\t \n", labels: .text)
    #expect(rows.examples.map(\.label) == ["b"])
    #expect(rows.skipped == [SkippedRow(row: 3, fault: .emptyLabel(column: "output"))])
  }
}
