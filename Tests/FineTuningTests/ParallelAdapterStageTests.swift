import ActivationCache
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

  @Test(
    "give the same bits where a first stage has run the backbone ahead, before the gradients of the batch before came",
    arguments: Fixture.cases)
  func ahead(testCase: Fixture.Case) throws {
    let fixture = try Fixture(testCase)
    for ranges in splits(fixture.layerCount) {
      var expected = StageRun(fixture.stages(ranges))
      var run = StageRun(fixture.stages(ranges, ahead: 2))
      for (index, batch) in fixture.batches.enumerated() {
        try expected.forward(batch, .train)
        try expected.backward(batch)
        try run.forward(batch, .train, prepared: index == 0 ? nil : index % 2)
        if index + 1 < fixture.batches.count {
          try run.stages[0].prepare(fixture.batches[index + 1], ahead: (index + 1) % 2, worker: 0)
        }
        try run.backward(batch)
        #expect(run.outputs[index] == expected.outputs[index], "\(ranges)")
        #expect(run.taps[index] == expected.taps[index], "\(ranges)")
      }
      #expect(run.gradients == expected.gradients, "\(ranges)")
    }
  }

  @Test("predict what one device predicts, bit for bit, with its losses", arguments: Fixture.cases)
  func prediction(testCase: Fixture.Case) throws {
    let fixture = try Fixture(testCase)
    let (technique, _) = fixture.alone()
    for ranges in splits(fixture.layerCount) {
      var run = StageRun(fixture.stages(ranges))
      for (index, batch) in fixture.batches.enumerated() {
        try run.forward(batch, .predict)
        #expect(run.outputs[index]?.lossSum == (try technique.loss(batch, worker: 0)), "\(ranges)")
        guard testCase.head != .languageModel else { continue }
        let rows = try technique.predict(batch, worker: 0)
        let values = Array(UnsafeBufferPointer(start: rows.base, count: rows.rows * rows.columns))
        #expect(run.outputs[index]?.predictions == values, "\(ranges)")
      }
    }
  }

  @Test(
    "fill an owner's cache with the bytes of one device's taps, and run nothing else",
    arguments: Fixture.cases)
  func filling(testCase: Fixture.Case) throws {
    let fixture = try Fixture(testCase)
    let (_, live) = fixture.alone()
    for ranges in splits(fixture.layerCount) {
      let store = try ActivationCacheStore(SimulatedStorage(), identity: fixture.identity)
      let assembly = TapAssembly(shape: fixture.shape, element: testCase.element, stages: ranges)
      var run = StageRun(fixture.stages(ranges))
      for (index, batch) in fixture.batches.enumerated() {
        try run.forward(batch, .fill)
        #expect(run.outputs[index] == StageOutput())
        try assembly.append(batch, parts: run.taps[index] ?? [], to: store)
      }
      let cached = BackboneTapSource(
        shape: fixture.shape, backbone: nil, cache: store, capacity: fixture.capacity, workers: 1)
      for batch in fixture.batches {
        #expect(try fixture.taps(batch, cached) == fixture.taps(batch, live), "\(ranges)")
      }
    }
  }

  @Test("keep several micro-batches in flight, on several workers, with the bits of one after another")
  func inFlight() throws {
    for testCase in Fixture.cases where testCase.preset == .default {
      let fixture = try Fixture(testCase, units: 6)
      let ranges = try #require(splits(fixture.layerCount).first { $0.count == 3 })
      var expected = StageRun(fixture.stages(ranges))
      for batch in fixture.batches {
        try expected.forward(batch, .train)
        try expected.backward(batch)
      }
      let run = try OneForwardOneBackward(fixture.stages(ranges, slots: 3, workers: 2), fixture.batches)
      #expect(run.losses == fixture.batches.indices.map { expected.outputs[$0]?.lossSum })
      #expect(run.sums.withSums { Array($0) } == expected.gradients)
    }
  }

  @Test("own every leaf once, and share only the biases of a stack that is cut")
  func leaves() throws {
    for testCase in Fixture.cases {
      let fixture = try Fixture(testCase)
      for ranges in splits(fixture.layerCount) {
        let stages = fixture.stages(ranges)
        #expect(
          stages.flatMap(\.ownLeaves).sorted() == Array(fixture.parameters.parameters.indices), "\(ranges)")
        for stage in stages {
          let names = stage.sharedLeaves.map { fixture.parameters.parameters[$0].name }
          #expect(names.allSatisfy { $0.hasSuffix("relativeBias") }, "\(names)")
          let sink = NamedSink()
          try sink.record(stage, among: stages, fixture.batches[0])
          #expect(sink.names == Set(stage.ownLeaves.map { fixture.parameters.parameters[$0].name }))
        }
      }
    }
  }

  @Test("read no values of leaves and weights that are other stages' alone")
  func foreignValues() throws {
    for testCase in Fixture.cases where testCase.preset == .default {
      let fixture = try Fixture(testCase)
      let ranges = try #require(splits(fixture.layerCount).last)
      var expected = StageRun(fixture.stages(ranges))
      try expected.forward(fixture.batches[0], .train)
      try expected.backward(fixture.batches[0])
      let stages = try ranges.map { range -> any StageComputation in
        let whole = try Fixture(testCase)
        let leaves = StageLeaves(whole.shape, layers: range, in: whole.parameters)
        for (index, leaf) in whole.parameters.parameters.enumerated()
        where !leaves.own.contains(index) && !leaves.shared.contains(index) {
          leaf.values.update(repeating: .nan, count: leaf.count)
        }
        let read = Set(whole.backbone.stageWeights(layers: range, head: testCase.head).map(\.name))
        return whole.stages([range], backbone: Holes(whole.backbone, keeping: read).backbone)[0]
      }
      var run = StageRun(stages)
      try run.forward(fixture.batches[0], .train)
      try run.backward(fixture.batches[0])
      #expect(run.outputs == expected.outputs && run.gradients == expected.gradients)
    }
  }

  @Test("refuse a boundary of another length, naming the layers")
  func malformed() throws {
    for model in ["tiny-bert", "tiny-t5", "tiny-bart"] {
      let fixture = try Fixture(.init(model: model, preset: .default, head: .classes(2)))
      let batch = fixture.batches[0]
      for ranges in splits(fixture.layerCount) {
        let stages = fixture.stages(ranges)
        for (stage, range) in zip(stages, ranges) where range.lowerBound > 0 {
          for bytes in [0, 4, 40_000] {
            let failure = #expect(throws: TrainingFailure.self) {
              try stage.forward(
                batch, pass: .train, slot: 0, worker: 0, input: [UInt8](repeating: 0, count: bytes))
            }
            #expect(failure?.description.contains("for layers \(range.lowerBound) to") == true)
            #expect(throws: TrainingFailure.self) {
              try stages[0].forward(
                batch, pass: .train, slot: 0, worker: 0, input: [UInt8](repeating: 0, count: bytes + 1))
            }
            #expect(throws: TrainingFailure.self) {
              try stages[0].backward(
                batch, slot: 0, worker: 0, gradient: [UInt8](repeating: 0, count: bytes),
                sink: GradientAccumulator(count: fixture.parameters.vectorCount, maximumContributions: 1))
            }
          }
        }
      }
      let assembly = TapAssembly(
        shape: fixture.shape, element: .float16, stages: [0..<2, 2..<fixture.layerCount])
      let store = try ActivationCacheStore(SimulatedStorage(), identity: fixture.identity)
      let part = [UInt8](repeating: 0, count: assembly.byteCount(batch, stage: 0))
      let failure = #expect(throws: TrainingFailure.self) {
        try assembly.append(batch, parts: [part, part + [0]], to: store)
      }
      #expect(failure?.description.contains("taps for layers 2 to \(fixture.layerCount - 1)") == true)
    }
  }

  @Test("name an activation that the cache's storage cannot hold")
  func overflow() throws {
    let fixture = try Fixture(.init(model: "tiny-bert", preset: .default, head: .classes(2)))
    let stages = fixture.stages([0..<1, 1..<fixture.layerCount])
    let batch = fixture.batches[0]
    let output = try stages[0].forward(batch, pass: .train, slot: 0, worker: 0, input: [])
    // Post-norm blocks give rows of ordinary size whatever comes in, unless it is no number.
    let infinite = output.boundary.indices.map { [0x00, 0x00, 0x80, 0x7F][$0 % 4] as UInt8 }
    let failure = #expect(throws: TrainingFailure.self) {
      try stages[1].forward(batch, pass: .train, slot: 0, worker: 0, input: infinite)
    }
    guard case .activationOverflow(let stack, _, _, _) = failure else {
      Issue.record("\(String(describing: failure))")
      return
    }
    #expect(stack == "encoder")
  }

  @Test("take the memory of one device for all layers, and less for fewer", arguments: Fixture.cases)
  func memory(testCase: Fixture.Case) throws {
    let fixture = try Fixture(testCase)
    func bytes(_ range: Range<Int>, slots: Int = 1, workers: Int = 1) -> Int {
      ParallelAdapterStage.byteCount(
        shape: fixture.shape, backbone: fixture.backbone, layers: range, element: testCase.element,
        capacity: fixture.capacity, slots: slots, workers: workers)
    }
    let side = ParallelAdapters.workerBytes(
      shape: fixture.shape, element: testCase.element, capacity: fixture.capacity, training: true)
    let backbone = BackboneTapSource.workspaceFloats(fixture.backbone, capacity: fixture.capacity)
    let frozen = FrozenOutput.floatCount(copying: fixture.backbone, head: testCase.head)
    let layers = 0..<fixture.layerCount
    let whole = side + 4 * (backbone + frozen)
    #expect(bytes(layers) == whole)
    // What is temporary is there once a worker, the rest once a slot.
    #expect(bytes(layers, slots: 2) < bytes(layers, slots: 2, workers: 2))
    for range in splits(layers.count).joined() where range != layers {
      #expect(bytes(range) < whole, "\(range)")
    }
  }
}
