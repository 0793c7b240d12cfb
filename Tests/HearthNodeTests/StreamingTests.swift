import Foundation
import HearthNode
import TensorKernels
import Testing

private let fixtures = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
  .deletingLastPathComponent().appendingPathComponent("Fixtures").path

/// A directory with rows that is gone after the test, and what its runs reported.
private final class StreamedRuns {
  let path: String
  private(set) var events: [RunEvent] = []

  init() throws {
    path = NSTemporaryDirectory() + "hearth-streaming-\(UUID().uuidString)"
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    let words = ["good", "bad", "film", "plot", "the", "a", "great", "poor", "story", "cast"]
    let lines = (0..<60).map { index -> String in
      let text = (0..<3 + index % 9).map { words[(index * 7 + $0 * $0 * 3) % words.count] }
      return text.joined(separator: " ") + " \(index)\t" + (index % 2 == 0 ? "yes" : "no")
    }
    try lines.joined(separator: "\n").write(toFile: path + "/rows.tsv", atomically: true, encoding: .utf8)
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  func request(_ model: String, output: String, budget: Int?, epochs: Int = 2) -> TrainRequest {
    var request = TrainRequest(
      modelDirectory: fixtures + "/" + model, dataFile: path + "/rows.tsv", task: .classify,
      output: path + "/" + output)
    request.data.header = false
    request.data.textColumn = "1"
    request.data.labelColumn = "2"
    request.epochs = epochs
    request.batch = 8
    request.microBatch = 2
    request.maxLength = 24
    request.reduction = 2
    request.threads = 1
    request.memoryBudget = budget
    return request
  }

  /// A request for texts to be written.
  func textRequest(_ model: String, output: String, budget: Int?) throws -> TrainRequest {
    let lines = (0..<32).map { index in
      #"{"input":"a \#(index % 3 == 0 ? "great" : "poor") film \#(index)","target":"\#(index % 2 == 0 ? "the good film" : "bad")"}"#
    }
    let file = path + "/texts.jsonl"
    try lines.joined(separator: "\n").write(toFile: file, atomically: true, encoding: .utf8)
    var request = request(model, output: output, budget: budget)
    request.dataFile = file
    request.task = .seq2seq
    request.maximumTargetLength = 16
    request.data = DataOptions()
    request.validationFraction = 0.2
    return request
  }

  func train(_ request: TrainRequest, stopAfter: Int? = nil) throws -> TrainSummary {
    events = []
    let flag = CancellationFlag()
    var left = stopAfter
    return try HearthNode.train(request, cancellation: flag) { event in
      self.events.append(event)
      guard case .progress(let progress) = event, progress.phase != .evaluation else { return }
      left = left.map { $0 - 1 }
      if left == 0 { flag.cancel() }
    }
  }

  func resume(_ output: String, budget: Int?) throws -> TrainSummary {
    events = []
    return try resumeTraining(
      ResumeRequest(runDirectory: path + "/" + output, memoryBudget: budget),
      cancellation: CancellationFlag()
    ) { self.events.append($0) }
  }

  /// The least budget with which the model can be trained.
  func leastBudget(_ model: String) throws -> Int {
    let request = request(model, output: "refused", budget: 1)
    do {
      _ = try train(request)
      Issue.record("a budget of one byte was enough")
    } catch let RunFailure.memoryBudgetExceeded(needed, _, _) {
      #expect(!FileManager.default.fileExists(atPath: request.output), "nothing is written before a refusal")
      return needed
    }
    return 0
  }

  var plan: RunPlan? {
    events.compactMap { if case .started(let plan) = $0 { plan } else { nil } }.first
  }

  var fills: [FillSummary] {
    events.compactMap { if case .filled(let summary) = $0 { summary } else { nil } }
  }

  /// Progress reports of fills.
  var fillReports: Int {
    events.count { if case .progress(let progress) = $0 { progress.phase == .fill } else { false } }
  }

  var modes: [EpochMode] {
    events.compactMap { if case .epoch(_, let summary) = $0 { summary.mode } else { nil } }
  }

  func has(_ phase: RunPhase) -> Bool { events.contains(.phase(phase)) }
}

@Suite("A run whose backbone is over the memory budget")
struct StreamingTests {
  static let models = ["tiny-bert", "tiny-t5", "tiny-bart"]

  @Test("reads it layer by layer and gives the adapter of the run without limits", arguments: models)
  func sameAdapter(model: String) throws {
    let runs = try StreamedRuns()
    let least = try runs.leastBudget(model)
    for epochs in [1, 3] {
      let expected = try runs.train(
        runs.request(model, output: "whole\(epochs)", budget: nil, epochs: epochs))
      let whole = try #require(runs.plan)
      #expect(whole.streaming == nil && !runs.has(.fill) && expected.fill == nil)
      for (name, budget) in [("least", least), ("most", whole.memoryBytes + whole.backboneBytes - 1)] {
        let summary = try runs.train(
          runs.request(model, output: "\(name)\(epochs)", budget: budget, epochs: epochs))
        #expect(summary.adapterDigest == expected.adapterDigest, "\(epochs) epochs with \(budget) bytes")
        #expect(summary.metrics == expected.metrics)
        #expect(runs.modes == Array(repeating: .cached, count: epochs))
        #expect(runs.fills.map(\.samples) == [60])
        #expect(summary.fill == runs.fills.first)
        let plan = try #require(runs.plan?.streaming)
        #expect(plan.bytes <= budget)
        #expect(
          !FileManager.default.fileExists(atPath: runs.path + "/\(name)\(epochs)/cache"),
          "the cache goes at the end, also where one epoch would have needed none")
      }
    }
  }

  @Test("goes on in the middle of a fill, from its last whole chunk")
  func interruptedFill() throws {
    let runs = try StreamedRuns()
    let least = try runs.leastBudget("tiny-t5")
    let expected = try runs.train(runs.request("tiny-t5", output: "whole", budget: nil))
    _ = try runs.train(runs.request("tiny-t5", output: "streamed", budget: least))
    let reports = runs.fillReports
    // At once, in the middle, near the end, and after the fill; resumed with the limit and without.
    for (stop, budget) in [(1, least), (reports / 2, nil), (reports * 3 / 4, least), (reports + 5, least)] {
      do {
        _ = try runs.train(
          runs.request("tiny-t5", output: "parts\(stop)", budget: least), stopAfter: stop)
        Issue.record("the run was not stopped after \(stop) reports")
      } catch let failure as RunFailure {
        guard case .interrupted = failure else { throw failure }
      }
      let summary = try runs.resume("parts\(stop)", budget: budget)
      #expect(summary.adapterDigest == expected.adapterDigest, "stopped after \(stop) reports")
      if stop > reports { #expect(runs.fills.isEmpty, "the fill was done") }
    }
  }

  @Test("computes a damaged record anew, without the backbone in memory")
  func damagedRecord() throws {
    let runs = try StreamedRuns()
    let least = try runs.leastBudget("tiny-t5")
    var request = runs.request("tiny-t5", output: "whole", budget: nil)
    request.cacheDirectory = runs.path + "/cache"
    request.keepCache = true
    let expected = try runs.train(request)
    let shard = runs.path + "/cache/00000.shard"
    let file = try #require(FileHandle(forUpdatingAtPath: shard))
    try file.seek(toOffset: try file.seekToEnd() / 2)
    try file.write(contentsOf: Data(repeating: 0xA5, count: 64))
    try file.close()
    request.output = runs.path + "/again"
    request.memoryBudget = least
    let summary = try runs.train(request)
    #expect(summary.adapterDigest == expected.adapterDigest)
    #expect(runs.fills.count == 1 && (1...2).contains(runs.fills[0].samples), "\(runs.fills)")
  }

  @Test("learns to write texts to the same adapter and metrics", arguments: ["tiny-t5", "tiny-bart"])
  func texts(model: String) throws {
    let runs = try StreamedRuns()
    let expected = try runs.train(try runs.textRequest(model, output: "whole", budget: nil))
    let plan = try #require(runs.plan)
    let budget = plan.memoryBytes + plan.backboneBytes - 1
    let request = try runs.textRequest(model, output: "streamed", budget: budget)
    let summary = try runs.train(request)
    #expect(runs.fills.count == 1 && runs.plan?.streaming != nil)
    #expect(summary.adapterDigest == expected.adapterDigest)
    #expect(summary.metrics == expected.metrics && !summary.metrics.isEmpty)
    var evaluation = EvaluateRequest(adapterDirectory: request.output, dataFile: request.dataFile)
    evaluation.threads = 1
    let whole = try evaluate(evaluation, cancellation: CancellationFlag(), report: { _ in })
    evaluation.memoryBudget = budget
    let streamed = try evaluate(evaluation, cancellation: CancellationFlag(), report: { _ in })
    for (found, wanted) in zip(streamed.metrics, whole.metrics) {
      #expect(found.name == wanted.name && abs(found.value - wanted.value) <= 1e-12 * abs(wanted.value))
    }
  }

  @Test(
    "is refused where the technique trains inside the backbone",
    arguments: [RunTechnique.lora, .houlsby, .full])
  func otherTechniques(technique: RunTechnique) throws {
    let runs = try StreamedRuns()
    var request = runs.request("tiny-bert", output: "refused", budget: 1000)
    request.technique = technique
    if technique == .lora { request.rank = 4 }
    #expect {
      try runs.train(request)
    } throws: { error in
      guard case .memoryBudgetExceeded(_, 1000, let detail)? = error as? RunFailure else { return false }
      return detail.contains("backbone") && !detail.contains("layer by layer")
    }
    #expect(!FileManager.default.fileExists(atPath: request.output))
  }

  @Test("is refused, with what it needs at least, when not even one layer fits")
  func refused() throws {
    let runs = try StreamedRuns()
    let least = try runs.leastBudget("tiny-bert")
    #expect {
      try runs.train(runs.request("tiny-bert", output: "refused", budget: least - 1))
    } throws: { error in
      let failure = error as? RunFailure
      return failure?.reason.rawValue == 75
        && failure?.description.contains("needs at least \(ByteCount(least))") == true
        && failure?.description.contains("layer by layer") == true
    }
    _ = try runs.train(runs.request("tiny-bert", output: "enough", budget: least, epochs: 1))
  }

  @Test("evaluates and predicts to the same numbers", arguments: models)
  func evaluation(model: String) throws {
    let runs = try StreamedRuns()
    let request = runs.request(model, output: "whole", budget: nil)
    _ = try runs.train(request)
    var evaluation = EvaluateRequest(adapterDirectory: request.output, dataFile: request.dataFile)
    evaluation.data = request.data
    evaluation.threads = 1
    let expected = try evaluate(evaluation, cancellation: CancellationFlag(), report: { _ in })
    evaluation.memoryBudget = 1
    var least = 0
    do {
      _ = try evaluate(evaluation, cancellation: CancellationFlag(), report: { _ in })
    } catch let RunFailure.memoryBudgetExceeded(needed, _, _) {
      least = needed
    }
    #expect(least > 0)
    evaluation.memoryBudget = least
    let found = try evaluate(evaluation, cancellation: CancellationFlag(), report: { _ in })
    #expect(found.metrics == expected.metrics)
    let texts = ["a great film", "the poor plot", "good", "bad story cast"].map { PredictionInput(text: $0) }
    var prediction = PredictRequest(adapterDirectory: request.output)
    prediction.threads = 1
    let whole = try Predictor(prediction).predict(texts)
    prediction.memoryBudget = least
    #expect(try Predictor(prediction).predict(texts) == whole)
  }
}
