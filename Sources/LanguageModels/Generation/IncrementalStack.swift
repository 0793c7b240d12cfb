package import NeuralNetworks
package import TensorKernels

/// The blocks of a decoder that goes on by one token for each of several hypotheses of one text.
///
/// Keys and values of what has been written are kept, so a step costs one token's work; those of the input text
/// are computed once and shared. The arithmetic is that of `TransformerBlock.forward`, row by row.
package final class IncrementalStack {
  private let shape: StackShape
  private let capacity: Capacity
  private let arena: Arena
  private let places: Places
  private let bias: PositionBias?
  private let blocks: [BlockParameters]
  private var source: PackedSequences
  /// Tokens that each hypothesis has written so far.
  package private(set) var written = 0

  /// How much a stack serves.
  package struct Capacity: Sendable, Equatable {
    /// Hypotheses at a time.
    package var hypotheses: Int
    /// Tokens of the longest text that is written.
    package var targetTokens: Int
    /// Tokens of the longest text that is read.
    package var sourceTokens: Int

    /// A capacity of the given numbers.
    package init(hypotheses: Int, targetTokens: Int, sourceTokens: Int) {
      self.hypotheses = hypotheses
      self.targetTokens = targetTokens
      self.sourceTokens = sourceTokens
    }
  }

  /// A stack of the given blocks; `table` holds its relative position biases, if it has any.
  package init(
    _ shape: StackShape, blocks: [BlockParameters], relativeBias table: Parameter?, capacity: Capacity
  ) {
    precondition(blocks.count == shape.layers, "\(blocks.count) blocks in a stack of \(shape.layers)")
    self.shape = shape
    self.blocks = blocks
    self.capacity = capacity
    let places = Places(shape, capacity)
    self.places = places
    arena = Arena(floatCount: places.floatCount)
    source = PackedSequences(lengths: [capacity.sourceTokens])
    if let relative = shape.relativeBias, let table {
      bias = RelativePositionBias(
        table: table, bidirectional: relative.bidirectional, maximumDistance: relative.maximumDistance
      ).expand(span: capacity.targetTokens, into: arena.base + places.bias)
    } else {
      bias = nil
    }
  }

  /// Floats of the arena that a stack of this capacity plans.
  package static func floatCount(_ shape: StackShape, capacity: Capacity) -> Int {
    Places(shape, capacity).floatCount
  }

  /// Starts over with the encoder's final states of another text, [tokens × width].
  package func begin(_ states: Matrix) {
    precondition(
      states.rows <= capacity.sourceTokens, "\(states.rows) tokens, planned \(capacity.sourceTokens)")
    written = 0
    source = PackedSequences(lengths: [states.rows])
    for (layer, block) in blocks.enumerated() {
      guard let attention = block.crossAttention else { continue }
      attention.key.forward(states, into: sourceRows(layer, .key))
      attention.value.forward(states, into: sourceRows(layer, .value))
    }
  }

  /// Runs one block over a token of each hypothesis, in place; every block of a step comes once, in order.
  package func run(_ layer: Int, _ stream: Matrix) {
    precondition(
      stream.rows <= capacity.hypotheses && written < capacity.targetTokens,
      "\(stream.rows) hypotheses at token \(written) of a plan for \(capacity)")
    let block = blocks[layer]
    selfAttention(block.selfAttention, layer: layer, stream)
    if let attention = block.crossAttention { crossAttention(attention, layer: layer, stream) }
    feedForward(block.feedForward, stream)
  }

  /// Ends a step: all blocks have read the token.
  package func advance() { written += 1 }

  /// Hypothesis `i` goes on from what hypothesis `parents[i]` has written.
  package func reorder(_ parents: [Int]) {
    guard parents != Array(parents.indices) else { return }
    let count = capacity.targetTokens * shape.block.inner
    for layer in 0..<shape.layers {
      for part in [Part.key, .value] {
        let spare = arena.base + places.spare
        for (child, parent) in parents.enumerated() {
          (spare + child * count).update(
            from: targetRows(layer, part, parent).base, count: written * shape.block.inner)
        }
        for child in parents.indices {
          targetRows(layer, part, child).base.update(
            from: spare + child * count, count: written * shape.block.inner)
        }
      }
    }
  }

  // MARK: Sub-layers

  private func selfAttention(_ attention: AttentionParameters, layer: Int, _ stream: Matrix) {
    let rows = subLayerInput(stream, attention.norm)
    let query = projected(stream.rows)
    attention.query.forward(rows, into: query)
    let context = arena.matrix(places.context, rows: stream.rows, columns: shape.block.inner)
    let keys = PackedSequences(lengths: [written + 1])
    // The kernel takes the single query for position 0, so the biases are moved by the true position.
    let shifted = bias.map { PositionBias(values: $0.values - written, span: $0.span) }
    for hypothesis in 0..<stream.rows {
      let row = rows.rowRange(hypothesis, count: 1)
      let (key, value) = (targetRows(layer, .key, hypothesis), targetRows(layer, .value, hypothesis))
      attention.key.forward(row, into: key.rowRange(written, count: 1))
      attention.value.forward(row, into: value.rowRange(written, count: 1))
      attentionForward(
        attentionShape, q: query.rowRange(hypothesis, count: 1), k: key.rowRange(0, count: written + 1),
        v: value.rowRange(0, count: written + 1), queries: PackedSequences(lengths: [1]), keys: keys,
        bias: shifted, into: context.rowRange(hypothesis, count: 1), logSumExp: nil)
    }
    addSubLayer(attention.output, context, attention.bottleneck, attention.norm, to: stream)
  }

  private func crossAttention(_ attention: AttentionParameters, layer: Int, _ stream: Matrix) {
    let query = projected(stream.rows)
    attention.query.forward(subLayerInput(stream, attention.norm), into: query)
    let context = arena.matrix(places.context, rows: stream.rows, columns: shape.block.inner)
    attentionForward(
      attentionShape, q: query, k: sourceRows(layer, .key), v: sourceRows(layer, .value),
      queries: PackedSequences(lengths: [stream.rows]), keys: source, bias: nil, into: context,
      logSumExp: nil)
    addSubLayer(attention.output, context, attention.bottleneck, attention.norm, to: stream)
  }

  private func feedForward(_ layer: FeedForwardParameters, _ stream: Matrix) {
    let rows = subLayerInput(stream, layer.norm)
    let hidden = arena.matrix(places.hidden, rows: stream.rows, columns: shape.block.hidden)
    if let gate = layer.gate {
      let linear = arena.matrix(places.linear, rows: stream.rows, columns: shape.block.hidden)
      gate.forward(rows, into: hidden)
      layer.up.forward(rows, into: linear)
      gatedActivation(shape.block.activation, gate: hidden, linear: linear, into: hidden)
    } else {
      layer.up.forward(rows, into: hidden, activation: shape.block.activation)
    }
    addSubLayer(layer.down, hidden, layer.bottleneck, layer.norm, to: stream)
  }

  /// What a sub-layer reads: the normalised rows when norms stand before, else the stream itself.
  private func subLayerInput(_ stream: Matrix, _ norm: NormParameters) -> Matrix {
    guard shape.block.placement == .pre else { return stream }
    let normed = arena.matrix(places.normed, rows: stream.rows, columns: stream.columns)
    norm.forward(stream, into: normed, statistics: nil)
    return normed
  }

  private func addSubLayer(
    _ output: LinearParameters, _ rows: Matrix, _ bottleneck: BottleneckParameters?, _ norm: NormParameters,
    to stream: Matrix
  ) {
    if let bottleneck {
      // What was normalised for the sub-layer is read no more.
      let aside = arena.matrix(places.normed, rows: stream.rows, columns: stream.columns)
      output.forward(rows, into: aside)
      bottleneck.forward(aside)
      addRows(aside, into: stream)
    } else {
      output.forward(rows, into: stream, accumulate: true)
    }
    if shape.block.placement == .post { norm.forward(stream, into: stream, statistics: nil) }
  }

  private var attentionShape: AttentionShape {
    AttentionShape(
      heads: shape.block.heads, headSize: shape.block.headSize, scale: shape.block.attentionScale,
      causal: false)
  }

  // MARK: Memory

  private enum Part: Int {
    case key = 0
    case value = 1
  }

  private func projected(_ rows: Int) -> Matrix {
    arena.matrix(places.query, rows: rows, columns: shape.block.inner)
  }

  private func targetRows(_ layer: Int, _ part: Part, _ hypothesis: Int) -> Matrix {
    let each = capacity.targetTokens * shape.block.inner
    let index = (layer * 2 + part.rawValue) * capacity.hypotheses + hypothesis
    return arena.matrix(places.target + index * each, rows: capacity.targetTokens, columns: shape.block.inner)
  }

  private func sourceRows(_ layer: Int, _ part: Part) -> Matrix {
    let each = capacity.sourceTokens * shape.block.inner
    return arena.matrix(
      places.source + (layer * 2 + part.rawValue) * each, rows: source.tokens, columns: shape.block.inner)
  }

  /// Where everything lies in the arena.
  private struct Places {
    let normed, query, context, hidden, linear, bias, target, source, spare: Int
    let floatCount: Int

    init(_ shape: StackShape, _ capacity: Capacity) {
      let block = shape.block
      let (rows, inner) = (capacity.hypotheses, shape.block.inner)
      var layout = ArenaLayout()
      normed = layout.reserve(rows * block.width)
      query = layout.reserve(rows * inner)
      context = layout.reserve(rows * inner)
      hidden = layout.reserve(rows * block.hidden)
      linear = layout.reserve(block.gated ? rows * block.hidden : 0)
      bias = layout.reserve(shape.relativeBias == nil ? 0 : block.heads * (2 * capacity.targetTokens - 1))
      target = layout.reserve(2 * shape.layers * rows * capacity.targetTokens * inner)
      source = layout.reserve(2 * shape.layers * capacity.sourceTokens * inner)
      spare = layout.reserve(rows * capacity.targetTokens * inner)
      floatCount = layout.floatCount
    }
  }
}
