import Foundation
import Testing

/// Every bad input ends in one clear line and the documented code, with nothing half-written.
@Suite struct BadInputTests {
  private static let bert = HearthProcess.fixtures.appending(path: "tiny-bert")
  private static let t5 = HearthProcess.fixtures.appending(path: "tiny-t5")
  private static let goodRows = "text\tlabel\n" + (0..<24).map { "row \($0)\t\($0 % 2)\n" }.joined()

  /// A copy of the small BERT that a test may damage.
  private func copyOfModel(_ hearth: HearthProcess, _ source: URL = bert) throws -> URL {
    let copy = hearth.root.appending(path: "model")
    try FileManager.default.copyItem(at: source, to: copy)
    return copy
  }

  private func train(
    _ hearth: HearthProcess, model: String, rows: String = goodRows, epochs: String = "1",
    extra: [String] = []
  ) throws -> HearthProcess.Result {
    let data = try hearth.file("data.tsv", rows)
    return try hearth.run(
      [
        "train", "--model", model, "--data", data, "--task", "classify", "--output", "out", "--epochs",
        epochs,
      ]
        + extra)
  }

  /// Requires the code, one line that holds `parts`, and no output directory.
  private func expectRefusal(
    _ result: HearthProcess.Result, _ hearth: HearthProcess, code: Int32, _ parts: String...,
    location: SourceLocation = #_sourceLocation
  ) {
    #expect(result.exitCode == code, "\(result.errors)", sourceLocation: location)
    let errors = result.errors.split(separator: "\n").filter { $0.hasPrefix("Error: ") }
    #expect(errors.count == 1, "\(result.errors)", sourceLocation: location)
    for part in parts {
      #expect(errors.first?.contains(part) == true, "\(result.errors)", sourceLocation: location)
    }
    #expect(!result.errors.contains("defect of Hearth"), sourceLocation: location)
    #expect(hearth.contents("out") == [], "something half-written stays", sourceLocation: location)
  }

  @Test func weightsThatAreMissing() throws {
    try HearthProcess.withScratch { hearth in
      let model = try copyOfModel(hearth)
      try FileManager.default.removeItem(at: model.appending(path: "model.safetensors"))
      try expectRefusal(train(hearth, model: model.path), hearth, code: 66, "model.safetensors")
    }
  }

  @Test func weightsThatAreTruncatedAnywhere() throws {
    try HearthProcess.withScratch { hearth in
      let model = try copyOfModel(hearth)
      let file = model.appending(path: "model.safetensors")
      let whole = try Data(contentsOf: file)
      for kept in [0, 4, 8, 100, whole.count / 2, whole.count - 1] {
        try whole.prefix(kept).write(to: file)
        try expectRefusal(train(hearth, model: model.path), hearth, code: 65, "model.safetensors")
        let inspection = try hearth.run(["inspect", model.path])
        #expect(inspection.exitCode == 65, "\(inspection.errors)")
      }
    }
  }

  /// Replaces text in the header of the weights by text of the same length.
  private func editHeader(_ model: URL, _ old: String, _ new: String) throws {
    let file = model.appending(path: "model.safetensors")
    var bytes = try Data(contentsOf: file)
    let range = try #require(bytes.range(of: Data(old.utf8)), "no '\(old)' in the header")
    try #require(old.utf8.count == new.utf8.count)
    bytes.replaceSubrange(range, with: Data(new.utf8))
    try bytes.write(to: file)
  }

  @Test func weightsOfAnUnknownElementType() throws {
    try HearthProcess.withScratch { hearth in
      let model = try copyOfModel(hearth)
      try editHeader(model, #""F32""#, #""Q99""#)
      try expectRefusal(train(hearth, model: model.path), hearth, code: 65, "Q99")
    }
  }

  @Test func weightsOfAnotherShape() throws {
    try HearthProcess.withScratch { hearth in
      let model = try copyOfModel(hearth)
      try editHeader(model, "[96,48]", "[48,96]")
      try expectRefusal(train(hearth, model: model.path), hearth, code: 65, "[48, 96]")
    }
  }

  /// Replaces a piece of the model's config.json.
  private func editConfiguration(_ model: URL, _ old: String, _ new: String) throws {
    let file = model.appending(path: "config.json")
    let text = try String(contentsOf: file, encoding: .utf8)
    try #require(text.contains(old), "no \(old)")
    try Data(text.replacingOccurrences(of: old, with: new).utf8).write(to: file)
  }

  @Test(arguments: [
    (#""num_hidden_layers": 3"#, #""num_hidden_layers": 4"#, "num_hidden_layers"),
    (#""num_hidden_layers": 3"#, #""num_hidden_layers": 2"#, "num_hidden_layers"),
    (#""intermediate_size": 96"#, #""intermediate_size": 97"#, "intermediate_size"),
    (#""hidden_size": 48"#, #""hidden_size": -48"#, "hidden_size"),
    (#""vocab_size": 420"#, #""vocab_size": 419"#, "vocab_size"),
    (#""model_type": "bert""#, #""model_type": "gpt2""#, "gpt2"),
    (#""hidden_act": "gelu""#, #""hidden_act": "tanhshrink""#, "tanhshrink"),
    (#""num_attention_heads": 4,"#, "", "num_attention_heads"),
    (#""num_attention_heads": 4"#, #""num_attention_heads": "four""#, "num_attention_heads"),
    ("}", "", "config.json"),
  ])
  func aConfigurationThatContradictsOrIsUnknown(old: String, new: String, named: String) throws {
    try HearthProcess.withScratch { hearth in
      let model = try copyOfModel(hearth)
      try editConfiguration(model, old, new)
      try expectRefusal(train(hearth, model: model.path), hearth, code: 65, named)
    }
  }

  @Test func aTokenizerThatIsMissing() throws {
    try HearthProcess.withScratch { hearth in
      let model = try copyOfModel(hearth)
      try FileManager.default.removeItem(at: model.appending(path: "vocab.txt"))
      try expectRefusal(train(hearth, model: model.path), hearth, code: 66, "vocab.txt")
    }
  }

  @Test(arguments: [
    ("", "data.tsv"),
    ("text\tlabel\n", "data.tsv"),
    ("text\tlabel\na\t1\nb\t1\nc\t1\n", "'1'"),
    ("text\tlabel\n\t1\n\t0\n", "data.tsv"),
  ])
  func rowsWithoutContent(rows: String, named: String) throws {
    try HearthProcess.withScratch { hearth in
      try expectRefusal(train(hearth, model: Self.bert.path, rows: rows), hearth, code: 65, named)
    }
  }

  @Test func aColumnThatIsNotThere() throws {
    try HearthProcess.withScratch { hearth in
      let result = try train(hearth, model: Self.bert.path, extra: ["--label-column", "stars"])
      expectRefusal(result, hearth, code: 64, "stars", "'text', 'label'")
    }
  }

  @Test func underStrictTheFirstMalformedRowEndsTheRunOtherwiseItIsCounted() throws {
    try HearthProcess.withScratch { hearth in
      let rows = Self.goodRows + "one cell only\n" + Self.goodRows.dropFirst(11)
      let strict = try train(hearth, model: Self.bert.path, rows: rows, extra: ["--strict"])
      expectRefusal(strict, hearth, code: 65, "row 26", "--strict")
      let lenient = try train(hearth, model: Self.bert.path, rows: rows, extra: ["--json"])
      #expect(lenient.exitCode == 0, "\(lenient.errors)")
      let started = try #require(try lenient.events.first { $0["event"] as? String == "started" })
      #expect(started["skipped_rows"] as? Int == 1)
      #expect(lenient.errors.contains("row 26"))
    }
  }

  @Test func textThatIsTooLongIsCutAndCounted() throws {
    try HearthProcess.withScratch { hearth in
      let long = String(repeating: "the old laptop on the table ", count: 50)
      let rows = Self.goodRows + "\(long)\t1\n\(long)again\t0\n"
      let result = try train(
        hearth, model: Self.bert.path, rows: rows,
        extra: ["--max-length", "16", "--json", "--validation-fraction", "0"])
      #expect(result.exitCode == 0, "\(result.errors)")
      let started = try #require(try result.events.first { $0["event"] as? String == "started" })
      #expect(started["truncated_texts"] as? Int == 2)
      #expect(result.errors.contains("2 texts cut"))
    }
  }

  @Test func anAdapterOfAnotherBackbone() throws {
    try HearthProcess.withScratch { hearth in
      #expect(try train(hearth, model: Self.bert.path).exitCode == 0)
      let other = try copyOfModel(hearth)
      let file = other.appending(path: "model.safetensors")
      var bytes = try Data(contentsOf: file)
      bytes[bytes.count - 1] ^= 1
      try bytes.write(to: file)
      for arguments in [
        ["predict", "--adapter", "out", "--model", other.path],
        ["evaluate", "--adapter", "out", "--model", other.path, "--data", "data.tsv"],
      ] {
        let result = try hearth.run(arguments, input: "rain\n")
        #expect(result.exitCode == 69, "\(result.errors)")
        #expect(result.errors.contains("backbone"))
        #expect(result.output.isEmpty)
      }
    }
  }

  @Test func anAdapterWhoseTensorsWereChanged() throws {
    try HearthProcess.withScratch { hearth in
      #expect(try train(hearth, model: Self.bert.path).exitCode == 0)
      let file = hearth.root.appending(path: "out/adapter.safetensors")
      var bytes = try Data(contentsOf: file)
      bytes[bytes.count - 1] ^= 1
      try bytes.write(to: file)
      for arguments in [["predict", "--adapter", "out"], ["inspect", "out"]] {
        let result = try hearth.run(arguments, input: "rain\n")
        #expect(result.exitCode == 69, "\(result.errors)")
        #expect(result.errors.contains("adapter.safetensors"))
      }
      try bytes.prefix(bytes.count / 2).write(to: file)
      #expect(try hearth.run(["predict", "--adapter", "out"], input: "rain\n").exitCode == 65)
    }
  }

  @Test func aCacheOfAnotherModel() throws {
    try HearthProcess.withScratch { hearth in
      let first = try train(
        hearth, model: Self.bert.path, extra: ["--keep-cache", "--cache-directory", "cache"])
      #expect(first.exitCode == 0, "\(first.errors)")
      try FileManager.default.removeItem(at: hearth.root.appending(path: "out"))
      let before = hearth.contents("cache")
      let second = try train(
        hearth, model: Self.t5.path, epochs: "2", extra: ["--cache-directory", "cache"])
      expectRefusal(second, hearth, code: 69, "cache")
      #expect(hearth.contents("cache") == before, "a foreign cache is left alone")
    }
  }

  @Test func aDirectoryThatIsNothing() throws {
    try HearthProcess.withScratch { hearth in
      let result = try hearth.run(["inspect", hearth.root.path])
      #expect(result.exitCode == 65)
      #expect(result.errors.contains("config.json"))
      let predict = try hearth.run(["predict", "--adapter", hearth.root.path])
      #expect(predict.exitCode == 66, "\(predict.errors)")
    }
  }

  @Test func aMemoryBudgetThatIsTooSmall() throws {
    try HearthProcess.withScratch { hearth in
      let text = String(repeating: "the old laptop ", count: 20)
      let rows = "text\tlabel\n" + (0..<2_000).map { "\(text)\($0)\t\($0 % 2)\n" }.joined()
      let result = try train(
        hearth, model: Self.bert.path, rows: rows,
        extra: ["--memory-budget", "16MiB", "--batch", "1024", "--micro-batch", "512"])
      expectRefusal(result, hearth, code: 75, "16.0 MiB", "--memory-budget")
    }
  }

  @Test func aDiskThatFillsUpWhileTheCacheIsWritten() throws {
    try HearthProcess.withScratch { hearth in
      let data = try hearth.file("data.tsv", Self.goodRows)
      // A limit on file size stands in for a full disk: both refuse the next byte of a file.
      let result = try hearth.shell(
        """
        ulimit -f 64
        exec "$HEARTH" train --model '\(Self.bert.path)' --data '\(data)' --task classify --output out
        """)
      #expect(result.exitCode == 74, "\(result.errors)")
      #expect(result.errors.contains("Error: "))
      #expect(!hearth.contents("out").contains("adapter.json"), "a full disk leaves no adapter")
      let resumed = try hearth.run(["train", "--resume", "out", "--json"])
      #expect(resumed.exitCode == 0, "with room again the run goes on: \(resumed.errors)")
    }
  }

  @Test func inputThatIsNoUTF8() throws {
    try HearthProcess.withScratch { hearth in
      #expect(try train(hearth, model: Self.bert.path).exitCode == 0)
      let result = try hearth.shell(#"printf 'fine\nb\377d\n' | "$HEARTH" predict --adapter out"#)
      #expect(result.exitCode == 65)
      #expect(result.errors.contains("line 2"))
    }
  }
}
