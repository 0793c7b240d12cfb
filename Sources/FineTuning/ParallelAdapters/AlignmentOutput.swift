import LanguageModels
import NeuralNetworks
import TensorKernels

/// What two aligned texts say of their sample: a block over each text's compared tokens, an aggregate of both, and what the
/// head adds to the logits.
///
/// With the sums `s` of `TapAlignment`: `h = block(norm(gelu(s + bias)))`, whose attention stays within a text; of each text the
/// mean `m` and the largest value `x` of every column; and `V · gelu(dense [m₁ + m₂, |m₁ − m₂|, x₁ + x₂, |x₁ − x₂|])`, which is the
/// same whichever text comes first (compare and aggregate; Parikh et al. 2016, §3.2 and 3.3, Wang and Jiang 2017).
struct AlignmentOutput {
  /// Rows that no micro-batch needs between its forward and its backward.
  struct Scratch {
    let block: BlockScratch
    let gradient, featureGradient, hiddenGradient, parameter: Int
  }

  /// What a forward or a backward of one micro-batch works with.
  struct Pass {
    let batch: PackedMicroBatch
    let scratch: Scratch
    let arena: Arena
    /// The sums of all taps, [tokens × r].
    let sums: Matrix
    /// Where a backward leaves their gradient.
    let sumGradient: Matrix?
  }

  private let shape: SideNetworkShape
  private let bias: Parameter
  private let norm: NormParameters
  private let block: TransformerBlock
  private let activations: BlockActivations
  private let dense: LinearParameters
  private let head: LinearParameters
  /// Offsets of a row a token: before and behind the first activation, behind its norm, and behind the block.
  private let before, active, normed, compared, statistics: Int
  /// Offsets of a row a sample.
  private let features, hidden, activeHidden: Int

  /// Reserves what a micro-batch keeps between its forward and its backward; nil when the network aligns no texts.
  init?(
    _ shape: SideNetworkShape, tree: ParameterTree, capacity: MicroBatchCapacity, training: Bool,
    layout: inout ArenaLayout
  ) {
    guard shape.alignsTexts else { return nil }
    self.shape = shape
    let prefix = SideNetworkShape.alignment
    let configuration = shape.stacks[0].block
    bias = tree["\(prefix).bias"]
    norm = NormParameters(tree, "\(prefix).norm", kind: configuration.norm, epsilon: configuration.epsilon)
    block = TransformerBlock(
      configuration, BlockParameters(tree, prefix: "\(prefix).block", configuration: configuration))
    dense = LinearParameters(tree, "\(prefix).dense", bias: true)
    head = LinearParameters(weight: tree["head.\(prefix).weight"], bias: nil)
    let tokens = capacity.encoderTokens
    activations = BlockActivations(
      configuration, capacity: BlockCapacity(tokens: tokens), training: training, layout: &layout)
    let rows = tokens * shape.width
    before = layout.reserve(rows)
    active = layout.reserve(rows)
    normed = layout.reserve(rows)
    compared = layout.reserve(rows)
    statistics = layout.reserve(tokens * configuration.norm.statisticsPerRow)
    features = layout.reserve(capacity.sequences * 4 * shape.width)
    hidden = layout.reserve(capacity.sequences * shape.width)
    activeHidden = layout.reserve(capacity.sequences * shape.width)
  }

  /// Reserves the rest, which the micro-batches of one thread share.
  static func scratch(
    _ shape: SideNetworkShape, capacity: MicroBatchCapacity, training: Bool, layout: inout ArenaLayout
  ) -> Scratch? {
    guard shape.alignsTexts else { return nil }
    let (tokens, width) = (capacity.encoderTokens, shape.width)
    let largest = max(4 * width * width + width, shape.head.outputs * width, 2 * width)
    return Scratch(
      block: BlockScratch(
        shape.stacks[0].block, capacity: BlockCapacity(tokens: tokens), training: training, layout: &layout),
      gradient: layout.reserve(training ? tokens * width : 0),
      featureGradient: layout.reserve(training ? capacity.sequences * 4 * width : 0),
      hiddenGradient: layout.reserve(training ? capacity.sequences * width : 0),
      parameter: layout.reserve(training ? largest : 0))
  }

  // MARK: Forward

  /// Adds what the comparison says to the logits, a row a sample.
  func forward(addingTo logits: Matrix, _ pass: Pass) {
    let (before, active, normed, compared) = (
      rows(self.before, pass), rows(self.active, pass), rows(self.normed, pass), rows(self.compared, pass)
    )
    for row in 0..<before.rows {
      let (source, target) = (pass.sums.base + row * pass.sums.stride, before.base + row * before.stride)
      for column in 0..<before.columns { target[column] = source[column] + bias.values[column] }
    }
    applyActivation(.gelu, before, into: active)
    norm.forward(active, into: normed, statistics: pass.arena.base + statistics)
    block.forward(
      normed, into: compared, sequences: texts(pass.batch), bias: nil, encoder: nil, activations: activations,
      scratch: pass.scratch.block, arena: pass.arena)
    let features = samples(self.features, 4 * shape.width, pass)
    aggregate(compared, pass.batch, into: features)
    let hidden = samples(self.hidden, shape.width, pass)
    dense.forward(features, into: hidden)
    let activeHidden = samples(self.activeHidden, shape.width, pass)
    applyActivation(.gelu, hidden, into: activeHidden)
    head.forward(activeHidden, into: logits, accumulate: true)
  }

  /// The texts as sequences of their own; one that is not there is none.
  private func texts(_ batch: PackedMicroBatch) -> PackedSequences {
    PackedSequences(lengths: shape.pooledTokens(batch).map(\.count).filter { $0 > 0 })
  }

  /// Mean and largest value of a column over a text; zero for one that is not there.
  private func summary(_ states: Matrix, _ text: Range<Int>, _ column: Int) -> (
    mean: Float, largest: Float, at: Int
  ) {
    guard let first = text.first else { return (0, 0, 0) }
    var (sum, largest, place): (Float, Float, Int) = (0, states[first, column], first)
    for token in text {
      let value = states[token, column]
      sum += value
      if value > largest { (largest, place) = (value, token) }
    }
    return (sum / Float(text.count), largest, place)
  }

  private func aggregate(_ states: Matrix, _ batch: PackedMicroBatch, into features: Matrix) {
    let (texts, width) = (shape.pooledTokens(batch), shape.width)
    for sample in 0..<features.rows {
      for column in 0..<width {
        let (one, two) = (
          summary(states, texts[2 * sample], column), summary(states, texts[2 * sample + 1], column)
        )
        features[sample, column] = one.mean + two.mean
        features[sample, width + column] = abs(one.mean - two.mean)
        features[sample, 2 * width + column] = one.largest + two.largest
        features[sample, 3 * width + column] = abs(one.largest - two.largest)
      }
    }
  }

  // MARK: Backward

  /// From the gradient of the logits to that of the sums of the taps.
  func backward(_ slopes: Matrix, _ pass: Pass, sink: any GradientSink) {
    guard let sumGradient = pass.sumGradient else {
      preconditionFailure("the gradient of the aligned taps has no place")
    }
    let parameter = pass.arena.base + pass.scratch.parameter
    head.parameterGradients(
      slopes, samples(activeHidden, shape.width, pass), scratch: parameter, sink: sink)
    let hiddenGradient = samples(pass.scratch.hiddenGradient, shape.width, pass)
    head.inputGradient(slopes, into: hiddenGradient, accumulate: false)
    activationBackward(
      .gelu, input: samples(hidden, shape.width, pass), gradient: hiddenGradient, into: hiddenGradient)
    dense.parameterGradients(
      hiddenGradient, samples(features, 4 * shape.width, pass), scratch: parameter, sink: sink)
    let featureGradient = samples(pass.scratch.featureGradient, 4 * shape.width, pass)
    dense.inputGradient(hiddenGradient, into: featureGradient, accumulate: false)
    let gradient = rows(pass.scratch.gradient, pass)
    disaggregate(featureGradient, pass.batch, of: rows(compared, pass), into: gradient)
    block.backward(
      gradient, input: rows(normed, pass), sequences: texts(pass.batch), bias: nil, biasGradient: nil,
      encoder: nil, encoderGradient: nil, activations: activations, scratch: pass.scratch.block,
      arena: pass.arena, sink: sink)
    norm.backward(
      input: rows(active, pass), statistics: UnsafePointer(pass.arena.base + statistics), gradient: gradient,
      into: gradient, accumulate: false, scratch: parameter, sink: sink)
    activationBackward(.gelu, input: rows(before, pass), gradient: gradient, into: sumGradient)
    columnSums(sumGradient, into: parameter, accumulate: false)
    sink.add(parameter, of: bias)
  }

  /// From the gradient of the aggregates to that of the tokens' states; where two aggregates are equal, their distance has none.
  private func disaggregate(
    _ slopes: Matrix, _ batch: PackedMicroBatch, of states: Matrix, into gradient: Matrix
  ) {
    gradient.base.update(repeating: 0, count: gradient.rows * gradient.columns)
    let (texts, width) = (shape.pooledTokens(batch), shape.width)
    func away(_ difference: Float) -> Float { difference == 0 ? 0 : difference > 0 ? 1 : -1 }
    for sample in 0..<slopes.rows {
      let (first, second) = (texts[2 * sample], texts[2 * sample + 1])
      for column in 0..<width {
        let (one, two) = (summary(states, first, column), summary(states, second, column))
        let means = (
          slopes[sample, column], away(one.mean - two.mean) * slopes[sample, width + column]
        )
        let largest = (
          slopes[sample, 2 * width + column],
          away(one.largest - two.largest) * slopes[sample, 3 * width + column]
        )
        for token in first { gradient[token, column] = (means.0 + means.1) / Float(first.count) }
        for token in second { gradient[token, column] = (means.0 - means.1) / Float(second.count) }
        if !first.isEmpty { gradient[one.at, column] += largest.0 + largest.1 }
        if !second.isEmpty { gradient[two.at, column] += largest.0 - largest.1 }
      }
    }
  }

  // MARK: Views

  private func rows(_ offset: Int, _ pass: Pass) -> Matrix {
    pass.arena.matrix(offset, rows: pass.batch.encoder.tokens, columns: shape.width)
  }

  private func samples(_ offset: Int, _ columns: Int, _ pass: Pass) -> Matrix {
    pass.arena.matrix(offset, rows: pass.batch.encoder.count, columns: columns)
  }
}
