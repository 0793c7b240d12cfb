import Foundation
import Testing

/// The main job as a person runs it, on the small models of Tests/Fixtures.
@Suite struct TrainingCommandTests {
  private static let bert = HearthProcess.fixtures.appending(path: "tiny-bert").path
  private static let t5 = HearthProcess.fixtures.appending(path: "tiny-t5").path
  private static let bart = HearthProcess.fixtures.appending(path: "tiny-bart").path

  private static func arguments(
    model: String = bert, data: String, output: String, extra: [String] = []
  ) -> [String] {
    [
      "train", "--model", model, "--data", data, "--task", "classify", "--output", output, "--batch", "8",
      "--threads", "1", "--json",
    ] + extra
  }

  @Test(arguments: [bert, t5, bart])
  func aRunEndsInTheDocumentedLineAndAnAdapterThatEveryCommandReads(model: String) throws {
    try HearthProcess.withScratch { hearth in
      let data = try hearth.file("data.tsv", wordRows(80))
      let result = try hearth.run(
        Self.arguments(model: model, data: data, output: "out", extra: ["--epochs", "3"]))
      #expect(result.exitCode == 0, "\(result.errors)")
      let summary = try result.lastEvent
      let metric = try #require(summary["metric"] as? [String: Any])
      #expect(metric["name"] as? String == "accuracy")
      #expect(metric["before"] is Double && metric["after"] is Double)
      let epochs = try #require(summary["epochs"] as? [[String: Any]])
      #expect(epochs.map { $0["mode"] as? String } == ["live", "cached", "cached"])
      #expect(
        epochs.allSatisfy {
          ($0["seconds"] as? Double ?? 0) > 0 && ($0["samples_per_second"] as? Double ?? 0) > 0
        })
      #expect((summary["cache_bytes"] as? Int ?? 0) > 0)
      #expect((summary["peak_resident_bytes"] as? Int ?? 0) > 0)
      let digest = try #require(summary["adapter_digest"] as? String)
      let names = try result.events.dropLast().compactMap { $0["event"] as? String }
      for name in ["started", "phase", "progress", "evaluated", "epoch", "backbone_released"] {
        #expect(names.contains(name), "\(name)")
      }
      #expect(!hearth.contents("out").contains("cache"), "the cache goes unless it is to be kept")

      let inspection = try hearth.run(["inspect", "out", "--json"]).lastEvent
      #expect(inspection["kind"] as? String == "adapter")
      #expect(inspection["digest"] as? String == digest)

      let evaluation = try hearth.run(["evaluate", "--adapter", "out", "--data", data, "--json"])
      #expect(evaluation.exitCode == 0, "\(evaluation.errors)")
      #expect(try evaluation.lastEvent["adapter_digest"] as? String == digest)

      let texts = "rain was good\n\na small boat was bad\r\n"
      let prediction = try hearth.run(["predict", "--adapter", "out"], input: texts)
      #expect(prediction.exitCode == 0, "\(prediction.errors)")
      let lines = prediction.output.split(separator: "\n", omittingEmptySubsequences: false).dropLast()
      #expect(lines.count == 3)
      for line in lines {
        let cells = line.split(separator: "\t")
        #expect(cells.count == 3 && ["0", "1"].contains(String(cells[0])))
        #expect(abs(cells.dropFirst().compactMap { Double($0) }.reduce(0, +) - 1) < 1e-5)
      }
      let table = try hearth.run(["predict", "--adapter", "out", "--json", data])
      #expect(try table.events.count == 80)
      #expect(try table.events.first?["row"] as? Int == 2, "a row is the line of the file")
    }
  }

  @Test func oneThreadAndTwoGiveTheSameAdapter() throws {
    try HearthProcess.withScratch { hearth in
      let data = try hearth.file("data.tsv", wordRows(60))
      let one = try hearth.run(Self.arguments(data: data, output: "one", extra: ["--epochs", "2"]))
      let two = try hearth.run(
        Self.arguments(data: data, output: "two", extra: ["--epochs", "2"]).map { $0 == "1" ? "2" : $0 })
      let digest = try one.lastEvent["adapter_digest"] as? String
      #expect(digest != nil)
      #expect(try two.lastEvent["adapter_digest"] as? String == digest)
    }
  }

  @Test func anInterruptedRunGoesOnToTheAdapterOfAnUninterruptedOne() throws {
    try HearthProcess.withScratch { hearth in
      let data = try hearth.file("data.tsv", wordRows(200))
      let extra = ["--epochs", "100", "--validation-fraction", "0.1"]
      let whole = try hearth.run(Self.arguments(data: data, output: "whole", extra: extra))
      let digest = try #require(try whole.lastEvent["adapter_digest"] as? String, "\(whole.errors)")

      // Once in the first epoch, while the cache is filled, and once in a cached one.
      var running = try hearth.start(Self.arguments(data: data, output: "parts", extra: extra))
      for (event, signal) in [(#""phase":"live""#, SIGINT), (#""phase":"cached""#, SIGTERM)] {
        #expect(running.waitForOutput(event))
        kill(running.process.processIdentifier, signal)
        let stopped = running.wait()
        #expect(stopped.exitCode == 130, "\(stopped.errors)")
        #expect(stopped.errors.contains("--resume 'parts'"))
        #expect(try stopped.lastEvent["exit_code"] as? Int == 130)
        let inspection = try hearth.run(["inspect", "parts", "--json"]).lastEvent
        #expect(inspection["kind"] as? String == "run")
        running = try hearth.start(["train", "--resume", "parts", "--json"])
      }
      let resumed = running.wait()
      #expect(resumed.exitCode == 0, "\(resumed.errors)")
      #expect(try resumed.lastEvent["adapter_digest"] as? String == digest)
      #expect((try resumed.lastEvent["epochs"] as? [Any])?.count == 100)
      let again = try hearth.run(["train", "--resume", "parts"])
      #expect(again.exitCode == 66 && again.errors.contains("finished"), "\(again.errors)")
    }
  }

  @Test func aKilledRunGoesOnToTheSameAdapter() throws {
    try HearthProcess.withScratch { hearth in
      let data = try hearth.file("data.tsv", wordRows(200))
      let extra = ["--epochs", "100"]
      let whole = try hearth.run(Self.arguments(data: data, output: "whole", extra: extra))
      let digest = try #require(try whole.lastEvent["adapter_digest"] as? String, "\(whole.errors)")
      let running = try hearth.start(Self.arguments(data: data, output: "killed", extra: extra))
      #expect(running.waitForOutput(#""phase":"cached""#))
      kill(running.process.processIdentifier, SIGKILL)
      #expect(running.wait().exitCode == 128 + SIGKILL)
      let resumed = try hearth.run(["train", "--resume", "killed", "--json"])
      #expect(try resumed.lastEvent["adapter_digest"] as? String == digest, "\(resumed.errors)")
    }
  }

  @Test func aKeptCacheMakesTheNextRunsFirstEpochCachedWithTheSameResult() throws {
    try HearthProcess.withScratch { hearth in
      let data = try hearth.file("data.tsv", wordRows(60))
      let extra = ["--epochs", "2", "--keep-cache", "--cache-directory", "cache"]
      let first = try hearth.run(Self.arguments(data: data, output: "first", extra: extra)).lastEvent
      let cache = try hearth.run(["inspect", "cache", "--json"]).lastEvent
      #expect(cache["kind"] as? String == "cache")
      let second = try hearth.run(Self.arguments(data: data, output: "second", extra: extra)).lastEvent
      #expect((second["epochs"] as? [[String: Any]])?.first?["mode"] as? String == "cached")
      #expect(second["adapter_digest"] as? String == first["adapter_digest"] as? String)
    }
  }

  @Test(arguments: ["float32", "float16", "int8"])
  func everyCacheElementTrains(element: String) throws {
    try HearthProcess.withScratch { hearth in
      let data = try hearth.file("data.tsv", wordRows(30))
      let result = try hearth.run(
        Self.arguments(data: data, output: "out", extra: ["--epochs", "2", "--cache", element]))
      #expect(result.exitCode == 0, "\(result.errors)")
    }
  }

  @Test(arguments: [bert, bart])
  func scoresOfPairsAreRegressed(model: String) throws {
    try HearthProcess.withScratch { hearth in
      let lines = (0..<60).map { "a boat,the boat number \($0),\(Double($0 % 6))" }
      let data = try hearth.file("pairs.csv", "sentence1,sentence2,score\n" + lines.joined(separator: "\n"))
      let result = try hearth.run([
        "train", "--model", model, "--data", data, "--task", "regress", "--epochs", "2", "--output",
        "out",
        "--json",
      ])
      #expect(result.exitCode == 0, "\(result.errors)")
      let metric = try #require(try result.lastEvent["metric"] as? [String: Any])
      #expect(["pearson", "spearman"].contains(metric["name"] as? String ?? ""))
      let prediction = try hearth.run(["predict", "--adapter", "out", "--json", data])
      #expect(try prediction.events.allSatisfy { $0["score"] is Double })
    }
  }

  @Test func humanOutputIsPlainLinesAndTheResult() throws {
    try HearthProcess.withScratch { hearth in
      let data = try hearth.file("data.tsv", wordRows(40))
      let result = try hearth.run(
        Self.arguments(data: data, output: "out", extra: ["--epochs", "2"]).filter { $0 != "--json" })
      #expect(result.exitCode == 0)
      #expect(!result.errors.contains("\u{1B}") && !result.errors.contains("\r"))
      #expect(result.errors.contains("epoch 1/2 live") && result.errors.contains("epoch 2/2 cached"))
      #expect(result.output.contains("accuracy: ") && result.output.contains("digest: "))
    }
  }

  @Test func aClosedOutputEndsAPredictionQuietly() throws {
    try HearthProcess.withScratch { hearth in
      let data = try hearth.file("data.tsv", wordRows(30))
      #expect(
        try hearth.run(Self.arguments(data: data, output: "out", extra: ["--epochs", "1"])).exitCode == 0)
      // Whoever runs the tests may ignore SIGPIPE; then the programs before Hearth complain too.
      let texts = "{ yes 'rain was good' | head -n 100000; } 2>/dev/null"
      let result = try hearth.shell(
        "{ \(texts) | \"$HEARTH\" predict --adapter out; echo \"code $?\" >&2; } | head -n 1")
      #expect(result.errors == "code 0\n")
      #expect(result.output.split(separator: "\n").count == 1)
    }
  }
}
