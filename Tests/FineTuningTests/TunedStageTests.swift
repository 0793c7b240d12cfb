import FineTuning
import LanguageModels
import NeuralNetworks
import TensorKernels
import Testing

@Suite("Stages of a pipeline under full fine-tuning, Houlsby's adapters and LoRA")
struct TunedStageTests {
  /// A fixture's model cut into stages.
  private func stages(
    _ fixture: TechniqueFixture, _ ranges: [Range<Int>], slots: Int = 1, workers: Int = 1,
    checkpoints: Bool = false, backbone: (any Backbone)? = nil
  ) -> [any StageComputation] {
    ranges.map {
      TunedStage(
        configuration: fixture.configuration, head: fixture.testCase.head,
        backbone: backbone ?? fixture.backbone, parameters: fixture.parameters, layers: $0,
        capacity: MicroBatchCapacity(fixture.batches([Array(fixture.samples.indices)])), slots: slots,
        workers: workers, checkpointsActivations: checkpoints, dropoutSeed: 5)
    }
  }

  private func layerCount(_ fixture: TechniqueFixture) -> Int {
    fixture.backbone.architecture.depths.reduce(0, +)
  }

  private func batches(_ fixture: TechniqueFixture) -> [PackedMicroBatch] {
    [[0, 1], [2], [3, 0]].enumerated().map {
      PackedMicroBatch(samples: $1, of: fixture.samples, ordinal: $0)
    }
  }

  @Test(
    "give the loss and the gradient sums of one device bit for bit, with dropout, for every split into 1 to 4 stages",
    arguments: TechniqueFixture.cases, [false, true])
  func training(testCase: TechniqueFixture.Case, checkpoints: Bool) throws {
    let fixture = try TechniqueFixture(testCase, dropout: 0.1)
    let alone = fixture.tuning(checkpoints: checkpoints)
    alone.begin(step: 7)
    let batches = batches(fixture)
    let expected = GradientAccumulator(
      count: fixture.parameters.vectorCount, maximumContributions: 64, exponent: 30)
    let losses = try batches.map { try alone.train($0, worker: 0, sink: expected) }
    #expect(!expected.overflowed && losses.allSatisfy { $0.isFinite && $0 != 0 })
    for ranges in splits(layerCount(fixture)) {
      var run = StageRun(stages(fixture, ranges, checkpoints: checkpoints), exponent: 30)
      for stage in run.stages { stage.begin(step: 7) }
      for (index, batch) in batches.enumerated() {
        try run.forward(batch, .train)
        try run.backward(batch)
        #expect(run.outputs[index]?.lossSum == losses[index], "\(ranges)")
      }
      #expect(run.gradients == expected.withSums { Array($0) }, "\(ranges)")
    }
  }

  @Test("predict what one device predicts, bit for bit, with its losses", arguments: TechniqueFixture.cases)
  func prediction(testCase: TechniqueFixture.Case) throws {
    let fixture = try TechniqueFixture(testCase, dropout: 0.1)
    let alone = fixture.tuning()
    for ranges in splits(layerCount(fixture)) {
      var run = StageRun(stages(fixture, ranges))
      for (index, batch) in batches(fixture).enumerated() {
        try run.forward(batch, .predict)
        #expect(run.outputs[index]?.lossSum == (try alone.loss(batch, worker: 0)), "\(ranges)")
        #expect(run.taps[index]?.allSatisfy(\.isEmpty) == true)
        guard testCase.head != .languageModel else { continue }
        let rows = try alone.predict(batch, worker: 0)
        let values = Array(UnsafeBufferPointer(start: rows.base, count: rows.rows * rows.columns))
        #expect(run.outputs[index]?.predictions == values, "\(ranges)")
      }
    }
  }

  @Test(
    "keep several micro-batches in flight, on several workers, with the bits of one after another",
    arguments: TechniqueFixture.cases, [false, true])
  func inFlight(testCase: TechniqueFixture.Case, checkpoints: Bool) throws {
    let fixture = try TechniqueFixture(testCase, dropout: 0.1)
    let batches = batches(fixture) + batches(fixture)
    let ranges = try #require(splits(layerCount(fixture)).last { $0.count == 3 })
    let alone = fixture.tuning(checkpoints: checkpoints)
    let expected = GradientAccumulator(count: fixture.parameters.vectorCount, maximumContributions: 64)
    let losses = try batches.map { try alone.train($0, worker: 0, sink: expected) }
    let run = try OneForwardOneBackward(
      stages(fixture, ranges, slots: 3, workers: 2, checkpoints: checkpoints), batches)
    #expect(run.losses == losses)
    #expect(run.sums.withSums { Array($0) } == expected.withSums { Array($0) })
  }

  @Test(
    "read no values of leaves and weights that are other stages' alone, and hand on their own leaves",
    arguments: TechniqueFixture.cases)
  func foreignValues(testCase: TechniqueFixture.Case) throws {
    let fixture = try TechniqueFixture(testCase)
    let batch = batches(fixture)[0]
    for ranges in splits(layerCount(fixture)) where ranges.count > 1 {
      var expected = StageRun(stages(fixture, ranges))
      try expected.forward(batch, .train)
      try expected.backward(batch)
      var apart: [any StageComputation] = []
      for range in ranges {
        // A device of its own, whose memory has holes.
        let device = try TechniqueFixture(testCase)
        let leaves = StageLeaves(
          device.configuration, head: testCase.head, backbone: device.backbone, layers: range,
          in: device.parameters)
        let known = Set(leaves.own + leaves.shared)
        for (index, leaf) in device.parameters.parameters.enumerated() where !known.contains(index) {
          leaf.values.update(repeating: .nan, count: leaf.count)
        }
        let read = Set(device.backbone.stageWeights(layers: range, head: testCase.head).map(\.name))
        let holes = Holes(device.backbone, keeping: read)
        apart += stages(device, [range], backbone: holes.backbone)
        let sink = NamedSink()
        try sink.record(expected.stages[apart.count - 1], among: expected.stages, batch)
        #expect(
          sink.names.isSubset(of: leaves.own.map { device.parameters.parameters[$0].name }), "\(range)")
      }
      var run = StageRun(apart)
      try run.forward(batch, .train)
      try run.backward(batch)
      #expect(run.outputs == expected.outputs && run.gradients == expected.gradients, "\(ranges)")
    }
  }

  @Test("own every leaf together, and more than once only the words", arguments: TechniqueFixture.cases)
  func leaves(testCase: TechniqueFixture.Case) throws {
    let fixture = try TechniqueFixture(testCase)
    let names = fixture.parameters.parameters.map(\.name)
    for ranges in splits(layerCount(fixture)) {
      let stages = stages(fixture, ranges)
      let owners = names.indices.map { leaf in stages.count { $0.ownLeaves.contains(leaf) } }
      for (leaf, count) in owners.enumerated() {
        #expect(count == 1 || names[leaf] == "words" && (1...stages[0].contributions).contains(count))
        let shared = stages.contains { $0.sharedLeaves.contains(leaf) }
        #expect(!shared || names[leaf].hasSuffix("relativeBias") || count > 1, "\(names[leaf]) in \(ranges)")
        #expect(count == 1 || stages.count { $0.sharedLeaves.contains(leaf) } == count)
      }
    }
  }

  @Test("start from a backbone with holes where their layers are not, as from the whole one")
  func initialValues() throws {
    for testCase in TechniqueFixture.cases where testCase.technique == "full" {
      let fixture = try TechniqueFixture(testCase)
      let whole = BackboneTuning.initialParameters(
        configuration: fixture.configuration, head: testCase.head, backbone: fixture.backbone, seed: 3)
      for range in splits(layerCount(fixture)).joined() {
        let read = Set(fixture.backbone.stageWeights(layers: range, head: testCase.head).map(\.name))
        let holes = Holes(fixture.backbone, keeping: read)
        let part = BackboneTuning.initialParameters(
          configuration: fixture.configuration, head: testCase.head, backbone: holes.backbone, seed: 3,
          layers: range)
        let leaves = StageLeaves(
          fixture.configuration, head: testCase.head, backbone: fixture.backbone, layers: range, in: whole)
        for index in leaves.own + leaves.shared {
          let (found, expected) = (part.parameters[index], whole.parameters[index])
          #expect((0..<found.count).allSatisfy { found.values[$0] == expected.values[$0] }, "\(found.name)")
        }
      }
    }
  }

  @Test("refuse a boundary of another length, naming the layers")
  func malformed() throws {
    for testCase in TechniqueFixture.cases {
      let fixture = try TechniqueFixture(testCase)
      let batch = batches(fixture)[0]
      let stages = stages(fixture, [0..<2, 2..<layerCount(fixture)])
      let sink = GradientAccumulator(count: fixture.parameters.vectorCount, maximumContributions: 1)
      for bytes in [1, 4, 100_000] {
        let malformed = [UInt8](repeating: 0, count: bytes)
        let failure = #expect(throws: TrainingFailure.self) {
          try stages[1].forward(batch, pass: .train, slot: 0, worker: 0, input: malformed)
        }
        #expect(failure?.description.contains("\(bytes) bytes of activations for layers 2 to") == true)
        #expect(throws: TrainingFailure.self) {
          try stages[0].backward(batch, slot: 0, worker: 0, gradient: malformed, sink: sink)
        }
      }
    }
  }

  @Test("take the memory of one device for all layers, and less for fewer", arguments: TechniqueFixture.cases)
  func memory(testCase: TechniqueFixture.Case) throws {
    let fixture = try TechniqueFixture(testCase)
    let capacity = MicroBatchCapacity(batches(fixture))
    for checkpoints in [false, true] {
      func bytes(_ range: Range<Int>, slots: Int = 1, workers: Int = 1) -> Int {
        TunedStage.byteCount(
          configuration: fixture.configuration, head: testCase.head, backbone: fixture.backbone,
          layers: range, capacity: capacity, slots: slots, workers: workers,
          checkpointsActivations: checkpoints)
      }
      let whole = BackboneTuning.workerBytes(
        configuration: fixture.configuration, head: testCase.head, backbone: fixture.backbone,
        capacity: capacity, training: true, checkpointsActivations: checkpoints)
      let layers = 0..<layerCount(fixture)
      #expect(bytes(layers) == whole)
      // Of two slots only one is at work on one worker: what is temporary is there once.
      #expect(bytes(layers, slots: 2) < 2 * whole && bytes(layers, slots: 2, workers: 2) == 2 * whole)
      for range in splits(layers.count).joined() where range != layers {
        #expect(bytes(range) < whole, "\(range)")
      }
    }
  }
}
