import LanguageModels
import NeuralNetworks
import TensorKernels

/// Consecutive layers of one stack of a side network with their buffers: all of them, or a pipeline stage's.
///
/// PAC Eq. 1, `a_i = f_i(b_i, a_{i−1})`, for all kept layers:
/// `down(b_0)` starts the chain; each kept layer mixes `down_i(b_{i+1})` into it and runs a small block.
/// What comes from layers before and behind is put into `state`, `gradient` and `biasGradient` by whoever calls.
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

  /// Rows that no micro-batch needs between its forward and its backward.
  struct Scratch {
    /// `down_i(b)`.
    let projected: Int
    let block: BlockScratch
    /// A finished gradient on its way to the sink.
    let parameter: Int
    let projectedGradient: Int
    /// The gradient of the chain's state.
    let gradient: Int
    let biasGradient: Int
  }

  /// What a forward or a backward of one micro-batch works with.
  struct Pass {
    /// The taps of the part, in the order of `SideStackShape.taps(of:)`.
    let taps: [EncodedRows]
    let sequences: PackedSequences
    let encoder: EncoderStates?
    let scratch: Scratch
    let arena: Arena
  }

  let shape: SideStackShape
  let part: StackPart
  let width: Int
  /// Nil where the chain does not start.
  private let first: LinearParameters?
  /// Offset of the chain's state: the output of the last block that ran.
  private let state: Int
  private let layers: [Layer]
  private let relativeBias: RelativePositionBias?
  /// Nil where the stack does not end.
  private let norm: NormParameters?
  private let biasValues: Int
  private let normed: Int
  private let statistics: Int

  /// Reserves what a micro-batch keeps between its forward and its backward.
  init(
    _ shape: SideStackShape, part: StackPart, network: SideNetworkShape, tree: ParameterTree,
    capacity: MicroBatchCapacity, training: Bool, layout: inout ArenaLayout
  ) {
    self.shape = shape
    self.part = part
    width = network.width
    let (blockCapacity, longest) = Self.size(shape, capacity)
    let tokens = blockCapacity.tokens
    first = part.startsStack ? LinearParameters(tree, "\(shape.name).down", bias: true) : nil
    relativeBias = Self.relativeBias(shape, tree)
    norm =
      shape.hasFinalNorm && part.endsStack
      ? NormParameters(tree, "\(shape.name).norm", kind: shape.block.norm, epsilon: shape.block.epsilon) : nil
    state = layout.reserve(tokens * width)
    layers = Self.makeLayers(
      shape, part: part, network: network, tree: tree, capacity: blockCapacity, training: training,
      layout: &layout)
    biasValues = layout.reserve(relativeBias?.valueCount(span: longest) ?? 0)
    normed = layout.reserve(norm == nil ? 0 : tokens * width)
    statistics = layout.reserve(norm == nil ? 0 : tokens * shape.block.norm.statisticsPerRow)
  }

  /// Reserves the rest, which the micro-batches of one thread share.
  static func scratch(
    _ shape: SideStackShape, network: SideNetworkShape, tree: ParameterTree, capacity: MicroBatchCapacity,
    training: Bool, layout: inout ArenaLayout
  ) -> Scratch {
    let (blockCapacity, longest) = size(shape, capacity)
    let width = network.width
    let rows = blockCapacity.tokens * width
    let relativeBias = relativeBias(shape, tree)
    let largest = max(
      width * network.backboneWidth + width, relativeBias.map { $0.heads * 512 } ?? 0, 2 * width)
    return Scratch(
      projected: layout.reserve(rows),
      block: BlockScratch(shape.block, capacity: blockCapacity, training: training, layout: &layout),
      parameter: layout.reserve(training ? largest : 0),
      projectedGradient: layout.reserve(training ? rows : 0),
      gradient: layout.reserve(training ? rows : 0),
      biasGradient: layout.reserve(training ? relativeBias?.valueCount(span: longest) ?? 0 : 0))
  }

  private static func size(
    _ shape: SideStackShape, _ capacity: MicroBatchCapacity
  ) -> (block: BlockCapacity, longest: Int) {
    switch shape.kind {
    case .encoder: (BlockCapacity(tokens: capacity.encoderTokens), max(1, capacity.longestEncoder))
    case .decoder:
      (
        BlockCapacity(
          tokens: capacity.decoderTokens, encoderTokens: capacity.encoderTokens,
          longestEncoder: capacity.longestEncoder), max(1, capacity.longestDecoder)
      )
    }
  }

  private static func relativeBias(_ shape: SideStackShape, _ tree: ParameterTree) -> RelativePositionBias? {
    shape.relativeBias.map {
      RelativePositionBias(
        table: tree["\(shape.name).relativeBias"], bidirectional: $0.bidirectional,
        maximumDistance: $0.maximumDistance)
    }
  }

  private static func makeLayers(
    _ shape: SideStackShape, part: StackPart, network: SideNetworkShape, tree: ParameterTree,
    capacity: BlockCapacity, training: Bool, layout: inout ArenaLayout
  ) -> [Layer] {
    let taps = shape.taps(of: part)
    // Inference needs no layer's buffers after the layer: all share one set.
    var shared: (mixed: Int, activations: BlockActivations)?
    return shape.layers(of: part).map { layer in
      let prefix = "\(shape.name).layers.\(layer)"
      let buffers =
        shared
        ?? (
          layout.reserve(capacity.tokens * network.width),
          BlockActivations(shape.block, capacity: capacity, training: training, layout: &layout)
        )
      if !training { shared = buffers }
      guard let tapSlot = taps.firstIndex(of: layer + 1) else {
        preconditionFailure("layer \(layer) of \(shape.name) has no tap among \(taps)")
      }
      return Layer(
        tapSlot: tapSlot, down: LinearParameters(tree, "\(prefix).down", bias: true),
        mix: tree.parameter(named: "\(prefix).mix"),
        block: TransformerBlock(
          shape.block, BlockParameters(tree, prefix: prefix, configuration: shape.block)),
        mixed: buffers.mixed, activations: buffers.activations)
    }
  }

  // MARK: Rows that cross to other layers

  /// The chain's state: where it comes in from the layers before, and where the last layer leaves it.
  func state(tokens: Int, arena: Arena) -> Matrix { matrix(state, tokens, arena) }

  /// The final states of the last `forward`.
  func finalStates(tokens: Int, arena: Arena) -> Matrix {
    matrix(norm == nil ? state : normed, tokens, arena)
  }

  /// The gradient of what leaves the part; `backward` turns it into that of what enters.
  func gradient(_ scratch: Scratch, tokens: Int, arena: Arena) -> Matrix {
    matrix(scratch.gradient, tokens, arena)
  }

  /// The gradient of the relative position biases, summed over the layers so far; nil without such biases.
  func biasGradient(_ scratch: Scratch, span: Int, arena: Arena) -> Matrix? {
    relativeBias.map {
      arena.matrix(scratch.biasGradient, rows: 1, columns: $0.valueCount(span: span))
    }
  }

  // MARK: Forward

  /// Runs the layers on a micro-batch's taps and returns the states behind them (after the final norm, if any).
  func forward(_ pass: Pass) -> Matrix {
    let (tokens, arena) = (pass.sequences.tokens, pass.arena)
    let state = matrix(self.state, tokens, arena)
    if let first { project(pass.taps[0], first, into: state) }
    let bias = relativeBias?.expand(span: pass.sequences.longest, into: arena.base + biasValues)
    for layer in layers {
      let mixed = matrix(layer.mixed, tokens, arena)
      let projected = matrix(pass.scratch.projected, tokens, arena)
      project(pass.taps[layer.tapSlot], layer.down, into: projected)
      mix(state, projected, by: layer.mix, into: mixed)
      layer.block.forward(
        mixed, into: state, sequences: pass.sequences, bias: bias, encoder: pass.encoder,
        activations: layer.activations, scratch: pass.scratch.block, arena: arena)
    }
    guard let norm else { return state }
    let final = matrix(normed, tokens, arena)
    norm.forward(state, into: final, statistics: arena.base + statistics)
    return final
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

  /// Turns the gradient of what leaves the part, in `gradient`, into parameter gradients and that of what enters.
  ///
  /// The encoder's share of a decoder's gradient is added to `encoderGradient`. Nothing flows into the taps.
  func backward(_ pass: Pass, encoderGradient: Matrix?, sink: any GradientSink) {
    let (tokens, arena) = (pass.sequences.tokens, pass.arena)
    let gradient = gradient(pass.scratch, tokens: tokens, arena: arena)
    if let norm {
      norm.backward(
        input: matrix(state, tokens, arena),
        statistics: UnsafePointer(arena.base + statistics), gradient: gradient, into: gradient,
        accumulate: false, scratch: arena.base + pass.scratch.parameter, sink: sink)
    }
    let biasSums = biasGradient(pass.scratch, span: pass.sequences.longest, arena: arena)
    if let biasSums, part.endsStack { biasSums.base.update(repeating: 0, count: biasSums.columns) }
    let bias = relativeBias.map { _ in
      PositionBias(values: UnsafePointer(arena.base + biasValues), span: pass.sequences.longest)
    }
    for layer in layers.reversed() {
      layer.block.backward(
        gradient, input: matrix(layer.mixed, tokens, arena), sequences: pass.sequences, bias: bias,
        biasGradient: biasSums?.base, encoder: pass.encoder, encoderGradient: encoderGradient,
        activations: layer.activations, scratch: pass.scratch.block, arena: arena, sink: sink)
      mixBackward(gradient, layer, pass, sink: sink)
    }
    guard let first else { return }
    _ = downGradient(gradient, first, tap: pass.taps[0], pass, sink: sink)
    if let relativeBias, let biasSums {
      relativeBias.backward(
        UnsafePointer(biasSums.base), span: pass.sequences.longest,
        scratch: arena.base + pass.scratch.parameter, sink: sink)
    }
  }

  /// Splits a block input's gradient g between the chain (left in `gradient`) and the down-projection.
  ///
  /// With h = μ·a + (1 − μ)·d and d = down(b), the gate's slope g·(a − d)·μ(1 − μ) is (1 − μ)·g·h − (1 − μ)·g·d,
  /// and (1 − μ)·g·d is what the down-projection's own gradients give when they meet its parameters. So neither a
  /// nor d has to be kept for the backward.
  private func mixBackward(_ gradient: Matrix, _ layer: Layer, _ pass: Pass, sink: any GradientSink) {
    let tap = pass.taps[layer.tapSlot]
    guard let gate = layer.mix else {
      _ = downGradient(gradient, layer.down, tap: tap, pass, sink: sink)
      return
    }
    let weight = SideNetwork.gateValue(gate)
    let along = dotProduct(gradient, matrix(layer.mixed, gradient.rows, pass.arena))
    let share = matrix(pass.scratch.projectedGradient, gradient.rows, pass.arena)
    let count = gradient.rows * gradient.columns
    for index in 0..<count {
      let value = gradient.base[index]
      share.base[index] = (1 - weight) * value
      gradient.base[index] = weight * value
    }
    let projectedAlong = downGradient(share, layer.down, tap: tap, pass, sink: sink)
    var gateGradient = ((1 - weight) * along - projectedAlong) / SideNetworkShape.gateTemperature
    sink.add(&gateGradient, of: gate)
  }

  /// Hands the down-projection's gradients on; returns `gradient` · down(b).
  private func downGradient(
    _ gradient: Matrix, _ down: LinearParameters, tap: EncodedRows, _ pass: Pass, sink: any GradientSink
  ) -> Float {
    let weight = pass.arena.matrix(
      pass.scratch.parameter, rows: down.weight.rows, columns: down.weight.columns)
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
