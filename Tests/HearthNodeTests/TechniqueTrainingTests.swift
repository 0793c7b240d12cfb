import FineTuning
import Foundation
import HearthNode
import TensorKernels
import Testing

/// A directory with training files that is gone after the test.
private final class Scratch {
  let path: String

  init() throws {
    path = NSTemporaryDirectory() + "hearth-technique-\(UUID().uuidString)"
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  private static let words = ["good", "bad", "film", "plot", "the", "a", "great", "poor", "story", "cast"]

  private static func text(_ index: Int) -> String {
    (0..<2 + index % 7).map { words[(index * 7 + $0 * $0 * 3) % words.count] }.joined(separator: " ")
      + " \(index)"
  }

  /// Rows whose label is decided by their number.
  func labels(_ count: Int = 40) throws -> String {
    try write("labels.tsv", (0..<count).map { "\(Self.text($0))\t\($0 % 2 == 0 ? "yes" : "no")" })
  }

  /// Pairs of which the second text is the first or another one.
  func pairs(_ count: Int = 40) throws -> String {
    try write(
      "pairs.tsv",
      ["sentence1\tsentence2\tlabel"]
        + (0..<count).map {
          "\(Self.text($0))\t\(Self.text($0 % 2 == 0 ? $0 : $0 + 1))\t\($0 % 2 == 0 ? "same" : "other")"
        })
  }

  /// The first texts of such pairs alone.
  func unpaired() throws -> String {
    try write(
      "unpaired.tsv",
      ["sentence\tlabel"] + (0..<8).map { "\(Self.text($0))\t\($0 % 2 == 0 ? "same" : "other")" })
  }

  /// Texts with a text to write that differs in its length.
  func texts(_ count: Int = 32) throws -> String {
    try write(
      "texts.jsonl",
      (0..<count).map {
        #"{"input":"\#(Self.text($0))","target":"\#($0 % 2 == 0 ? "the good film" : "bad")"}"#
      })
  }

  private func write(_ name: String, _ lines: [String]) throws -> String {
    let file = path + "/" + name
    try lines.joined(separator: "\n").write(toFile: file, atomically: true, encoding: .utf8)
    return file
  }
}

private let fixtures = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
  .deletingLastPathComponent().appendingPathComponent("Fixtures").path

/// A stop after a chosen number of steps.
private final class Stop {
  let flag = CancellationFlag()
  private let steps: Int
  private var seen = 0

  init(after steps: Int) { self.steps = steps }

  func report(_ event: RunEvent) {
    guard case .progress(let progress) = event, progress.phase != .evaluation else { return }
    seen += 1
    if seen == steps { flag.cancel() }
  }
}

private func run(_ request: TrainRequest, modes: ((EpochMode) -> Void)? = nil) throws -> TrainSummary {
  try train(
    request, cancellation: CancellationFlag(),
    report: { if case .epoch(_, let summary) = $0 { modes?(summary.mode) } })
}

/// Settings that fit the tiny models.
private func settle(_ request: inout TrainRequest, _ technique: RunTechnique) {
  request.technique = technique
  request.reduction = technique == .houlsby ? 4 : 2
  request.learningRate = technique == .full ? 2e-3 : 1e-2
  request.rank = technique == .lora ? 4 : nil
  request.alpha = technique == .lora ? 8 : nil
  request.epochs = 3
  request.batch = 8
  request.microBatch = 2
  request.maxLength = 24
  request.threads = 1
}

@Suite("Every technique")
struct TechniqueTrainingTests {
  private func request(
    _ model: String, _ technique: RunTechnique, scratch: Scratch, output: String = "run"
  ) throws -> TrainRequest {
    var request = TrainRequest(
      modelDirectory: fixtures + "/" + model, dataFile: try scratch.labels(), task: .classify,
      output: scratch.path + "/" + output)
    (request.data.header, request.data.textColumn, request.data.labelColumn) = (false, "1", "2")
    settle(&request, technique)
    return request
  }

  @Test(
    "learns, is the same with 1 and 2 threads, and predicts from its files what the run measured",
    arguments: [RunTechnique.lora, .houlsby, .full], ["tiny-bert", "tiny-t5", "tiny-bart"])
  func wholeRun(technique: RunTechnique, model: String) throws {
    let scratch = try Scratch()
    var request = try request(model, technique, scratch: scratch)
    request.validationFile = request.dataFile
    let summary = try run(request) { #expect($0 == .live) }
    let losses = summary.epochs.map(\.loss)
    #expect(losses[2] < losses[0], "losses \(losses)")
    #expect(summary.cacheBytes == 0)
    #expect(summary.technique == technique.rawValue)
    #expect(summary.trainableParameters > 0)
    var evaluation = EvaluateRequest(adapterDirectory: request.output, dataFile: request.dataFile)
    evaluation.data = request.data
    let measured = try evaluate(evaluation, cancellation: CancellationFlag(), report: { _ in })
    #expect(measured.metrics == summary.metrics)
    let inspection = try Inspector.inspect(request.output)
    #expect(inspection.facts.contains(Inspection.Fact("technique", .text(technique.rawValue))))
    request.output = scratch.path + "/again"
    request.threads = 2
    #expect(try run(request).adapterDigest == summary.adapterDigest)
  }

  @Test(
    "goes on after an interruption to the adapter of the uninterrupted run",
    arguments: [RunTechnique.lora, .houlsby, .full])
  func resumed(technique: RunTechnique) throws {
    let scratch = try Scratch()
    let expected = try run(request("tiny-t5", technique, scratch: scratch, output: "whole")).adapterDigest
    let interrupted = try request("tiny-t5", technique, scratch: scratch, output: "parts")
    let stop = Stop(after: 7)
    #expect(throws: RunFailure.self) {
      try train(interrupted, cancellation: stop.flag, report: stop.report)
    }
    let summary = try resumeTraining(
      ResumeRequest(runDirectory: interrupted.output, threads: 2), cancellation: CancellationFlag(),
      report: { _ in })
    #expect(summary.adapterDigest == expected)
  }

  @Test(
    "says what memory it needs before anything is written", arguments: [RunTechnique.lora, .houlsby, .full])
  func memory(technique: RunTechnique) throws {
    let scratch = try Scratch()
    var request = try request("tiny-bert", technique, scratch: scratch)
    request.memoryBudget = 1_000
    #expect(throws: RunFailure.self) { try run(request) }
    #expect(!FileManager.default.fileExists(atPath: request.output))
  }

  @Test("whose settings do not fit the model is refused in one line")
  func settings() throws {
    let scratch = try Scratch()
    var request = try request("tiny-bert", .lora, scratch: scratch)
    request.rank = 49
    #expect(
      throws: TechniqueFailure.rank(found: 49, layer: "encoder.0.selfAttention.query", most: 48)
    ) { try run(request) }
    request.rank = 4
    request.loraTargets = ["gate"]
    #expect(throws: TechniqueFailure.noTarget("gate", family: "bert")) { try run(request) }
    settle(&request, .houlsby)
    request.reduction = 64
    #expect(throws: TechniqueFailure.reduction(found: 64, width: 48)) { try run(request) }
  }

  /// The pooling of what `change` of a run on pairs trains, which the files that it leaves must give again.
  private func trainedPooling(
    _ scratch: Scratch, _ output: String, change: (inout TrainRequest) throws -> Void = { _ in }
  ) throws -> ParallelAdapterConfiguration.Pooling? {
    var request = try request("tiny-bert", .parallel, scratch: scratch, output: output)
    request.data = DataOptions()
    request.dataFile = try scratch.pairs()
    request.validationFile = request.dataFile
    request.epochs = 1
    try change(&request)
    let summary = try run(request)
    let record = try RunDirectory(request.output).record()
    let path = request.output + "/adapter.json"
    let description = try AdapterDescription(
      decoding: [UInt8](Data(contentsOf: URL(fileURLWithPath: path))), path: path)
    guard case .parallel(let configuration) = description.technique else { return nil }
    // Whatever a later build would choose, the run is resumed with what this one chose.
    #expect(record.pooling == configuration.pooling ?? .tokens)
    var evaluation = EvaluateRequest(adapterDirectory: request.output, dataFile: request.dataFile)
    evaluation.data = request.data
    evaluation.threads = 1
    let measured = try evaluate(evaluation, cancellation: CancellationFlag(), report: { _ in })
    #expect(measured.metrics == summary.metrics)
    if configuration.pooling?.readsPairs == true {
      var warnings: [String] = []
      (evaluation.dataFile, evaluation.data) = (try scratch.unpaired(), DataOptions())
      _ = try evaluate(evaluation, cancellation: CancellationFlag()) {
        if case .warning(let text) = $0 { warnings.append(text) }
      }
      #expect(warnings.contains { $0.contains("trained to compare two") }, "\(warnings)")
    }
    return configuration.pooling
  }

  /// The same run on rows of one text.
  private func onTexts(_ request: inout TrainRequest, _ scratch: Scratch) throws {
    request.dataFile = try scratch.labels()
    request.validationFile = request.dataFile
    (request.data.header, request.data.textColumn, request.data.labelColumn) = (false, "1", "2")
  }

  @Test("compares the texts of a pair unless a person or another preset says otherwise")
  func poolingOfPairs() throws {
    let scratch = try Scratch()
    #expect(try trainedPooling(scratch, "pairs") == .aligned)
    #expect(try trainedPooling(scratch, "apart") { $0.pooling = .segments } == .segments)
    #expect(try trainedPooling(scratch, "tokens") { $0.pooling = .tokens } == nil)
    #expect(try trainedPooling(scratch, "whole pair") { $0.pooling = .attention } == .attention)
    #expect(try trainedPooling(scratch, "lst") { $0.preset = .lst } == nil)
    #expect(
      try trainedPooling(scratch, "asked") { ($0.preset, $0.pooling) = (.lst, .segments) } == .segments)
    #expect(try trainedPooling(scratch, "t5") { $0.modelDirectory = fixtures + "/tiny-t5" } == nil)
    #expect(throws: SideNetworkFailure.self) {
      try trainedPooling(scratch, "decoder") {
        ($0.modelDirectory, $0.pooling) = (fixtures + "/tiny-t5", .segments)
      }
    }
  }

  @Test("pools the taps of single texts unless a person, another preset or an earlier build says otherwise")
  func poolingOfTexts() throws {
    let scratch = try Scratch()
    #expect(try trainedPooling(scratch, "texts") { try onTexts(&$0, scratch) } == .attention)
    #expect(
      try trainedPooling(scratch, "mean") {
        try onTexts(&$0, scratch)
        $0.pooling = .tokens
      } == nil)
    #expect(
      try trainedPooling(scratch, "timing") {
        try onTexts(&$0, scratch)
        $0.preset = .timing
      } == nil)
    #expect(
      try trainedPooling(scratch, "earlier") {
        // As a run's record is that an earlier build left.
        try onTexts(&$0, scratch)
        var record = try #require(
          try JSONSerialization.jsonObject(with: JSONEncoder().encode($0)) as? [String: Any])
        record["choosesPooling"] = nil
        $0 = try JSONDecoder().decode(
          TrainRequest.self, from: JSONSerialization.data(withJSONObject: record))
      } == nil)
    #expect {
      try trainedPooling(scratch, "none") {
        try onTexts(&$0, scratch)
        $0.validationFile = nil
        $0.pooling = .segments
      }
    } throws: { error in
      guard case RunFailure.badInput(_, _, let detail) = error else { return false }
      return detail.contains("--pooling tokens")
    }
  }

  @Test("of the first format is still read")
  func firstFormat() throws {
    let json = """
      {"activationElement":"float16","adapterDigest":"ab","backboneDigest":"cd","backboneName":"bert, 3 layers",
      "configuration":{"gates":true,"heads":"few","initialization":"pruned","output":"mixed","preset":"default",
      "reduction":2},"maximumLength":24,"modelDirectory":"/m","task":{"classify":{"labels":["0","1"]}},
      "technique":"parallel","tokenizerDigest":"ef","version":1}
      """
    let description = try AdapterDescription(decoding: Array(json.utf8), path: "adapter.json")
    let expected = ParallelAdapterConfiguration(preset: .default, reduction: 2, layersPerStack: 3)
    #expect(description.technique == .parallel(expected))
    #expect(description.activationElement == "float16")
    let lora = AdapterDescription(
      technique: .lora(LoRAConfiguration(rank: 4, alpha: 8, targets: [.up])),
      task: .seq2seq(maximumTargetLength: 9), backboneDigest: "a", tokenizerDigest: "b", backboneName: "c",
      modelDirectory: "d", maximumLength: 7, activationElement: nil, adapterDigest: "e")
    #expect(try AdapterDescription(decoding: lora.encoded(), path: "adapter.json") == lora)
  }
}

@Suite("An adapter that writes")
struct TextAdapterTests {
  private func request(
    _ model: String, _ technique: RunTechnique, scratch: Scratch, output: String = "run"
  ) throws -> TrainRequest {
    var request = TrainRequest(
      modelDirectory: fixtures + "/" + model, dataFile: try scratch.texts(), task: .seq2seq,
      output: scratch.path + "/" + output)
    settle(&request, technique)
    request.maximumTargetLength = 16
    return request
  }

  private func writer(_ directory: String, model: String? = nil) throws -> TextWriter {
    var request = GenerationRequest(adapterDirectory: directory, modelDirectory: model)
    request.threads = 2
    request.maximumTokens = 16
    request.maximumLength = 24
    return try TextWriter(request)
  }

  private static let inputs = [
    PredictionInput(text: "the great film"), PredictionInput(text: "bad"),
    PredictionInput(text: "story 7 cast"),
  ]

  @Test(
    "learns, and its files measure and write what the run did", arguments: RunTechnique.allCases,
    ["tiny-t5", "tiny-bart"])
  func wholeRun(technique: RunTechnique, model: String) throws {
    let scratch = try Scratch()
    var request = try request(model, technique, scratch: scratch)
    request.validationFile = request.dataFile
    request.epochs = 6
    let summary = try run(request)
    #expect(summary.metrics.map(\.name) == ["exact_match", "token_loss", "perplexity"])
    #expect(summary.metric.name == "exact_match" && summary.metric.before != nil)
    let losses = summary.epochs.map(\.loss)
    #expect(losses[5] < 0.9 * losses[0], "losses \(losses)")
    var evaluation = EvaluateRequest(adapterDirectory: request.output, dataFile: request.dataFile)
    evaluation.threads = 2
    let measured = try evaluate(evaluation, cancellation: CancellationFlag(), report: { _ in })
    #expect(measured.metrics[0] == summary.metrics[0])
    // Micro-batches of another size are products of another shape.
    #expect(abs(measured.metrics[1].value - summary.metrics[1].value) < 1e-4)
    let predictor = try Predictor(PredictRequest(adapterDirectory: request.output))
    #expect(predictor.task == .seq2seq)
    let predicted = try predictor.predict(Self.inputs).map(\.label)
    let written = try writer(request.output).write(Self.inputs)
    #expect(written.map(\.text) == predicted)
  }

  @Test(
    "by parallel adapters is the same from live and from cached activations, decoder taps included",
    arguments: ["tiny-t5", "tiny-bart"])
  func liveOrCached(model: String) throws {
    for element in [ActivationElement.float32, .float16] {
      let scratch = try Scratch()
      var first = try request(model, .parallel, scratch: scratch, output: "first")
      first.cache = element
      first.keepCache = true
      first.cacheDirectory = scratch.path + "/cache"
      var modes: [EpochMode] = []
      let expected = try run(first) { modes.append($0) }.adapterDigest
      #expect(modes == [.live, .cached, .cached])
      var second = first
      second.output = scratch.path + "/second"
      modes = []
      #expect(try run(second) { modes.append($0) }.adapterDigest == expected)
      #expect(modes == [.cached, .cached, .cached])
    }
  }

  @Test(
    "by LoRA is the same to PEFT's readers, and folded into its model", arguments: ["tiny-t5", "tiny-bart"])
  func peft(model: String) throws {
    let scratch = try Scratch()
    let request = try request(model, .lora, scratch: scratch)
    _ = try run(request)
    let expected = try writer(request.output).write(Self.inputs)
    let foreign = scratch.path + "/foreign"
    try FileManager.default.createDirectory(atPath: foreign, withIntermediateDirectories: true)
    for name in [PEFTAdapter.configurationFileName, PEFTAdapter.tensorsFileName] {
      try FileManager.default.copyItem(atPath: request.output + "/" + name, toPath: foreign + "/" + name)
    }
    #expect(throws: RunFailure.self) { try writer(foreign) }
    #expect(try writer(foreign, model: request.modelDirectory).write(Self.inputs) == expected)

    let merged = scratch.path + "/merged"
    let summary = try mergeAdapter(MergeRequest(adapterDirectory: request.output, output: merged))
    #expect(summary.technique == "lora" && summary.warnings.isEmpty)
    var plain = GenerationRequest(modelDirectory: merged)
    (plain.threads, plain.maximumTokens, plain.maximumLength) = (1, 16, 24)
    #expect(try TextWriter(plain).write(Self.inputs) == expected)
  }

  @Test("by full fine-tuning is a model of its own once it is folded", arguments: ["tiny-t5", "tiny-bart"])
  func full(model: String) throws {
    let scratch = try Scratch()
    let request = try request(model, .full, scratch: scratch)
    _ = try run(request)
    let expected = try writer(request.output).write(Self.inputs)
    let merged = scratch.path + "/merged"
    let summary = try mergeAdapter(MergeRequest(adapterDirectory: request.output, output: merged))
    var plain = GenerationRequest(modelDirectory: merged)
    (plain.threads, plain.maximumTokens, plain.maximumLength) = (1, 16, 24)
    #expect(try TextWriter(plain).write(Self.inputs) == expected)
    let inspection = try Inspector.inspect(merged)
    #expect(inspection.facts.contains(Inspection.Fact("digest", .text(summary.digest))))
  }

  @Test("that is a network of its own is not folded, and no label adapter writes")
  func refusals() throws {
    let scratch = try Scratch()
    var houlsby = try request("tiny-t5", .houlsby, scratch: scratch, output: "houlsby")
    houlsby.epochs = 1
    _ = try run(houlsby)
    #expect(throws: MergeFailure.notMergeable(technique: "houlsby")) {
      try mergeAdapter(MergeRequest(adapterDirectory: houlsby.output, output: scratch.path + "/m"))
    }
    var labels = houlsby
    (labels.task, labels.output) = (.classify, scratch.path + "/labels")
    labels.dataFile = try scratch.labels()
    labels.maximumTargetLength = nil
    _ = try run(labels)
    #expect(throws: GenerationFailure.noWriter(adapter: labels.output)) { try writer(labels.output) }
    var reader = try request("tiny-bert", .lora, scratch: scratch, output: "bert")
    reader.epochs = 1
    #expect(throws: TechniqueFailure.noDecoder(family: "bert")) { try run(reader) }
  }
}
