import ComputeRuntime
import FineTuning
import LanguageModels
import NeuralNetworks
import TensorKernels
import Testing

@Suite("Steps of a tuned backbone")
struct TunedStepsTests {
  static let cases = TechniqueFixture.cases.filter { $0.model == "tiny-t5" || $0.technique == "full" }

  private func train(
    _ testCase: TechniqueFixture.Case, groups: [[Int]], workers: Int, steps: Int, dropout: Float,
    checkpoints: Bool = false
  ) throws -> (losses: [Double], values: [Float]) {
    let fixture = try TechniqueFixture(testCase, dropout: dropout)
    let tuning = fixture.tuning(workers: workers, checkpoints: checkpoints)
    let batches = fixture.batches(groups)
    let trainer = MiniBatchTrainer(
      technique: tuning, settings: OptimizationSettings(learningRate: 0.003, warmupFraction: 0),
      totalSteps: 1000, maximumMicroBatches: batches.count, workers: workers)
    let team = ComputeTeam(width: workers)
    let losses = try (0..<steps).map { _ in try trainer.step(batches, units: 4, loop: team).lossSum }
    let values = fixture.parameters.parameters.filter(\.isTrainable).flatMap { leaf in
      (0..<leaf.count).map { leaf.values[$0] }
    }
    return (losses, values)
  }

  @Test(
    "have the same bits for every number of workers and order of micro-batches, with dropout",
    arguments: cases)
  func workers(testCase: TechniqueFixture.Case) throws {
    let groups = [[0, 1], [2], [3]]
    let expected = try train(testCase, groups: groups, workers: 1, steps: 4, dropout: 0.1)
    let found = try train(testCase, groups: groups.reversed(), workers: 3, steps: 4, dropout: 0.1)
    #expect(found.values == expected.values)
    let recomputed = try train(
      testCase, groups: groups, workers: 2, steps: 4, dropout: 0.1, checkpoints: true)
    #expect(recomputed.values == expected.values)
  }

  @Test("learn four samples by heart", arguments: cases)
  func overfitting(testCase: TechniqueFixture.Case) throws {
    let (losses, _) = try train(testCase, groups: [[0, 1, 2, 3]], workers: 1, steps: 80, dropout: 0)
    let (first, last) = (losses[0], losses[losses.count - 1])
    #expect(last < 0.5 * first, "\(first) to \(last)")
  }

  @Test("write no leaf of the backbone under LoRA and Houlsby's adapters", arguments: ["lora", "houlsby"])
  func frozenLeaves(technique: String) throws {
    let testCase = TechniqueFixture.Case(
      model: "tiny-t5", technique: technique, head: technique == "lora" ? .classes(3) : .languageModel)
    let fixture = try TechniqueFixture(testCase)
    func values() -> [[Float]] {
      fixture.backbone.parameters.map { leaf in (0..<leaf.count).map { leaf.values[$0] } }
    }
    let before = values()
    let tuning = fixture.tuning()
    let trainer = MiniBatchTrainer(
      technique: tuning, settings: OptimizationSettings(learningRate: 0.01), totalSteps: 3,
      maximumMicroBatches: 1, workers: 1)
    for _ in 0..<3 {
      _ = try trainer.step(fixture.batches([[0, 1, 2, 3]]), units: 4, loop: SequentialLoop())
    }
    #expect(values() == before)
  }
}
