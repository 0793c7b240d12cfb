import Foundation
import Testing

/// Writing, converting and verifying as a person does it, on the small models of Tests/Fixtures.
@Suite struct EncoderDecoderCommandTests {
  private static let bert = HearthProcess.fixtures.appending(path: "tiny-bert").path
  private static let t5 = HearthProcess.fixtures.appending(path: "tiny-t5").path

  @Test func generateWritesOneLineForEachLine() throws {
    try HearthProcess.withScratch { hearth in
      let texts = "the house is wonderful.\n\nHello world\r\n"
      let arguments = ["generate", "--model", Self.t5, "--beams", "4", "--max-tokens", "16"]
      let plain = try hearth.run(arguments, input: texts)
      #expect(plain.exitCode == 0, "\(plain.errors)")
      let lines = plain.output.split(separator: "\n", omittingEmptySubsequences: false).dropLast()
      #expect(lines.count == 3)

      let file = try hearth.file("texts.txt", texts)
      let json = try hearth.run(arguments + ["--json", "--threads", "1", file])
      let events = try json.events
      #expect(events.map { $0["row"] as? Int } == [1, 2, 3])
      #expect(events.map { $0["text"] as? String } == lines.map(String.init))
      #expect(events.allSatisfy { $0["truncated"] as? Bool == false && ($0["tokens"] as? Int ?? 99) <= 16 })
      let cut = events.count { $0["cut"] as? Bool == true }
      #expect(json.errors.contains("\(cut) outputs did not end") == (cut > 0))
      // What transformers writes for it (Tests/Fixtures/tiny-t5/written.json).
      let reference = try Data(
        contentsOf: HearthProcess.fixtures.appending(path: "tiny-t5").appending(path: "written.json"))
      let cases = try #require(try JSONSerialization.jsonObject(with: reference) as? [[String: Any]])
      let known = cases.first {
        $0["text"] as? String == "Hello world" && $0["beams"] as? Int == 4
      }
      #expect(events[2]["text"] as? String == known?["output"] as? String)
    }
  }

  @Test func generateNeedsADecoder() throws {
    try HearthProcess.withScratch { hearth in
      let result = try hearth.run(["generate", "--model", Self.bert], input: "a\n")
      #expect(result.exitCode == 65)
      #expect(
        result.output.isEmpty && result.errors.contains("hearth convert bert-to-bart"), "\(result.errors)")
    }
  }

  @Test func aConvertedModelIsInspectedTrainedAndWritesText() throws {
    try HearthProcess.withScratch { hearth in
      let result = try hearth.run(
        [
          "convert", "bert-to-bart", "--model", Self.bert, "--output", "bart", "--decoder-layers", "1",
          "--json",
        ])
      #expect(result.exitCode == 0, "\(result.errors)")
      let summary = try result.lastEvent
      #expect(summary["encoder_layers"] as? Int == 3 && summary["decoder_layers"] as? Int == 1)
      #expect(hearth.contents("bart") == ["config.json", "model.safetensors", "vocab.txt"])
      let inspection = try hearth.run(["inspect", "bart", "--json"]).lastEvent
      #expect(inspection["digest"] as? String == summary["digest"] as? String)
      #expect(inspection["architecture"] as? String == "BART encoder-decoder")

      let data = try hearth.file(
        "data.tsv", "text\tlabel\n" + (0..<24).map { "the house \($0)\t\($0 % 2)\n" }.joined())
      let trained = try hearth.run([
        "train", "--model", "bart", "--data", data, "--task", "classify", "--output", "out", "--epochs", "2",
        "--threads", "1",
      ])
      #expect(trained.exitCode == 0, "\(trained.errors)")
      #expect(try hearth.run(["predict", "--adapter", "out"], input: "the house\n").exitCode == 0)
      let written = try hearth.run(
        ["generate", "--model", "bart", "--max-tokens", "4"], input: "the house\na\n")
      #expect(
        written.exitCode == 0
          && written.output.split(separator: "\n", omittingEmptySubsequences: false).count == 3)

      let again = try hearth.run(["convert", "bert-to-bart", "--model", Self.bert, "--output", "bart"])
      #expect(again.exitCode == 73, "a model is not overwritten")
      let other = try hearth.run(["convert", "bert-to-bart", "--model", Self.t5, "--output", "other"])
      #expect(other.exitCode == 65 && hearth.contents("other") == [])
    }
  }

  @Test(arguments: ["parallel", "lora", "houlsby", "full"])
  func aTextToTextAdapterIsTrainedMeasuredAndWrites(technique: String) throws {
    try HearthProcess.withScratch { hearth in
      let data = try hearth.file(
        "pairs.jsonl",
        (0..<24).map { #"{"input":"the house \#($0)","target":"\#($0 % 2 == 0 ? "yes" : "no")"}"# + "\n" }
          .joined())
      let trained = try hearth.run([
        "train", "--model", Self.t5, "--data", data, "--task", "seq2seq", "--output", "out", "--epochs", "2",
        "--technique", technique, "--threads", "2", "--max-target-length", "8", "--max-length", "16",
        "--rows",
        "16", "--json",
      ])
      #expect(trained.exitCode == 0, "\(trained.errors)")
      let summary = try trained.lastEvent
      let metrics = try #require(summary["metrics"] as? [[String: Any]])
      #expect(metrics.compactMap { $0["name"] as? String } == ["exact_match", "token_loss", "perplexity"])
      #expect(summary["technique"] as? String == technique)
      #expect(summary["trainable_parameters"] as? Int ?? 0 > 0)
      #expect(hearth.contents("out").contains("adapter_model.safetensors") == (technique == "lora"))

      let evaluated = try hearth.run(["evaluate", "--adapter", "out", "--data", data, "--json"])
      #expect(evaluated.exitCode == 0, "\(evaluated.errors)")
      let texts = "the house 3\nthe house 4\n"
      let written = try hearth.run(["generate", "--adapter", "out"], input: texts)
      let beams = try hearth.run(["generate", "--adapter", "out", "--beams", "3", "--json"], input: texts)
      let predicted = try hearth.run(["predict", "--adapter", "out"], input: texts)
      #expect(written.exitCode == 0 && beams.exitCode == 0, "\(written.errors) \(beams.errors)")
      #expect(predicted.output == written.output && predicted.exitCode == 0)
      #expect(try beams.events.count == 2)

      let merged = try hearth.run(["convert", "merge", "--adapter", "out", "--output", "merged"])
      let canMerge = technique == "lora" || technique == "full"
      #expect(merged.exitCode == (canMerge ? 0 : 65), "\(merged.errors)")
      guard canMerge else { return }
      let plain = try hearth.run(
        ["generate", "--model", "merged", "--max-tokens", "8", "--max-length", "16"], input: texts)
      #expect(plain.output == written.output, "\(plain.errors)")
    }
  }

  @Test func anOptionOfAnotherTechniqueIsRefusedByName() throws {
    try HearthProcess.withScratch { hearth in
      let data = try hearth.file("data.tsv", "text\tlabel\na\t0\n")
      let start = ["train", "--model", Self.t5, "--data", data, "--task", "classify"]
      for (options, name) in [
        (["--rank", "4"], "--rank"), (["--technique", "lora", "--preset", "lst"], "--preset"),
        (["--technique", "full", "--keep-cache"], "--keep-cache"),
        (["--technique", "lora", "--pooling", "segments"], "--pooling"),
        (["--pooling", "mean"], "--pooling"),
        (["--technique", "lora", "--lora-targets", "query,quer"], "--lora-targets"),
        (["--max-target-length", "9"], "--max-target-length"),
      ] {
        let result = try hearth.run(start + options)
        #expect(result.exitCode == 64 && result.errors.contains(name), "\(result.errors)")
      }
    }
  }

  @Test func verifySaysWhenNothingIsKnown() throws {
    try HearthProcess.withScratch { hearth in
      let result = try hearth.run(["verify", "--model", Self.t5, "--json"])
      #expect(result.exitCode == 65)
      #expect(try result.lastEvent["event"] as? String == "failed")
      #expect(result.errors.contains("no golden values are known"), "\(result.errors)")
    }
  }
}
