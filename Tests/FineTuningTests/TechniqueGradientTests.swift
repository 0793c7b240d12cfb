import Determinism
import FineTuning
import LanguageModels
import NeuralNetworks
import TensorKernels
import Testing

@Suite("Full fine-tuning, Houlsby's adapters and LoRA")
struct TechniqueGradientTests {
  @Test("train the leaves that PyTorch and PEFT train", arguments: TechniqueFixture.cases)
  func leaves(testCase: TechniqueFixture.Case) throws {
    let fixture = try TechniqueFixture(testCase)
    // What the reference's model also has and our heads do not reach.
    let untrained = ["languageModelHead.weight"].filter { fixture.parameters.parameter(named: $0) == nil }
    let names = fixture.parameters.parameters.map(\.name).sorted()
    #expect(names == fixture.expectedNames.filter { !untrained.contains($0) })
  }

  @Test(
    "have the loss and the gradients of PyTorch and PEFT, to 1e-4 of each tensor's largest",
    arguments: TechniqueFixture.cases)
  func parity(testCase: TechniqueFixture.Case) throws {
    let fixture = try TechniqueFixture(testCase)
    let (loss, gradients) = try fixture.gradients(fixture.tuning())
    #expect(abs(loss - fixture.expectedLoss) <= 1e-5 * abs(fixture.expectedLoss))
    for leaf in fixture.parameters.parameters {
      guard let offset = leaf.gradientOffset else { continue }
      let expected = fixture.expectedGradient(leaf.name)
      try #require(expected.count == leaf.count, "\(leaf.name)")
      let largest = expected.reduce(0) { max($0, abs($1)) }
      let worst = zip(expected, gradients[offset..<offset + leaf.count]).reduce(0) {
        max($0, abs($1.0 - $1.1))
      }
      #expect(worst <= 1e-4 * largest + 1e-6, "\(leaf.name): off by \(worst) of \(largest)")
    }
  }

  @Test("recompute dropped activations to the bit", arguments: TechniqueFixture.cases)
  func checkpoints(testCase: TechniqueFixture.Case) throws {
    let fixture = try TechniqueFixture(testCase, dropout: 0.1)
    let kept = try fixture.gradients(fixture.tuning())
    let again = try fixture.gradients(fixture.tuning(checkpoints: true))
    #expect(kept.loss == again.loss)
    #expect(kept.gradients == again.gradients)
    let capacity = MicroBatchCapacity(fixture.batches([Array(fixture.samples.indices)]))
    func bytes(_ checkpoints: Bool) -> Int {
      BackboneTuning.workerBytes(
        configuration: fixture.configuration, head: testCase.head, backbone: fixture.backbone,
        capacity: capacity, training: true, checkpointsActivations: checkpoints)
    }
    #expect(bytes(true) < bytes(false))
  }

  @Test(
    "give the same bits for every order of micro-batches and every worker", arguments: TechniqueFixture.cases)
  func orderFree(testCase: TechniqueFixture.Case) throws {
    let fixture = try TechniqueFixture(testCase, dropout: 0.1)
    let tuning = fixture.tuning(workers: 3)
    let forward = try fixture.gradients(tuning, [[0, 1], [2], [3]])
    let backward = try fixture.gradients(tuning, [[3], [2], [0, 1]]) { 2 - $0 }
    #expect(forward.gradients == backward.gradients)
  }

  @Test("drop the same values of a sample in every micro-batch", arguments: TechniqueFixture.cases)
  func maskOfASample(testCase: TechniqueFixture.Case) throws {
    let fixture = try TechniqueFixture(testCase, dropout: 0.2)
    let tuning = fixture.tuning()
    tuning.begin(step: 4)
    let together = try fixture.gradients(tuning)
    let apart = try fixture.gradients(tuning, [[3, 0], [1], [2]])
    #expect(abs(together.loss - apart.loss) < 1e-4 * abs(together.loss))
    let largest = together.gradients.reduce(0) { max($0, abs($1)) }
    let worst = zip(together.gradients, apart.gradients).reduce(0) { max($0, abs($1.0 - $1.1)) }
    #expect(worst < 1e-4 * largest, "off by \(worst) of \(largest)")
    tuning.begin(step: 5)
    let next = try fixture.gradients(tuning)
    #expect(abs(next.loss - together.loss) > 1e-4 * abs(together.loss), "each step drops other values")
  }

  @Test(
    "have gradients that equal finite differences along random directions, with dropout",
    arguments: TechniqueFixture.cases)
  func finiteDifferences(testCase: TechniqueFixture.Case) throws {
    let fixture = try TechniqueFixture(testCase, dropout: 0.1)
    let tuning = fixture.tuning()
    tuning.begin(step: 2)
    let (_, gradients) = try fixture.gradients(tuning)
    var generator = SeededGenerator(seed: 31)
    var misses: [String] = []
    for leaf in fixture.parameters.parameters {
      guard let offset = leaf.gradientOffset else { continue }
      let direction = (0..<leaf.count).map { _ in generator.normalFloat() }
      let length = direction.reduce(0) { $0 + $1 * $1 }.squareRoot()
      let original = (0..<leaf.count).map { leaf.values[$0] }
      let step: Float = 0.02 / length
      func loss(_ factor: Float) throws -> Double {
        for index in 0..<leaf.count { leaf.values[index] = original[index] + factor * direction[index] }
        return try fixture.gradients(tuning).loss
      }
      let numeric = try (loss(step) - loss(-step)) / Double(2 * step)
      for index in 0..<leaf.count { leaf.values[index] = original[index] }
      let analytic = (0..<leaf.count).reduce(0.0) {
        $0 + Double(gradients[offset + $1]) * Double(direction[$1])
      }
      let tolerance = 0.05 * max(abs(numeric), abs(analytic)) + 2e-3 * Double(length)
      if abs(numeric - analytic) > tolerance { misses.append("\(leaf.name): \(numeric) against \(analytic)") }
    }
    // A step across kinks of ReLU is no exact reference; a mask that the backward does not repeat fails every leaf.
    let isSmooth = testCase.model != "tiny-t5" && testCase.technique != "houlsby"
    #expect(misses.count * 8 <= (isSmooth ? 0 : fixture.parameters.parameters.count), "\(misses)")
  }

  @Test("are one model with the backbone that they transform", arguments: TechniqueFixture.cases)
  func tunedBackbone(testCase: TechniqueFixture.Case) throws {
    guard testCase.head != .languageModel else { return }
    let fixture = try TechniqueFixture(testCase)
    let batch = fixture.batches([Array(fixture.samples.indices)])[0]
    let untrained = try predictions(fixture.tuning(training: false), batch)
    let trained = try predictions(fixture.tuning(), batch)
    let tuned = fixture.configuration.tunedBackbone(fixture.backbone, parameters: fixture.parameters)
    let states = finalStates(tuned, batch)
    let head = LinearParameters(fixture.parameters, "head", bias: true)
    for sample in 0..<batch.encoder.count {
      let rows: [[Float]]
      if let decoder = batch.decoder {
        rows = [states[decoder.offsets[sample]]]
      } else {
        rows = Array(states[batch.encoder.offsets[sample]..<batch.encoder.offsets[sample + 1]])
      }
      for output in 0..<head.outputs {
        var expected = Double(head.bias?.values[output] ?? 0)
        for row in rows {
          for column in 0..<head.inputs {
            expected +=
              Double(row[column]) * Double(head.weight.values[output * head.inputs + column])
              / Double(rows.count)
          }
        }
        #expect(abs(Double(untrained[sample][output]) - expected) < 1e-4)
        #expect(abs(Double(trained[sample][output]) - expected) < 1e-4)
      }
    }
  }

  /// Copied out: rows are valid while their technique lives.
  private func predictions(_ tuning: BackboneTuning, _ batch: PackedMicroBatch) throws -> [[Float]] {
    let rows = try tuning.predict(batch, worker: 0)
    return withExtendedLifetime(tuning) {
      (0..<rows.rows).map { row in (0..<rows.columns).map { rows[row, $0] } }
    }
  }

  /// The last stack's final states by the backbone's own forward.
  private func finalStates(_ backbone: some Backbone, _ batch: PackedMicroBatch) -> [[Float]] {
    let packed = BackboneBatch(
      encoderIDs: batch.encoderIDs, encoderTypes: batch.encoderTypes, encoder: batch.encoder,
      decoderIDs: batch.decoderIDs, decoder: batch.decoder)
    let workspace = Arena(
      floatCount: backbone.workspaceFloats(capacity: BackboneCapacity(of: packed)))
    let last = backbone.architecture.stacks.count - 1
    var states: [[Float]] = []
    backbone.forward(packed, workspace: workspace) { stack, index, rows in
      guard stack == last, index == backbone.architecture.stacks[stack].layers else { return }
      let copy = Arena(floatCount: rows.rows * rows.columns)
      let final = Matrix(copy.base, rows: rows.rows, columns: rows.columns)
      addRows(rows, into: final)
      backbone.finalNorm(stack: stack)?.forward(final, into: final, statistics: nil)
      states = (0..<final.rows).map { row in (0..<final.columns).map { final[row, $0] } }
    }
    return states
  }

  @Test(
    "LoRA's pairs merged into the frozen matrices are the same model", arguments: ["tiny-t5", "tiny-bert"])
  func mergedPairs(model: String) throws {
    let testCase = TechniqueFixture.Case(model: model, technique: "lora", head: .classes(3))
    let fixture = try TechniqueFixture(testCase)
    let batch = fixture.batches([Array(fixture.samples.indices)])[0]
    let expected = try predictions(fixture.tuning(training: false), batch)
    // Full fine-tuning's tree holds a copy of every matrix; the pairs are added to it.
    let full = TechniqueConfiguration.full(FullConfiguration())
    let tree = BackboneTuning.initialParameters(
      configuration: full, head: testCase.head, backbone: fixture.backbone, seed: 1)
    let tuned = fixture.configuration.tunedLeaves(
      of: fixture.backbone.leaves, architecture: fixture.backbone.architecture,
      parameters: fixture.parameters)
    for (stack, shape) in zip(tuned.stacks, fixture.backbone.architecture.stacks) {
      for (layer, block) in stack.blocks.enumerated() {
        for (name, attention) in [
          ("selfAttention", block.selfAttention), ("crossAttention", block.crossAttention),
        ] {
          for (part, linear) in [
            ("query", attention?.query), ("value", attention?.value), ("output", attention?.output),
          ] {
            linear?.lowRank?.merge(
              into: tree["\(shape.kind.rawValue).\(layer).\(name).\(part).weight"].matrix)
          }
        }
        for (part, linear) in [("up", block.feedForward.up), ("down", block.feedForward.down)] {
          linear.lowRank?.merge(
            into: tree["\(shape.kind.rawValue).\(layer).feedForward.\(part).weight"].matrix)
        }
      }
    }
    for name in ["head.weight", "head.bias"] {
      let (source, target) = (fixture.parameters[name], tree[name])
      for index in 0..<source.count { target.values[index] = source.values[index] }
    }
    let merged = BackboneTuning(
      configuration: full, head: testCase.head, backbone: fixture.backbone, parameters: tree,
      capacity: MicroBatchCapacity([batch]), workers: 1, training: false, checkpointsActivations: false,
      dropoutSeed: 0)
    let found = try predictions(merged, batch)
    for (expected, found) in zip(expected.joined(), found.joined()) { #expect(abs(expected - found) < 1e-4) }
  }

  @Test("start as the backbone: a new pair adds nothing and a new bottleneck next to nothing")
  func start() throws {
    for technique in ["lora", "houlsby"] {
      let testCase = TechniqueFixture.Case(
        model: "tiny-bert", technique: technique, head: technique == "lora" ? .classes(3) : .value)
      let fixture = try TechniqueFixture(testCase)
      let fresh = BackboneTuning.initialParameters(
        configuration: fixture.configuration, head: testCase.head, backbone: fixture.backbone, seed: 9)
      let batch = fixture.batches([Array(fixture.samples.indices)])[0]
      let plain = finalStates(fixture.backbone, batch)
      let tuned = finalStates(
        fixture.configuration.tunedBackbone(fixture.backbone, parameters: fresh), batch)
      let worst = zip(plain.joined(), tuned.joined()).reduce(0) { max($0, abs($1.0 - $1.1)) }
      #expect(worst < (technique == "lora" ? 1e-6 : 0.1), "\(technique): \(worst)")
    }
  }
}
