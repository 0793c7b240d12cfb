import FoundationEssentials
import HearthNode
import NeuralNetworks
import TensorKernels
import Testing

@Suite struct RunEventJSONTests {
  private static let summary = TrainSummary(
    metric: MetricChange(name: "accuracy", before: 0.5, after: 0.875), technique: "lora",
    trainableParameters: 12,
    epochs: [
      EpochSummary(mode: .live, seconds: 2, samplesPerSecond: 10, loss: 0.5),
      EpochSummary(mode: .cached, seconds: 1, samplesPerSecond: 20, loss: 0.25),
    ],
    cacheBytes: 4096, peakResidentBytes: 8192, adapterDigest: "ab", adapterDirectory: "out/adapter",
    steps: 6, metrics: [MetricValue(name: "accuracy", value: 0.875)])

  @Test func theSummaryIsTheDocumentedLine() throws {
    #expect(
      try jsonLine(RunEvent.finished(Self.summary))
        == #"{"adapter_digest":"ab","adapter_directory":"out/adapter","cache_bytes":4096,"#
        + #""epochs":[{"loss":0.5,"mode":"live","samples_per_second":10,"seconds":2},"#
        + #"{"loss":0.25,"mode":"cached","samples_per_second":20,"seconds":1}],"#
        + #""metric":{"after":0.875,"before":0.5,"name":"accuracy"},"#
        + #""metrics":[{"name":"accuracy","value":0.875}],"peak_resident_bytes":8192,"steps":6,"#
        + #""technique":"lora","trainable_parameters":12,"training_seconds":3}"#)
  }

  @Test func theTextOfALongRunShowsBothEndsOfItsEpochs() {
    var summary = Self.summary
    #expect(summary.text.contains("1      live    2.00     10.0       0.5000\n2      cached"))
    summary.epochs = (0..<300).map {
      EpochSummary(mode: .cached, seconds: 1, samplesPerSecond: 1, loss: Double($0))
    }
    let lines = summary.text.split(separator: "\n")
    #expect(lines.count == 1 + 1 + 21 + 4)
    #expect(lines.contains("…"))
    #expect(
      summary.text.contains("\n10 ") && !summary.text.contains("\n11 ") && summary.text.contains("\n300 "))
  }

  @Test func aMetricThatWasNotMeasuredIsNullAndNotAbsent() throws {
    var summary = Self.summary
    summary.metric.before = nil
    summary.metric.after = nil
    let line = try jsonLine(summary)
    #expect(line.contains(#""metric":{"after":null,"before":null,"name":"accuracy"}"#))
    let back = try JSONDecoder.snakeCase.decode(TrainSummary.self, from: Data(line.utf8))
    #expect(back == summary)
  }

  @Test func everyOtherEventIsOneFlatObjectWithItsName() throws {
    let events: [(RunEvent, String)] = [
      (.phase(.evaluation), #"{"event":"phase","phase":"evaluation"}"#),
      (
        .evaluated(MetricValue(name: "f1", value: 0.5), epoch: 2),
        #"{"epoch":2,"event":"evaluated","metric":"f1","value":0.5}"#
      ),
      (.checkpoint(step: 3), #"{"event":"checkpoint","step":3}"#),
      (.warning("a\nb"), #"{"event":"warning","message":"a\nb"}"#),
      (
        .backboneReleased(residentBefore: 2, residentAfter: 1),
        #"{"event":"backbone_released","resident_after":1,"resident_before":2}"#
      ),
      (
        .epoch(index: 1, EpochSummary(mode: .cached, seconds: 1, samplesPerSecond: 2, loss: .nan)),
        #"{"epoch":1,"event":"epoch","loss":"nan","mode":"cached","samples_per_second":2,"seconds":1}"#
      ),
      (
        .progress(RunProgress(phase: .cachedEpoch, epoch: 2, step: 1, steps: 4, samplesPerSecond: 8)),
        #"{"epoch":2,"event":"progress","phase":"cached","samples_per_second":8,"step":1,"steps":4}"#
      ),
    ]
    for (event, line) in events { #expect(try jsonLine(event) == line) }
  }

  @Test func aRequestSurvivesItsRecord() throws {
    var request = TrainRequest(
      modelDirectory: "m", dataFile: "d.tsv", task: .regress, output: "o")
    request.taps = [0, 3]
    request.seed = .max
    request.learningRate = 3e-4
    request.cache = .int8
    request.data.labelColumn = "score"
    request.technique = .lora
    request.loraTargets = ["query", "down"]
    request.gradientPrecision = .half
    (request.rank, request.alpha, request.dropout, request.rowLimit) = (4, 8, 0.1, 100)
    let data = try JSONEncoder().encode(request)
    #expect(try JSONDecoder().decode(TrainRequest.self, from: data) == request)
  }
}

extension JSONDecoder {
  fileprivate static var snakeCase: JSONDecoder {
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    return decoder
  }
}

@Suite struct CommandEndTests {
  private struct Surprise: Error {}

  @Test func aFailureSaysHowToEnd() {
    let end = CommandEnd(
      RunFailure.missingInput(role: "data file", path: "x.tsv", detail: "does not exist; check the path"))
    #expect(end.message == "data file 'x.tsv': does not exist; check the path")
    #expect(end.reason.rawValue == 66)
  }

  @Test func anUnknownErrorIsADefect() {
    let end = CommandEnd(Surprise())
    #expect(end.reason.rawValue == 70)
    #expect(end.message.contains("defect of Hearth"))
  }

  @Test func aMessageStaysOneLineWhateverAPathHolds() {
    let end = CommandEnd(RunFailure.inputOutput(path: "a\nb\u{1B}[31m", detail: "x\r\ny"))
    #expect(!end.message.unicodeScalars.contains { $0.value < 32 })
  }

  @Test func everyFailureOfARunNamesItsNumbers() {
    let budget = RunFailure.memoryBudgetExceeded(
      needed: 3 << 30, budget: 1 << 30, detail: "1 GiB of it workspace")
    #expect(budget.description.contains("3.0 GiB") && budget.description.contains("1.0 GiB"))
    #expect(budget.reason.rawValue == 75)
    let interrupted = RunFailure.interrupted(runDirectory: "out", step: 7, steps: 9)
    #expect(interrupted.description.contains("7 of 9") && interrupted.description.contains("--resume 'out'"))
    #expect(interrupted.reason.rawValue == 130)
    let disk = RunFailure.diskBudgetExceeded(needed: 5 << 30, free: 1 << 20, path: "/c")
    #expect(disk.description.contains("5.0 GiB") && disk.description.contains("1.0 MiB"))
    #expect(disk.reason.rawValue == 74)
    let result = RunFailure.resultDiskExceeded(needed: 2 << 30, free: 3 << 20, path: "/home/hearth")
    #expect(result.description.contains("2.0 GiB") && result.description.contains("3.0 MiB"))
    #expect(result.description.contains("/home/hearth") && result.reason.rawValue == 74)
  }

  @Test func aFailedCommandsLastLineIsJSONToo() throws {
    let line = try jsonLine(CommandEnd(RunFailure.notResumable(path: "out", detail: "holds no run")))
    #expect(
      line == #"{"event":"failed","exit_code":66,"message":"'out' cannot be resumed: holds no run","#
        + #""reason":"missingInput"}"#)
  }
}

@Suite struct CancellationFlagTests {
  @Test func aFlagStaysSet() {
    let flag = CancellationFlag()
    #expect(!flag.isCancelled)
    flag.cancel()
    flag.cancel()
    #expect(flag.isCancelled)
  }
}
