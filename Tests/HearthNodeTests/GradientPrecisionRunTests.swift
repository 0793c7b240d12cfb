import FineTuning
import Foundation
import HearthNode
import NeuralNetworks
import Testing

extension WordRowsFolder {
  fileprivate func request(
    _ precision: GradientPrecision?, technique: RunTechnique = .parallel, threads: Int = 1, output: String
  ) -> TrainRequest {
    var request = request("tiny-bert", output: output)
    request.gradientPrecision = precision
    request.technique = technique
    if technique == .houlsby { request.reduction = 4 }
    request.rank = technique == .lora ? 4 : nil
    request.threads = threads
    return request
  }

  /// Stops a run after seven steps.
  fileprivate func interrupt(_ request: TrainRequest) {
    let stop = CancellationFlag()
    var steps = 0
    #expect(throws: RunFailure.self) {
      try train(request, cancellation: stop) { event in
        guard case .progress(let progress) = event, progress.phase != .evaluation else { return }
        steps += 1
        if steps == 7 { stop.cancel() }
      }
    }
  }
}

@Suite("A run with coarse gradients")
struct GradientPrecisionRunTests {
  private func run(
    _ request: TrainRequest, report: @escaping (RunEvent) -> Void = { _ in }
  ) throws -> TrainSummary {
    try train(request, cancellation: CancellationFlag(), report: report)
  }

  private func resume(_ request: TrainRequest) throws -> TrainSummary {
    try resumeTraining(
      ResumeRequest(runDirectory: request.output), cancellation: CancellationFlag(), report: { _ in })
  }

  private func recorded(_ adapter: String) throws -> GradientPrecision? {
    let path = adapter + "/" + AdapterDescription.fileName
    let bytes = Array(try Data(contentsOf: URL(fileURLWithPath: path)))
    return try AdapterDescription(decoding: bytes, path: path).gradientPrecision
  }

  @Test(
    "is the same with 2 threads, differs from full precision, and is told by plan, adapter and inspect",
    arguments: [RunTechnique.parallel, .lora, .houlsby])
  func wholeRun(technique: RunTechnique) throws {
    let scratch = try WordRowsFolder()
    func run(_ precision: GradientPrecision?, threads: Int = 1, _ name: String) throws -> (String, [RunPlan])
    {
      var plans: [RunPlan] = []
      let request = scratch.request(precision, technique: technique, threads: threads, output: name)
      let summary = try self.run(request) { if case .started(let plan) = $0 { plans.append(plan) } }
      return (summary.adapterDigest, plans)
    }
    let usual = try run(nil, "usual")
    let full = try run(.full, "full")
    let half = try run(.half, "half")
    #expect(full.0 == usual.0 && half.0 != full.0)
    #expect(try run(.half, threads: 2, "threads").0 == half.0)
    #expect([usual, full, half].map { $0.1.map(\.gradientPrecision) } == [[.full], [.full], [.half]])
    #expect(try jsonLine(RunEvent.started(half.1[0])).contains(#""gradient_precision":"half""#))
    var renderer = RunRenderer(style: ConsoleStyle(columns: nil, colored: false))
    #expect(renderer.text(for: .started(half.1[0]), at: 0).contains("gradients: half precision"))
    #expect(!renderer.text(for: .started(full.1[0]), at: 0).contains("gradients"))
    for (name, value) in [("usual", nil), ("full", nil), ("half", GradientPrecision.half)] {
      let adapter = scratch.path + "/" + name
      #expect(try recorded(adapter) == value)
      let fact = try Inspector.inspect(adapter).facts.first { $0.name == "gradient_precision" }
      #expect(fact?.value == value.map { .text($0.rawValue) })
    }
  }

  @Test("goes on after an interruption to the adapter of the uninterrupted run")
  func resumes() throws {
    let scratch = try WordRowsFolder()
    let expected = try run(scratch.request(.half, output: "whole")).adapterDigest
    let parts = scratch.request(.half, output: "parts")
    scratch.interrupt(parts)
    #expect(try resume(parts).adapterDigest == expected)
  }

  @Test(
    "is not resumed in the other precision: both are named, and nothing is lost", arguments: [true, false])
  func refusesOtherPrecision(beginsInHalf: Bool) throws {
    let scratch = try WordRowsFolder()
    let request = scratch.request(beginsInHalf ? .half : .full, output: "run")
    scratch.interrupt(request)
    let record = URL(fileURLWithPath: request.output + "/" + RunDirectory.recordName)
    let text = try String(contentsOf: record, encoding: .utf8)
    let (here, there) = beginsInHalf ? ("half", "full") : ("full", "half")
    let changed = text.replacingOccurrences(
      of: "\"gradientPrecision\" : \"\(here)\"", with: "\"gradientPrecision\" : \"\(there)\"")
    #expect(changed != text)
    try changed.write(to: record, atomically: true, encoding: .utf8)
    #expect {
      try resume(request)
    } throws: { error in
      let message = "\(error)"
      return message.contains("--gradient-precision \(here)") && message.contains("says \(there)")
    }
    try text.write(to: record, atomically: true, encoding: .utf8)
    _ = try resume(request)
  }

  @Test("is refused for full fine-tuning before anything is written")
  func refusesFullFineTuning() throws {
    let scratch = try WordRowsFolder()
    let request = scratch.request(.half, technique: .full, output: "run")
    let failure = PrecisionRequestFailure.gradients(technique: "full", precision: "half")
    #expect(throws: failure) { try run(request) }
    #expect(failure.description.contains("use parallel, lora, houlsby or leave the option out"))
    #expect(!FileManager.default.fileExists(atPath: request.output))
    let allowed = scratch.request(.full, technique: .full, output: "run")
    _ = try run(allowed)
  }
}
