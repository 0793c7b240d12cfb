import FineTuning
import LanguageModels
import NeuralNetworks
import TensorKernels
import Testing

/// The paper's set-up for Table 1 and its figures 3 and 8: batch 16, length 128, decoder length 1 (docs/REPRODUCING-PAC.md).
private let paperWorkload = CostWorkload(samples: 16, encoderLength: 128)
private let gibibyte = Double(1 << 30)

private func techniqueCosts(
  _ shape: ModelShape, _ technique: TechniqueConfiguration, head: TaskHead = .classes(2),
  workload: CostWorkload = paperWorkload, counting: TechniqueCosts.Counting = .paper
) throws -> TechniqueCosts {
  try TechniqueCosts(
    shape.architecture, technique: technique, head: head, workload: workload, counting: counting)
}

private func sideNetwork(_ shape: ModelShape, _ preset: ParallelAdapterConfiguration.Preset = .timing)
  -> TechniqueConfiguration
{
  .parallel(
    ParallelAdapterConfiguration(preset: preset, layersPerStack: shape.architecture.stacks[0].layers))
}

@Suite("Costs in closed form")
struct TechniqueCostsTests {
  @Test("models have the parameters that their publishers count")
  func parameterCounts() throws {
    // Sums over the tensors of the published files (Hugging Face model cards' safetensors metadata).
    let published: [(ModelShape, Int)] = [
      (.t5Small, 60_506_624), (.t5Base, 222_903_552), (.t5Large, 737_668_096), (.bartBase, 139_420_416),
      (.bartLarge, 406_291_456),
    ]
    for (shape, count) in published {
      let costs = try techniqueCosts(shape, .full(FullConfiguration()), head: .languageModel)
      #expect(costs.parameters == count, "\(shape.rawValue)")
      #expect(costs.trainableParameters == count, "\(shape.rawValue)")
    }
  }

  @Test("Fig. 3: TFLOP of a forward and of full fine-tuning's backward, as digitised to three digits")
  func figure3() throws {
    let digitised: [(ModelShape, Double, Double)] = [
      (.t5Base, 0.419, 0.837), (.bartLarge, 0.741, 1.481), (.t5Large, 1.480, 2.960),
    ]
    for (shape, forward, backward) in digitised {
      let costs = try techniqueCosts(shape, .full(FullConfiguration()))
      #expect(abs(Double(costs.forward) / 1e12 - forward) <= 0.0011, "\(shape.rawValue): \(costs.forward)")
      #expect(abs(Double(costs.backward) / 1e12 - backward) <= 0.0022, "\(shape.rawValue): \(costs.backward)")
    }
  }

  @Test("§2.2: adapters and LoRA save about 30 % of full fine-tuning's operations")
  func parameterEfficientSavings() throws {
    for shape in [ModelShape.t5Base, .bartLarge, .t5Large] {
      let full = try techniqueCosts(shape, .full(FullConfiguration()))
      for technique in [
        TechniqueConfiguration.houlsby(HoulsbyConfiguration()), .lora(LoRAConfiguration()),
      ] {
        let costs = try techniqueCosts(shape, technique)
        let saved = 1 - Double(costs.forward + costs.backward) / Double(full.forward + full.backward)
        #expect((0.28...0.34).contains(saved), "\(shape.rawValue) \(technique.name): \(saved)")
      }
    }
  }

  @Test("Table 1: trainable parameters and weights of T5-Large under each technique")
  func table1() throws {
    let full = try techniqueCosts(.t5Large, .full(FullConfiguration()))
    #expect(abs(Double(full.weightBytes) / gibibyte - 2.75) < 0.005)
    #expect(abs(Double(full.gradientBytes) / gibibyte - 2.75) < 0.005)
    // 9 M of 1.26 %: rank 32 on queries and values of every attention is 9,437,184.
    let lora = try techniqueCosts(.t5Large, .lora(LoRAConfiguration()))
    #expect(lora.trainableParameters == 9_437_184 + 2 * 1025)
    #expect(abs(Double(lora.weightBytes) / gibibyte - 2.78) < 0.006)
    #expect(abs(Double(lora.gradientBytes) / gibibyte - 0.04) < 0.005)
    // 12 M of 1.70 %: the paper's bottlenecks stand behind self-attention and feed-forward, 96 of them, ours behind
    // cross-attention too, 120 of 132,160 parameters each.
    let houlsby = try techniqueCosts(.t5Large, .houlsby(HoulsbyConfiguration()))
    #expect(houlsby.trainableParameters == 120 * 132_160 + 2 * 1025)
    let paper = Double(houlsby.weightBytes - 4 * 24 * 132_160) / gibibyte
    #expect(abs(paper - 2.80) < 0.006)
  }

  @Test("Table 1: activations that autograd keeps are the paper's less one constant for all techniques")
  func table1Activations() throws {
    func gibibytes(_ technique: TechniqueConfiguration) throws -> Double {
      Double(try techniqueCosts(.t5Large, technique).autogradBytes) / gibibyte
    }
    let rest = [
      5.33 - (try gibibytes(.full(FullConfiguration()))),
      4.04 - (try gibibytes(.houlsby(HoulsbyConfiguration()))),
    ]
    // What the paper's process holds besides: about 0.45 GiB.
    for value in rest { #expect((0.3...0.6).contains(value), "\(rest)") }
    #expect(abs(rest[0] - rest[1]) < 0.1, "\(rest)")
  }

  @Test("a side network has the parameters of its tree, whatever the preset")
  func sideNetworkParameters() throws {
    for shape in [ModelShape.t5Base, .t5Large, .bartLarge, .miniLM] {
      let architecture = shape.architecture
      for preset in ParallelAdapterConfiguration.Preset.allCases {
        let configuration = ParallelAdapterConfiguration(
          preset: preset, layersPerStack: architecture.stacks[0].layers)
        let side = try SideNetworkShape(configuration, head: .classes(3), backbone: architecture)
        let costs = try techniqueCosts(shape, .parallel(configuration), head: .classes(3))
        #expect(costs.trainableParameters == side.parameterCount, "\(shape.rawValue) \(preset)")
      }
    }
    for pooling in ParallelAdapterConfiguration.Pooling.allCases {
      var configuration = ParallelAdapterConfiguration(preset: .default, layersPerStack: 6)
      configuration.pooling = pooling
      let side = try SideNetworkShape(
        configuration, head: .classes(3), backbone: ModelShape.miniLM.architecture)
      let costs = try techniqueCosts(.miniLM, .parallel(configuration), head: .classes(3))
      #expect(costs.trainableParameters == side.parameterCount, "\(pooling)")
    }
    // 1.5 of the sizes behind Fig. 8b: 5.097 M, 9.097 M and 17.718 M.
    for (shape, millions) in [(ModelShape.t5Base, 5.097), (.bartLarge, 9.097), (.t5Large, 17.718)] {
      let costs = try techniqueCosts(shape, sideNetwork(shape), head: .languageModel)
      #expect(abs(Double(costs.trainableParameters) / 1e6 - millions) < 0.012, "\(shape.rawValue)")
    }
  }

  @Test(
    "a cached epoch of T5-Base's side network takes 0.72 GFLOP forward and at most three times that a sample")
  func cachedOperations() throws {
    let costs = try techniqueCosts(.t5Base, sideNetwork(.t5Base))
    let forward = Double(costs.cachedForward) / 16 / 1e9
    #expect(abs(forward - 0.72) < 0.03, "\(forward)")
    let all = forward + Double(costs.cachedBackward) / 16 / 1e9
    #expect(all > 2 * forward && all <= 2.17, "\(all)")
    let full = try techniqueCosts(.t5Base, .full(FullConfiguration()))
    let head = 2 * 16 * 768 * 2
    #expect(costs.forward - costs.cachedForward == full.forward - head)
    #expect(costs.parts.allSatisfy { $0.backward == 0 })
  }

  @Test("§5.2: a sequence of 30 tokens through T5-Base takes 30 × 768 × 13 values of cache in float32")
  func cacheBytes() throws {
    let workload = CostWorkload(samples: 500, encoderLength: 30)
    let costs = try techniqueCosts(.t5Base, sideNetwork(.t5Base), workload: workload)
    // The paper counts 12 layers of one stack, 553 MB; the embedding's output is a thirteenth, and the decoder's one
    // token has as many.
    #expect(costs.cacheBytes == 500 * 30 * 768 * 13 * 4 + 500 * 768 * 13 * 4)
    let encoder = costs.parts.reduce(0) { sum, part in
      if case .layer(.encoder, _) = part.part { sum + part.cacheBytes } else { sum }
    }
    #expect(encoder == 552_960_000)
  }

  @Test("absorbed cross-attention saves 53 of T5-Base's 432 GFLOP at four target tokens")
  func absorption() throws {
    let workload = CostWorkload(samples: 16, encoderLength: 128, decoderLength: 4)
    func gigaflop(_ absorbs: Bool) throws -> Double {
      let costs = try techniqueCosts(
        .t5Base, .full(FullConfiguration()), head: .languageModel, workload: workload,
        counting: TechniqueCosts.Counting(absorbsCrossAttention: absorbs))
      return Double(costs.forward) / 1e9
    }
    #expect(abs(try gigaflop(false) - 432) < 1.5)
    #expect(abs(try gigaflop(false) - gigaflop(true) - 53) < 1)
  }

  @Test("a backward through a side network costs no more than an eighth of one through the backbone")
  func boundaries() throws {
    let costs = try techniqueCosts(.t5Base, sideNetwork(.t5Base))
    let encoder = try #require(costs.parts.first { $0.part == .layer(.encoder, 3) })
    // A sample of 128 tokens: 393 KB of backbone and 49 KB of side network forward, 49 KB back.
    #expect(encoder.fillBoundaryBytes == 16 * 128 * 768 * 4)
    #expect(encoder.forwardBoundaryBytes == 16 * 128 * (768 + 96) * 4)
    #expect(encoder.backwardBoundaryBytes == 16 * 128 * 96 * 4)
    let full = try techniqueCosts(.t5Base, .full(FullConfiguration()))
    let decoder = try #require(full.parts.first { $0.part == .layer(.decoder, 3) })
    #expect(decoder.forwardBoundaryBytes == 16 * 129 * 768 * 4)
    #expect(decoder.backwardBoundaryBytes == decoder.forwardBoundaryBytes)
  }

  @Test("checkpoints keep one row a token and layer")
  func checkpoints() throws {
    let costs = try techniqueCosts(
      .t5Base, .lora(LoRAConfiguration()),
      counting: TechniqueCosts.Counting(checkpointsActivations: true))
    #expect(costs.activationBytes == 12 * (2048 + 16) * 768 * 4)
    let all = try techniqueCosts(.t5Base, .lora(LoRAConfiguration()), counting: .engine)
    #expect(all.activationBytes > 4 * costs.activationBytes)
    #expect(all.activationBytes < all.autogradBytes)
  }
}
