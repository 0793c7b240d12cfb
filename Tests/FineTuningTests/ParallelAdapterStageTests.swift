import FineTuning
import LanguageModels
import NeuralNetworks
import TensorKernels
import Testing

@Suite("Stages of a pipeline under Parallel Adapters")
struct ParallelAdapterStageTests {
  typealias Fixture = SideStageFixture

  @Test(
    "give the loss, the gradient sums and the taps of one device bit for bit, for every split into 1 to 4 stages",
    arguments: Fixture.cases)
  func training(testCase: Fixture.Case) throws {
    let fixture = try Fixture(testCase)
    let (technique, source) = fixture.alone()
    let expected = GradientAccumulator(
      count: fixture.parameters.vectorCount, maximumContributions: 64)
    let losses = try fixture.batches.map { try technique.train($0, worker: 0, sink: expected) }
    let taps = try fixture.batches.map { try fixture.taps($0, source) }
    #expect(!expected.overflowed && losses.allSatisfy { $0.isFinite && $0 != 0 })
    for ranges in splits(fixture.layerCount) {
      var run = StageRun(fixture.stages(ranges))
      for (index, batch) in fixture.batches.enumerated() {
        try run.forward(batch, .train)
        try run.backward(batch)
        #expect(run.outputs[index]?.lossSum == losses[index], "\(ranges)")
        #expect(run.taps[index]?.flatMap { $0 } == taps[index].flatMap { $0 }, "\(ranges)")
      }
      #expect(run.gradients == expected.withSums { Array($0) }, "\(ranges)")
    }
  }
}
