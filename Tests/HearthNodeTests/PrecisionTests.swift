import FineTuning
import Foundation
import HearthNode
import NeuralNetworks
import TensorKernels
import Testing

extension WordRowsFolder {
  fileprivate func request(_ model: String, _ precision: WeightPrecision?, output: String) -> TrainRequest {
    var request = request(model, output: output)
    request.precision = precision
    return request
  }
}

@Suite("A run with the backbone in another precision")
struct PrecisionTests {
  private func run(
    _ request: TrainRequest, report: @escaping (RunEvent) -> Void = { _ in }
  ) throws -> TrainSummary {
    try train(request, cancellation: CancellationFlag(), report: report)
  }

  @Test(
    "learns, is the same with 2 threads, and predicts from its record what the run measured",
    arguments: [WeightPrecision.float16, .bfloat16, .int8], ["tiny-bert", "tiny-t5", "tiny-bart"])
  func wholeRun(precision: WeightPrecision, model: String) throws {
    let scratch = try WordRowsFolder()
    var request = scratch.request(model, precision, output: "run")
    var weights: WeightReport?
    let summary = try run(request) { if case .started(let plan) = $0 { weights = plan.weights } }
    #expect(weights?.precision == precision.rawValue)
    let losses = summary.epochs.map(\.loss)
    #expect(losses[2] < losses[0], "losses \(losses)")
    // The first epoch may find its activations in the cache: the held-out rows are the same.
    #expect(summary.epochs.dropFirst().allSatisfy { $0.mode == .cached })
    var evaluation = EvaluateRequest(adapterDirectory: request.output, dataFile: request.dataFile)
    evaluation.data = request.data
    let measured = try evaluate(evaluation, cancellation: CancellationFlag(), report: { _ in })
    #expect(measured.metrics == summary.metrics)
    let inspection = try Inspector.inspect(request.output)
    #expect(inspection.facts.contains(Inspection.Fact("precision", .text(precision.rawValue))))
    request.output = scratch.path + "/again"
    request.threads = 2
    #expect(try run(request).adapterDigest == summary.adapterDigest)
  }

  @Test("differs from float32 in the adapter and in the backbone's identity, and float32 is the default")
  func isAnotherBackbone() throws {
    let scratch = try WordRowsFolder()
    var digests: [String] = []
    var backbones: [Inspection.Fact] = []
    for (index, precision) in [nil, WeightPrecision.float32, .bfloat16, .int8].enumerated() {
      let request = scratch.request("tiny-bert", precision, output: "run\(index)")
      digests.append(try run(request).adapterDigest)
      let facts = try Inspector.inspect(request.output).facts
      backbones.append(try #require(facts.first { $0.name == "backbone_digest" }))
    }
    #expect(digests[0] == digests[1] && backbones[0] == backbones[1])
    #expect(Set(digests).count == 3)
    #expect(backbones[1] != backbones[2] && backbones[2] != backbones[3] && backbones[1] != backbones[3])
  }

  @Test("does not read a cache that another precision filled")
  func refusesForeignCaches() throws {
    let scratch = try WordRowsFolder()
    var first = scratch.request("tiny-bert", nil, output: "first")
    first.keepCache = true
    first.cacheDirectory = scratch.path + "/cache"
    _ = try run(first)
    var second = scratch.request("tiny-bert", .int8, output: "second")
    second.cacheDirectory = first.cacheDirectory
    #expect {
      _ = try run(second)
    } throws: { error in
      "\(error)".contains("backbone weights")
    }
  }

  @Test(
    "is refused for techniques that go back through the backbone",
    arguments: [RunTechnique.lora, .houlsby, .full])
  func refusesOtherTechniques(technique: RunTechnique) throws {
    let scratch = try WordRowsFolder()
    var request = scratch.request("tiny-bert", .int8, output: "run")
    request.technique = technique
    #expect(throws: PrecisionRequestFailure.technique(name: technique.rawValue, precision: "int8")) {
      try run(request)
    }
    #expect(!FileManager.default.fileExists(atPath: request.output))
  }

  @Test("goes on after an interruption to the adapter of the uninterrupted run")
  func resumes() throws {
    let scratch = try WordRowsFolder()
    let expected = try run(scratch.request("tiny-t5", .int8, output: "whole")).adapterDigest
    let interrupted = scratch.request("tiny-t5", .int8, output: "parts")
    let stop = CancellationFlag()
    var steps = 0
    #expect(throws: RunFailure.self) {
      try train(interrupted, cancellation: stop) { event in
        guard case .progress(let progress) = event, progress.phase != .evaluation else { return }
        steps += 1
        if steps == 7 { stop.cancel() }
      }
    }
    let summary = try resumeTraining(
      ResumeRequest(runDirectory: interrupted.output), cancellation: CancellationFlag(), report: { _ in })
    #expect(summary.adapterDigest == expected)
  }

  @Test("is told by inspect: memory, what stays float32, and the identity")
  func isInspected() throws {
    let facts = try Inspector.inspect(WordRowsFolder.fixtures + "/tiny-bert", precision: .int8).facts
    let plain = try Inspector.inspect(WordRowsFolder.fixtures + "/tiny-bert").facts
    #expect(Array(facts.prefix(plain.count)) == plain)
    let names = facts.dropFirst(plain.count).map(\.name)
    #expect(
      names == [
        "precision", "backbone_bytes_in_memory", "backbone_digest_in_this_precision", "matrices",
        "float32_matrices", "float32_input_columns", "largest_relative_error",
      ])
    #expect(facts.first { $0.name == "matrices" }?.value == .number(18))
  }
}
