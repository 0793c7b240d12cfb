import Determinism
import FineTuning
import Foundation
import LanguageModels
import NeuralNetworks
import TensorKernels
import Testing

/// A backbone reduced to its shapes: a side network reads taps, never a backbone.
enum TestBackbones {
  /// Smooth activations only: a finite difference across a kink of ReLU is no reference.
  static func architecture(layers: Int, width: Int, decoder: Bool) -> BackboneArchitecture {
    func block(_ cross: Bool) -> BlockConfiguration {
      BlockConfiguration(
        width: width, heads: 2, headSize: width / 2, hidden: 2 * width, norm: decoder ? .rms : .layer,
        epsilon: 1e-6, placement: decoder ? .pre : .post, activation: decoder ? .geluTanh : .gelu,
        gated: false,
        biases: !decoder, attentionScale: decoder ? 1 : 0.25, causal: cross, crossAttention: cross)
    }
    func stack(_ kind: StackKind) -> StackShape {
      StackShape(
        kind: kind, layers: layers, block: block(kind == .decoder),
        relativeBias: decoder
          ? RelativeBiasShape(buckets: 8, maximumDistance: 16, bidirectional: kind == .encoder) : nil,
        hasFinalNorm: decoder)
    }
    return BackboneArchitecture(
      name: "test", width: width, stacks: decoder ? [stack(.encoder), stack(.decoder)] : [stack(.encoder)],
      vocabulary: 50, decoderStartID: decoder ? 0 : nil, maximumLength: nil)
  }

  /// Random parameters, so that no gradient is zero by symmetry.
  static func randomParameters(_ shape: SideNetworkShape, seed: UInt64) -> ParameterTree {
    var generator = SeededGenerator(seed: seed)
    return ParameterTree(trainable: shape.parameterShapes()) { index, values in
      let kind = shape.parameterShapes()[index].kind
      for element in 0..<values.count {
        let noise = generator.normalFloat()
        values[element] = kind == .norm ? 1 + 0.1 * noise : kind == .gate ? 0.03 * noise : 0.25 * noise
      }
    }
  }

  /// - Parameter firstTexts: tokens of each sample's first text; the rest are its second's.
  static func microBatch(
    decoder: Bool, head: TaskHead, lengths: [Int] = [5, 1, 9], firstTexts: [Int]? = nil
  ) -> PackedMicroBatch {
    let dataset = lengths.enumerated().map { index, length in
      let decoderIDs: [Int32] = decoder ? (head == .languageModel ? [0, 3, 4] : [0]) : []
      let target: TrainingTarget =
        switch head {
        case .classes(let count): .label(Int32(index % count))
        case .value: .value(Float(index) - 0.7)
        case .languageModel: .tokens([3, 4, Int32(index)])
        }
      let first = firstTexts?[index] ?? length
      return TrainingSample(
        encoderIDs: (0..<length).map { Int32($0 + index) },
        encoderTypes: (0..<length).map { $0 < first ? 0 : 1 }, decoderIDs: decoderIDs, target: target)
    }
    return PackedMicroBatch(samples: Array(dataset.indices), of: dataset)
  }

  static func fill(_ taps: TapBuffer, for batch: PackedMicroBatch, seed: UInt64) {
    taps.prepare(encoderTokens: batch.encoder.tokens, decoderTokens: batch.decoder?.tokens ?? 0)
    var generator = SeededGenerator(seed: seed)
    for rows in taps.rows.flatMap({ $0 }) {
      let values = Arena(floatCount: rows.rows * rows.width)
      for index in 0..<rows.rows * rows.width { values.base[index] = generator.normalFloat() }
      let overflow = encodeRows(Matrix(values.base, rows: rows.rows, columns: rows.width), into: rows)
      #expect(overflow == 0)
    }
  }
}

@Suite("A side network")
struct SideNetworkTests {
  struct Case: Sendable, CustomTestStringConvertible {
    var preset: ParallelAdapterConfiguration.Preset
    var decoder: Bool
    var head: TaskHead
    var pooling: ParallelAdapterConfiguration.Pooling?
    var testDescription: String {
      "\(preset), \(decoder ? "encoder-decoder" : "encoder"), \(head)\(pooling.map { ", \($0)" } ?? "")"
    }
  }

  static let cases: [Case] = ParallelAdapterConfiguration.Preset.allCases.flatMap { preset in
    [
      Case(preset: preset, decoder: false, head: .classes(3)),
      Case(preset: preset, decoder: false, head: .value),
      Case(preset: preset, decoder: false, head: .classes(3), pooling: .segments),
      Case(preset: preset, decoder: false, head: .value, pooling: .segments),
      Case(preset: preset, decoder: false, head: .classes(3), pooling: .attention),
      Case(preset: preset, decoder: false, head: .value, pooling: .attention),
      Case(preset: preset, decoder: false, head: .classes(3), pooling: .aligned),
      Case(preset: preset, decoder: false, head: .value, pooling: .aligned),
      Case(preset: preset, decoder: true, head: .classes(2)),
      Case(preset: preset, decoder: true, head: .languageModel),
    ]
  }

  /// A network with its batch, taps and parameters.
  struct Fixture {
    let shape: SideNetworkShape
    let tree: ParameterTree
    let network: SideNetwork
    let batch: PackedMicroBatch
    let taps: TapBuffer
    let constants: Arena

    init(_ testCase: Case, element: ActivationElement = .float32, seed: UInt64 = 3) throws {
      let layers = 4
      let architecture = TestBackbones.architecture(layers: layers, width: 16, decoder: testCase.decoder)
      var configuration = ParallelAdapterConfiguration(
        preset: testCase.preset, reduction: 2, layersPerStack: layers)
      configuration.pooling = testCase.pooling
      shape = try SideNetworkShape(configuration, head: testCase.head, backbone: architecture)
      tree = TestBackbones.randomParameters(shape, seed: seed)
      if shape.comparesSegments, let head = tree.parameter(named: "head.weight") {
        // Four times as many inputs, products among them: losses, and with them their noise, stay as small as the others'.
        for index in 0..<head.count { head.values[index] *= 0.2 }
      }
      if let head = tree.parameter(named: "head.alignment.weight") {
        for index in 0..<head.count { head.values[index] *= 0.2 }
      }
      // Two texts, one alone, two again.
      batch = TestBackbones.microBatch(
        decoder: testCase.decoder, head: testCase.head, firstTexts: testCase.pooling == nil ? nil : [2, 1, 6])
      let capacity = MicroBatchCapacity([batch])
      constants = Arena(floatCount: 16 + 50 * 16)
      var generator = SeededGenerator(seed: seed, 99)
      for index in 0..<constants.floatCount { constants.base[index] = 0.5 + 0.3 * generator.normalFloat() }
      let norm =
        testCase.decoder
        ? NormParameters(
          kind: .rms, epsilon: 1e-6,
          weight: Parameter(frozen: "norm", rows: 1, columns: 16, values: UnsafePointer(constants.base)),
          bias: nil) : nil
      let frozen = FrozenOutput(
        norm: norm, embedding: Matrix(constants.base + 16, rows: 50, columns: 16), embeddingScale: 0.25)
      network = SideNetwork(shape: shape, tree: tree, frozen: frozen, capacity: capacity, training: true)
      taps = TapBuffer(shape: shape, element: element, capacity: capacity)
      TestBackbones.fill(taps, for: batch, seed: seed)
    }

    func gradients() -> (loss: Double, gradients: [Float]) {
      let sink = GradientAccumulator(count: tree.vectorCount, maximumContributions: 1)
      let loss = network.train(batch, taps: taps, sink: sink)
      var values = [Float](repeating: 0, count: tree.vectorCount)
      sink.read(into: &values)
      return (loss, values)
    }
  }

  @Test("has gradients that equal finite differences along random directions", arguments: cases)
  func finiteDifferences(testCase: Case) throws {
    let compares = testCase.pooling == .segments || testCase.pooling == .aligned
    let fixture = try Fixture(testCase, seed: compares ? 4 : 3)
    let (_, gradients) = fixture.gradients()
    var generator = SeededGenerator(seed: 17)
    for parameter in fixture.tree.parameters {
      guard let offset = parameter.gradientOffset else { continue }
      let direction = (0..<parameter.count).map { _ in generator.normalFloat() }
      let original = (0..<parameter.count).map { parameter.values[$0] }
      func slope(_ step: Float) -> Double {
        func loss(_ offset: Float) -> Double {
          for index in 0..<parameter.count {
            parameter.values[index] = original[index] + offset * direction[index]
          }
          return fixture.gradients().loss
        }
        return (loss(step) - loss(-step)) / Double(2 * step)
      }
      // Richardson's extrapolation removes the cubic term, which gates (temperature 0.1) have a lot of; float32
      // losses carry about 1e-6 of noise, under 1e-3 of a slope of 1 at these steps.
      // |u − v| has a kink at 0, which a smaller step crosses less often, and these texts not at all.
      let step: Float = compares ? 1e-3 : parameter.name.hasSuffix("ix") ? 2e-3 : 6e-3
      let numeric = (4 * slope(step / 2) - slope(step)) / 3
      for index in 0..<parameter.count { parameter.values[index] = original[index] }
      let analytic = (0..<parameter.count).reduce(0.0) {
        $0 + Double(gradients[offset + $1]) * Double(direction[$1])
      }
      let tolerance = 0.02 * max(abs(numeric), abs(analytic)) + 5e-3
      #expect(abs(numeric - analytic) < tolerance, "\(parameter.name): \(numeric) against \(analytic)")
    }
  }

  @Test("reads u, v, |u − v| and u ⊙ v of two texts (Conneau et al. 2017, §3.1)")
  func comparison() throws {
    let width = 16
    let fixture = try Fixture(
      Case(preset: .default, decoder: false, head: .classes(4 * width), pooling: .segments))
    let head = try #require(fixture.tree.parameter(named: "head.weight"))
    let bias = try #require(fixture.tree.parameter(named: "head.bias"))
    // A head that says what it reads.
    for row in 0..<head.rows {
      for column in 0..<head.columns { head.values[row * head.columns + column] = row == column ? 1 : 0 }
      bias.values[row] = 0
    }
    let read = fixture.network.predict(fixture.batch, taps: fixture.taps)
    #expect(read.rows == 3 && read.columns == 4 * width)
    for sample in 0..<3 {
      for column in 0..<width {
        let (u, v) = (read[sample, column], read[sample, width + column])
        #expect(abs(read[sample, 2 * width + column] - abs(u - v)) < 1e-5)
        #expect(abs(read[sample, 3 * width + column] - u * v) < 1e-5)
      }
    }
    // What the other pooling reads is the mean of u and v by their tokens: up-projection and mix are affine.
    let whole = try Fixture(Case(preset: .default, decoder: false, head: .classes(width)))
    for parameter in whole.tree.parameters where !parameter.name.hasPrefix("head.") {
      let source = try #require(fixture.tree.parameter(named: parameter.name))
      for index in 0..<parameter.count { parameter.values[index] = source.values[index] }
    }
    let wholeHead = try #require(whole.tree.parameter(named: "head.weight"))
    let wholeBias = try #require(whole.tree.parameter(named: "head.bias"))
    for row in 0..<width {
      for column in 0..<width { wholeHead.values[row * width + column] = row == column ? 1 : 0 }
      wholeBias.values[row] = 0
    }
    let mean = whole.network.predict(fixture.batch, taps: fixture.taps)
    for (sample, (first, length)) in [(2, 5), (1, 1), (6, 9)].enumerated() {
      for column in 0..<width {
        let (u, v) = (read[sample, column], read[sample, width + column])
        let expected = (Float(first) * u + Float(length - first) * v) / Float(length)
        #expect(abs(mean[sample, column] - expected) < 1e-5, "sample \(sample), column \(column)")
      }
    }
  }

  @Test("adds V·gelu(Σ(D·g + e) / √n) of the taps' averages, weighted by softmax(b·q) and scaled to √d")
  func attention() throws {
    let (width, layers) = (16, 4)
    let pooled = try Fixture(
      Case(preset: .default, decoder: false, head: .classes(3), pooling: .attention), seed: 8)
    let plain = try Fixture(Case(preset: .default, decoder: false, head: .classes(3)), seed: 8)
    for parameter in plain.tree.parameters {
      let source = try #require(pooled.tree.parameter(named: parameter.name))
      for index in 0..<parameter.count { parameter.values[index] = source.values[index] }
    }
    func value(_ name: String) throws -> [Double] {
      let parameter = try #require(pooled.tree.parameter(named: name))
      return (0..<parameter.count).map { Double(parameter.values[$0]) }
    }
    let narrow = pooled.shape.width
    let scores = pooled.network.predict(pooled.batch, taps: pooled.taps)
    let without = plain.network.predict(plain.batch, taps: plain.taps)
    let head = try value("head.taps.weight")
    for sample in 0..<3 {
      let tokens = pooled.batch.encoder.offsets[sample]..<pooled.batch.encoder.offsets[sample + 1]
      var sums = [Double](repeating: 0, count: narrow)
      for tap in 0...layers {
        let prefix = tap == 0 ? "encoder.pooling" : "encoder.layers.\(tap - 1).pooling"
        let (query, down) = (try value("\(prefix).query"), try value("\(prefix).down.weight"))
        let rows = Arena(floatCount: pooled.batch.encoder.tokens * width)
        let states = rows.matrix(0, rows: pooled.batch.encoder.tokens, columns: width)
        decodeRows(pooled.taps.rows[0][tap], into: states)
        let weights = tokens.map { token in
          exp((0..<width).reduce(0.0) { $0 + Double(states[token, $1]) * query[$1] })
        }
        var average = (0..<width).map { column in
          zip(tokens, weights).reduce(0.0) { $0 + Double(states[$1.0, column]) * $1.1 }
        }
        let length = average.reduce(0.0) { $0 + $1 * $1 }.squareRoot()
        average = average.map { $0 * Double(width).squareRoot() / length }
        let bias = try value("\(prefix).down.bias")
        for row in 0..<narrow {
          sums[row] += bias[row] + (0..<width).reduce(0.0) { $0 + down[row * width + $1] * average[$1] }
        }
      }
      let active = sums.map { sum -> Double in
        let x = sum / Double(layers + 1).squareRoot()
        return x * 0.5 * (1 + erf(x / 2.0.squareRoot()))
      }
      for output in 0..<3 {
        let added = (0..<narrow).reduce(0.0) { $0 + head[output * narrow + $1] * active[$1] }
        #expect(abs(Double(scores[sample, output] - without[sample, output]) - added) < 1e-4)
      }
    }
  }

  @Test("compares each token with what it is aligned with in the other text, and aggregates both texts alike")
  func alignment() throws {
    let aligned = try Fixture(
      Case(preset: .default, decoder: false, head: .classes(3), pooling: .aligned), seed: 8)
    let plain = try Fixture(
      Case(preset: .default, decoder: false, head: .classes(3), pooling: .segments), seed: 8)
    for parameter in plain.tree.parameters {
      let source = try #require(aligned.tree.parameter(named: parameter.name))
      for index in 0..<parameter.count { parameter.values[index] = source.values[index] }
    }
    // A block that adds nothing: what is left of it are its norms. Finite differences have the whole of it.
    for name in ["selfAttention.output", "feedForward.down"] {
      for leaf in ["weight", "bias"] {
        let parameter = try #require(aligned.tree.parameter(named: "alignment.block.\(name).\(leaf)"))
        for index in 0..<parameter.count { parameter.values[index] = 0 }
      }
    }
    let reference = try AlignmentReference(
      aligned.tree, taps: (1..<4).map { ($0, aligned.taps.rows[0][$0]) },
      texts: [[0..<2, 2..<5], [5..<6, 6..<6], [6..<12, 12..<15]])
    let scores = aligned.network.predict(aligned.batch, taps: aligned.taps)
    let without = plain.network.predict(plain.batch, taps: plain.taps)
    for (sample, added) in try reference.logits().enumerated() {
      for (output, value) in added.enumerated() {
        let difference = Double(scores[sample, output] - without[sample, output])
        #expect(abs(difference - value) < 1e-3 * max(1, abs(value)), "sample \(sample), output \(output)")
      }
    }
  }

  @Test(
    "aligns texts in taps from a third of the depth to the last but one, without moving any other starting value"
  )
  func alignmentStarts() throws {
    func taps(_ depth: Int, _ preset: ParallelAdapterConfiguration.Preset = .default) throws -> [Int] {
      let architecture = TestBackbones.architecture(layers: depth, width: 16, decoder: false)
      let configuration = ParallelAdapterConfiguration(preset: preset, reduction: 2, layersPerStack: depth)
      return try SideNetworkShape(configuration, head: .classes(2), backbone: architecture).stacks[0]
        .alignedTaps
    }
    #expect(try taps(6) == [2, 3, 4, 5] && taps(12) == Array(4...11) && taps(2) == [1])
    // A model of one layer has only its last state to compare, and `lst` leaves out every fourth layer.
    #expect(try taps(1) == [1] && taps(8, .lst) == [2, 3, 4, 6, 7])
    let backbone = try TinyModels.backbone("tiny-bert")
    func tree(_ pooling: ParallelAdapterConfiguration.Pooling?) throws -> ParameterTree {
      var configuration = ParallelAdapterConfiguration(preset: .default, reduction: 4, layersPerStack: 3)
      configuration.pooling = pooling
      return try SideNetworkShape(configuration, head: .classes(2), backbone: backbone.architecture)
        .initialParameters(seed: 5, backbone: backbone)
    }
    let (plain, aligned) = (try tree(.segments), try tree(.aligned))
    for parameter in plain.parameters {
      let other = try #require(aligned.parameter(named: parameter.name))
      #expect((0..<parameter.count).allSatisfy { parameter.values[$0] == other.values[$0] })
    }
    #expect(aligned.parameter(named: "encoder.layers.0.alignment.weight") != nil)
  }

  @Test(
    "pools the taps without moving any other starting value, with queries of zero and averages of about 1")
  func attentionStarts() throws {
    let backbone = try TinyModels.backbone("tiny-bert")
    func tree(_ pooling: ParallelAdapterConfiguration.Pooling?) throws -> ParameterTree {
      var configuration = ParallelAdapterConfiguration(preset: .default, reduction: 4, layersPerStack: 3)
      configuration.pooling = pooling
      return try SideNetworkShape(configuration, head: .classes(2), backbone: backbone.architecture)
        .initialParameters(seed: 5, backbone: backbone)
    }
    let (plain, pooled) = (try tree(nil), try tree(.attention))
    for parameter in plain.parameters {
      let other = try #require(pooled.parameter(named: parameter.name))
      #expect((0..<parameter.count).allSatisfy { parameter.values[$0] == other.values[$0] })
    }
    let width = backbone.architecture.width
    for prefix in ["encoder.pooling", "encoder.layers.0.pooling", "encoder.layers.2.pooling"] {
      let query = try #require(pooled.parameter(named: "\(prefix).query"))
      #expect((0..<query.count).allSatisfy { query.values[$0] == 0 } && query.count == width)
      let down = try #require(pooled.parameter(named: "\(prefix).down.weight"))
      let square = (0..<down.count).reduce(0.0) { $0 + Double(down.values[$1] * down.values[$1]) }
      #expect(abs(square / Double(down.count) * Double(width) - 1) < 0.2)
    }
  }

  @Test(
    "has no encoder's tokens to pool where a decoder predicts",
    arguments: [
      ParallelAdapterConfiguration.Pooling.segments, .attention, .aligned,
    ])
  func poolingOfDecoder(pooling: ParallelAdapterConfiguration.Pooling) {
    let architecture = TestBackbones.architecture(layers: 2, width: 16, decoder: true)
    var configuration = ParallelAdapterConfiguration(preset: .default, reduction: 2, layersPerStack: 2)
    configuration.pooling = pooling
    #expect(throws: SideNetworkFailure.predictsWithDecoder(backbone: "test", pooling: pooling.rawValue)) {
      try SideNetworkShape(configuration, head: .value, backbone: architecture)
    }
  }

  @Test("gives bit-equal gradients on every call and for every worker's own buffers", arguments: cases)
  func deterministic(testCase: Case) throws {
    let first = try Fixture(testCase)
    let second = try Fixture(testCase)
    let expected = first.gradients()
    #expect(first.gradients().gradients == expected.gradients)
    #expect(second.gradients().gradients == expected.gradients)
  }

  @Test("§1.5: the timing preset has 5.097 M parameters on T5-Base and 17.718 M on T5-Large")
  func parameterCounts() throws {
    func count(width: Int, heads: Int, hidden: Int, layers: Int) throws -> Int {
      func stack(_ kind: StackKind) -> StackShape {
        StackShape(
          kind: kind, layers: layers,
          block: BlockConfiguration(
            width: width, heads: heads, headSize: 64, hidden: hidden, norm: .rms, epsilon: 1e-6,
            placement: .pre, activation: .relu, gated: false, biases: false, attentionScale: 1,
            causal: kind == .decoder, crossAttention: kind == .decoder),
          relativeBias: RelativeBiasShape(buckets: 32, maximumDistance: 128, bidirectional: kind == .encoder),
          hasFinalNorm: true)
      }
      let architecture = BackboneArchitecture(
        name: "t5", width: width, stacks: [stack(.encoder), stack(.decoder)], vocabulary: 32_128,
        decoderStartID: 0, maximumLength: nil)
      let configuration = ParallelAdapterConfiguration(preset: .timing, layersPerStack: layers)
      return try SideNetworkShape(configuration, head: .languageModel, backbone: architecture)
        .adapterParameterCount
    }
    // Fig. 8b gives three digits of a GiB; these are 5.097 M and 17.718 M parameters, cut to thousands.
    let base = try count(width: 768, heads: 12, hidden: 3072, layers: 12)
    #expect(base == 5_097_216)
    let large = try count(width: 1024, heads: 16, hidden: 4096, layers: 24)
    #expect(large == 17_718_784)
  }

  @Test("refuses a reduction that does not divide the backbone's width")
  func indivisible() {
    let architecture = TestBackbones.architecture(layers: 2, width: 16, decoder: false)
    let configuration = ParallelAdapterConfiguration(preset: .default, reduction: 3, layersPerStack: 2)
    #expect(throws: SideNetworkFailure.self) {
      try SideNetworkShape(configuration, head: .value, backbone: architecture)
    }
  }

  @Test("taps 9 of 12 layers under the preset lst, as the accuracy runs of the paper's code did")
  func lstLayers() {
    let configuration = ParallelAdapterConfiguration(preset: .lst, layersPerStack: 12)
    #expect(configuration.layers == [1, 2, 3, 5, 6, 7, 9, 10, 11])
  }
}
