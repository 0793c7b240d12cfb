import LanguageModels
import NeuralNetworks
import TensorKernels

/// One stack of a side network with its buffers.
///
/// PAC Eq. 1, `a_i = f_i(b_i, a_{i−1})`, for all kept layers:
/// `down(b_0)` starts the chain; each kept layer mixes `down_i(b_{i+1})` into it and runs a small block.
struct SideStack {
  /// One kept layer.
  struct Layer {
    let tapSlot: Int
    let down: LinearParameters
    let mix: Parameter?
    let block: TransformerBlock
    /// Offset of the block's input.
    let mixed: Int
    let activations: BlockActivations
  }

  let shape: SideStackShape
  let width: Int
  private let first: LinearParameters
  /// Offset of the chain's state: the output of the last block that ran.
  private let state: Int
  /// Offset of `down_i(b)`.
  private let projected: Int
  private let layers: [Layer]
  private let relativeBias: RelativePositionBias?
  private let norm: NormParameters?
  private let biasValues: Int
  private let biasGradient: Int
  private let normed: Int
  private let statistics: Int
  private let scratch: BlockScratch
  private let gradientScratch: Int
  private let projectedGradient: Int
  private let training: Bool

  init(
    _ shape: SideStackShape, network: SideNetworkShape, tree: ParameterTree, capacity: MicroBatchCapacity,
    training: Bool, layout: inout ArenaLayout
  ) {
    self.shape = shape
    self.training = training
    width = network.width
    let isEncoder = shape.kind == .encoder
    let tokens = isEncoder ? capacity.encoderTokens : capacity.decoderTokens
    let longest = isEncoder ? capacity.longestEncoder : capacity.longestDecoder
    let blockCapacity = BlockCapacity(
      tokens: tokens, encoderTokens: isEncoder ? 0 : capacity.encoderTokens,
      longestEncoder: isEncoder ? 0 : capacity.longestEncoder)
    first = LinearParameters(tree, "\(shape.name).down", bias: true)
    relativeBias = shape.relativeBias.map {
      RelativePositionBias(
        table: tree["\(shape.name).relativeBias"], bidirectional: $0.bidirectional,
        maximumDistance: $0.maximumDistance)
    }
    norm =
      shape.hasFinalNorm
      ? NormParameters(tree, "\(shape.name).norm", kind: shape.block.norm, epsilon: shape.block.epsilon) : nil
    state = layout.reserve(tokens * width)
    projected = layout.reserve(tokens * width)
    layers = Self.makeLayers(
      shape, network: network, tree: tree, tokens: tokens, capacity: blockCapacity, training: training,
      layout: &layout)
    let biasCount = relativeBias?.valueCount(span: max(1, longest)) ?? 0
    biasValues = layout.reserve(biasCount)
    biasGradient = layout.reserve(training ? biasCount : 0)
    normed = layout.reserve(norm == nil ? 0 : tokens * width)
    statistics = layout.reserve(norm == nil ? 0 : tokens * shape.block.norm.statisticsPerRow)
    scratch = BlockScratch(shape.block, capacity: blockCapacity, training: training, layout: &layout)
    let largest = max(
      width * network.backboneWidth + width, relativeBias.map { $0.heads * 512 } ?? 0, 2 * width)
    gradientScratch = layout.reserve(training ? largest : 0)
    projectedGradient = layout.reserve(training ? tokens * width : 0)
  }

  private static func makeLayers(
    _ shape: SideStackShape, network: SideNetworkShape, tree: ParameterTree, tokens: Int,
    capacity: BlockCapacity, training: Bool, layout: inout ArenaLayout
  ) -> [Layer] {
    let width = network.width
    // Inference needs no layer's buffers after the layer: all share one set.
    var shared: (mixed: Int, activations: BlockActivations)?
    return shape.layers.map { layer in
      let prefix = "\(shape.name).layers.\(layer)"
      let buffers =
        shared
        ?? (
          layout.reserve(tokens * width),
          BlockActivations(shape.block, capacity: capacity, training: training, layout: &layout)
        )
      if !training { shared = buffers }
      return Layer(
        tapSlot: shape.tapSlot(layer: layer), down: LinearParameters(tree, "\(prefix).down", bias: true),
        mix: tree.parameter(named: "\(prefix).mix"),
        block: TransformerBlock(
          shape.block, BlockParameters(tree, prefix: prefix, configuration: shape.block)),
        mixed: buffers.mixed, activations: buffers.activations)
    }
  }

  // MARK: Forward

  /// Runs the stack on a micro-batch's taps and returns its final states (after the final norm, if any).
  func forward(
    taps: [EncodedRows], sequences: PackedSequences, encoder: EncoderStates?, arena: Arena
  ) -> Matrix {
    let tokens = sequences.tokens
    let state = matrix(self.state, tokens, arena)
    project(taps[0], first, into: state)
    let bias = relativeBias?.expand(span: sequences.longest, into: arena.base + biasValues)
    for layer in layers {
      let mixed = matrix(layer.mixed, tokens, arena)
      let projected = matrix(self.projected, tokens, arena)
      project(taps[layer.tapSlot], layer.down, into: projected)
      mix(state, projected, by: layer.mix, into: mixed)
      layer.block.forward(
        mixed, into: state, sequences: sequences, bias: bias, encoder: encoder,
        activations: layer.activations, scratch: scratch, arena: arena)
    }
    guard let norm else { return state }
    let final = matrix(normed, tokens, arena)
    norm.forward(state, into: final, statistics: arena.base + statistics)
    return final
  }

  /// The final states of the last `forward`.
  func finalStates(tokens: Int, arena: Arena) -> Matrix {
    matrix(norm == nil ? state : normed, tokens, arena)
  }

  private func project(_ tap: EncodedRows, _ down: LinearParameters, into output: Matrix) {
    decodeMultiply(
      tap, weight: down.weight.matrix, into: output,
      epilogue: Epilogue(bias: down.bias.map { UnsafePointer($0.values) }))
  }

  /// `h = μ·a + (1 − μ)·down(b)` with a gate, `h = a + down(b)` without.
  private func mix(_ state: Matrix, _ projected: Matrix, by gate: Parameter?, into mixed: Matrix) {
    if let gate {
      blendRows(state, projected, weight: SideNetwork.gateValue(gate), into: mixed)
      return
    }
    let count = state.rows * state.columns
    for index in 0..<count { mixed.base[index] = state.base[index] + projected.base[index] }
  }

  // MARK: Backward

  /// Turns the gradient of the final states (in `gradient`, overwritten) into parameter gradients.
  ///
  /// The encoder's share of a decoder's gradient is added to `encoderGradient`. Nothing flows into the taps.
  func backward(
    _ gradient: Matrix, taps: [EncodedRows], sequences: PackedSequences, encoder: EncoderStates?,
    encoderGradient: Matrix?, arena: Arena, sink: any GradientSink
  ) {
    let tokens = sequences.tokens
    if let norm {
      norm.backward(
        input: matrix(state, tokens, arena),
        statistics: UnsafePointer(arena.base + statistics), gradient: gradient, into: gradient,
        accumulate: false, scratch: arena.base + gradientScratch, sink: sink)
    }
    let biasCount = relativeBias?.valueCount(span: sequences.longest) ?? 0
    let biasSums = arena.base + biasGradient
    for index in 0..<biasCount { biasSums[index] = 0 }
    let bias = relativeBias.map { _ in
      PositionBias(values: UnsafePointer(arena.base + biasValues), span: sequences.longest)
    }
    for index in layers.indices.reversed() {
      let layer = layers[index]
      layer.block.backward(
        gradient, input: matrix(layer.mixed, tokens, arena), sequences: sequences, bias: bias,
        biasGradient: bias == nil ? nil : biasSums, encoder: encoder, encoderGradient: encoderGradient,
        activations: layer.activations, scratch: scratch, arena: arena, sink: sink)
      mixBackward(gradient, layer, tap: taps[layer.tapSlot], arena: arena, sink: sink)
    }
    _ = downGradient(gradient, first, tap: taps[0], arena: arena, sink: sink)
    relativeBias?.backward(
      UnsafePointer(biasSums), span: sequences.longest, scratch: arena.base + gradientScratch, sink: sink)
  }

  /// Splits a block input's gradient g between the chain (left in `gradient`) and the down-projection.
  ///
  /// With h = μ·a + (1 − μ)·d and d = down(b), the gate's slope g·(a − d)·μ(1 − μ) is (1 − μ)·g·h − (1 − μ)·g·d,
  /// and (1 − μ)·g·d is what the down-projection's own gradients give when they meet its parameters. So neither a
  /// nor d has to be kept for the backward.
  private func mixBackward(
    _ gradient: Matrix, _ layer: Layer, tap: EncodedRows, arena: Arena, sink: any GradientSink
  ) {
    guard let gate = layer.mix else {
      _ = downGradient(gradient, layer.down, tap: tap, arena: arena, sink: sink)
      return
    }
    let weight = SideNetwork.gateValue(gate)
    let along = dotProduct(gradient, matrix(layer.mixed, gradient.rows, arena))
    let share = matrix(projectedGradient, gradient.rows, arena)
    let count = gradient.rows * gradient.columns
    for index in 0..<count {
      let value = gradient.base[index]
      share.base[index] = (1 - weight) * value
      gradient.base[index] = weight * value
    }
    let projectedAlong = downGradient(share, layer.down, tap: tap, arena: arena, sink: sink)
    var gateGradient = ((1 - weight) * along - projectedAlong) / SideNetworkShape.gateTemperature
    sink.add(&gateGradient, of: gate)
  }

  /// Hands the down-projection's gradients on; returns `gradient` · down(b).
  private func downGradient(
    _ gradient: Matrix, _ down: LinearParameters, tap: EncodedRows, arena: Arena, sink: any GradientSink
  ) -> Float {
    let weight = Matrix(
      arena.base + gradientScratch, rows: down.weight.rows, columns: down.weight.columns)
    decodeWeightGradient(gradient, tap, into: weight, accumulate: false)
    sink.add(weight.base, of: down.weight)
    var along = dotProduct(weight, down.weight.matrix)
    guard let bias = down.bias else { return along }
    let sums = Matrix(weight.base + down.weight.count, rows: 1, columns: bias.count)
    columnSums(gradient, into: sums.base, accumulate: false)
    sink.add(sums.base, of: bias)
    along += dotProduct(sums, bias.matrix)
    return along
  }

  private func matrix(_ offset: Int, _ rows: Int, _ arena: Arena) -> Matrix {
    Matrix(arena.base + offset, rows: rows, columns: width)
  }
}
