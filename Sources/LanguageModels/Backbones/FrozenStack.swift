package import NeuralNetworks
import TensorKernels

/// A stack of frozen blocks that share one set of buffers.
package struct FrozenStack: Sendable {
  /// Shape of the stack.
  package let shape: StackShape
  /// The blocks in the order in which they run.
  package let blocks: [TransformerBlock]
  /// The rule and table of relative position biases, if the stack has them.
  package let relativeBias: RelativePositionBias?
  /// The norm behind the last block, if there is one.
  package let finalNorm: NormParameters?

  init(
    shape: StackShape, blocks: [BlockParameters], relativeBias table: Parameter?, finalNorm: NormParameters?
  ) {
    precondition(
      blocks.count == shape.layers, "\(blocks.count) blocks in a stack of \(shape.layers)")
    self.shape = shape
    self.blocks = blocks.map { TransformerBlock(shape.block, $0) }
    relativeBias = table.flatMap { table in
      shape.relativeBias.map {
        RelativePositionBias(
          table: table, bidirectional: $0.bidirectional, maximumDistance: $0.maximumDistance)
      }
    }
    self.finalNorm = finalNorm
    for leaf in leaves { precondition(!leaf.isTrainable, "\(leaf.name) of a backbone is trainable") }
  }

  /// The same stack over other leaves, which become frozen.
  init(shape: StackShape, _ leaves: StackLeaves) {
    self.init(
      shape: shape, blocks: leaves.blocks.map(\.frozen), relativeBias: leaves.relativeBias?.frozen,
      finalNorm: leaves.finalNorm?.frozen)
  }

  /// The stack's leaves by place, below `embedding`.
  func leaves(embedding: StackEmbedding) -> StackLeaves {
    StackLeaves(
      embedding: embedding, blocks: blocks.map(\.parameters), relativeBias: relativeBias?.table,
      finalNorm: finalNorm)
  }

  /// Every leaf of the stack.
  var leaves: [Parameter] {
    var leaves = blocks.flatMap { $0.parameters.leaves + $0.parameters.additions }
    if let relativeBias { leaves.append(relativeBias.table) }
    if let finalNorm { leaves += [finalNorm.weight] + (finalNorm.bias.map { [$0] } ?? []) }
    return leaves
  }

  /// The relative position biases of sequences up to `span` tokens, if the stack has them.
  func expandBias(span: Int, _ buffers: StackBuffers, _ workspace: Arena) -> PositionBias? {
    relativeBias?.expand(span: span, into: workspace.base + buffers.bias)
  }

  /// Runs one block over `stream` in place.
  func runLayer(
    _ layer: Int, _ stream: Matrix, sequences: PackedSequences, bias: PositionBias?, encoder: EncoderStates?,
    buffers: StackBuffers, workspace: Arena
  ) {
    precondition(
      buffers.end <= workspace.floatCount,
      "a workspace of \(workspace.floatCount) floats, the batch needs \(buffers.end)")
    blocks[layer].forward(
      stream, into: stream, sequences: sequences, bias: bias, encoder: encoder,
      activations: buffers.activations, scratch: buffers.scratch, arena: workspace)
  }
}

/// Where a stack's temporary rows lie in the workspace.
struct StackBuffers {
  let activations: BlockActivations
  let scratch: BlockScratch
  /// Expanded relative position biases.
  let bias: Int
  /// Floats up to the last of them.
  let end: Int

  /// Reserves them; nil when the capacity has no tokens for the stack.
  init?(_ stack: FrozenStack, capacity: BackboneCapacity, layout: inout ArenaLayout) {
    let isEncoder = stack.shape.kind == .encoder
    let tokens = isEncoder ? capacity.encoderTokens : capacity.decoderTokens
    guard tokens > 0 else { return nil }
    let longest = isEncoder ? capacity.longestEncoder : capacity.longestDecoder
    let blocks =
      isEncoder
      ? BlockCapacity(tokens: tokens)
      : BlockCapacity(
        tokens: tokens, encoderTokens: capacity.encoderTokens, longestEncoder: capacity.longestEncoder)
    bias = layout.reserve(stack.relativeBias?.valueCount(span: longest) ?? 0)
    activations = BlockActivations(stack.shape.block, capacity: blocks, training: false, layout: &layout)
    scratch = BlockScratch(stack.shape.block, capacity: blocks, training: false, layout: &layout)
    end = layout.mark()
  }
}

/// Copies the embedding of each id; every id must be a row of the table.
func embed(_ ids: [Int32], _ table: Parameter, into stream: Matrix, accumulate: Bool = false) {
  for id in ids {
    precondition(
      id >= 0 && Int(id) < table.rows, "id \(id) is not among the \(table.rows) rows of \(table.name)")
  }
  if table.half != nil {
    // Only the rows that are looked up are decoded.
    for (row, id) in ids.enumerated() {
      table.withRows(Int(id)..<Int(id) + 1) { values in
        var first: Int32 = 0
        gatherRows(values, &first, count: 1, into: stream.rowRange(row, count: 1), accumulate: accumulate)
      }
    }
    return
  }
  ids.withUnsafeBufferPointer { ids in
    guard let base = ids.baseAddress else { return }
    gatherRows(table.matrix, base, count: ids.count, into: stream, accumulate: accumulate)
  }
}

/// Reads frozen leaves out of a checkpoint.
struct FrozenLeaves {
  let checkpoint: Checkpoint

  func matrix(_ name: String, _ rows: Int, _ columns: Int) throws(CheckpointFailure) -> Parameter {
    if let deferred = try checkpoint.deferred(named: name, shape: [rows, columns]) {
      return Parameter(frozen: name, deferred: deferred)
    }
    let values = try checkpoint.float32(named: name, shape: [rows, columns])
    return Parameter(frozen: name, rows: rows, columns: columns, values: values)
  }

  func vector(_ name: String, _ count: Int) throws(CheckpointFailure) -> Parameter {
    let values = try checkpoint.float32(named: name, shape: [count])
    return Parameter(frozen: name, rows: 1, columns: count, values: values)
  }

  func linear(
    _ name: String, outputs: Int, inputs: Int, bias: Bool
  ) throws(CheckpointFailure) -> LinearParameters {
    LinearParameters(
      weight: try matrix("\(name).weight", outputs, inputs),
      bias: bias ? try vector("\(name).bias", outputs) : nil)
  }

  func norm(
    _ name: String, _ kind: NormKind, width: Int, epsilon: Float
  ) throws(CheckpointFailure) -> NormParameters {
    NormParameters(
      kind: kind, epsilon: epsilon, weight: try vector("\(name).weight", width),
      bias: kind == .layer ? try vector("\(name).bias", width) : nil)
  }
}
