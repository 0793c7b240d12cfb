import LanguageModels
import NeuralNetworks
import TensorKernels

/// One stack of a tuned backbone with its buffers: forward with kept rows, and backward to every trained leaf.
///
/// The blocks are those of the frozen backbone's forward; what is trained is decided by their leaves alone.
struct TunedStack {
  /// What a backward needs to know.
  struct Pass {
    let sequences: PackedSequences
    let encoder: EncoderStates?
    let dropout: BatchDropout?
    let arena: Arena
  }

  let shape: StackShape
  let embedding: StackEmbedding
  private let blocks: [TransformerBlock]
  private let relativeBias: RelativePositionBias?
  private let finalNorm: NormParameters?
  /// Number of the stack's first layer, counted over all stacks.
  private let firstLayer: Int
  private let training: Bool
  private let checkpoints: Bool
  private let offsets: Offsets
  private let activations: [BlockActivations]
  private let scratch: BlockScratch

  private struct Offsets {
    /// What enters each block, and what leaves the last.
    var inputs: [Int] = []
    /// [tokens × width] words and positions before the norm, when its gradient is needed.
    var sums: Int?
    var sumStatistics: Int?
    var final = 0
    var finalStatistics = 0
    var bias = 0
    var biasGradient = 0
    var gradient = 0
    /// A finished gradient on its way to the sink.
    var parameter = 0
  }

  /// Plans the buffers of one stack that are its own.
  init(
    _ shape: StackShape, _ leaves: StackLeaves, firstLayer: Int, capacity: MicroBatchCapacity, training: Bool,
    checkpoints: Bool, scratch: BlockScratch, layout: inout ArenaLayout
  ) {
    self.shape = shape
    self.scratch = scratch
    self.firstLayer = firstLayer
    self.training = training
    self.checkpoints = checkpoints && training
    embedding = leaves.embedding
    blocks = leaves.blocks.map { TransformerBlock(shape.block, $0) }
    finalNorm = leaves.finalNorm
    relativeBias = leaves.relativeBias.flatMap { table in
      shape.relativeBias.map {
        RelativePositionBias(
          table: table, bidirectional: $0.bidirectional, maximumDistance: $0.maximumDistance)
      }
    }
    let size = Self.size(shape.kind, capacity)
    let rows = size.capacity.tokens * shape.block.width
    offsets = Self.plan(
      shape, leaves, relativeBias: relativeBias, tokens: size.capacity.tokens, longest: size.longest,
      rows: rows, training: training, layout: &layout)
    let bottlenecks = leaves.blocks.contains { $0.selfAttention.bottleneck != nil }
    var sets: [BlockActivations] = []
    for _ in 0..<(training && !checkpoints ? shape.layers : 1) {
      sets.append(
        BlockActivations(
          shape.block, capacity: size.capacity, training: training, bottlenecks: bottlenecks, hidden: true,
          layout: &layout))
    }
    activations = sets
  }

  /// Reserves the scratch of a stack; stacks never need theirs at the same time.
  static func scratch(
    _ shape: StackShape, capacity: MicroBatchCapacity, training: Bool, layout: inout ArenaLayout
  ) -> BlockScratch {
    BlockScratch(
      shape.block, capacity: size(shape.kind, capacity).capacity, training: training, layout: &layout)
  }

  private static func size(
    _ kind: StackKind, _ capacity: MicroBatchCapacity
  ) -> (capacity: BlockCapacity, longest: Int) {
    switch kind {
    case .encoder: (BlockCapacity(tokens: capacity.encoderTokens), capacity.longestEncoder)
    case .decoder:
      (
        BlockCapacity(
          tokens: capacity.decoderTokens, encoderTokens: capacity.encoderTokens,
          longestEncoder: capacity.longestEncoder), capacity.longestDecoder
      )
    }
  }

  private static func plan(
    _ shape: StackShape, _ leaves: StackLeaves, relativeBias: RelativePositionBias?, tokens: Int,
    longest: Int, rows: Int, training: Bool, layout: inout ArenaLayout
  ) -> Offsets {
    var offsets = Offsets()
    let stream = layout.reserve(rows)
    offsets.inputs = [stream]
    for _ in 0..<shape.layers { offsets.inputs.append(training ? layout.reserve(rows) : stream) }
    if training, let norm = leaves.embedding.norm, leaves.embedding.words.isTrainable {
      offsets.sums = layout.reserve(rows)
      offsets.sumStatistics = layout.reserve(tokens * norm.kind.statisticsPerRow)
    }
    offsets.final = leaves.finalNorm == nil ? offsets.inputs[shape.layers] : layout.reserve(rows)
    offsets.finalStatistics = layout.reserve(tokens * shape.block.norm.statisticsPerRow)
    let biases = relativeBias?.valueCount(span: max(1, longest)) ?? 0
    offsets.bias = layout.reserve(biases)
    guard training else { return offsets }
    offsets.biasGradient = layout.reserve(biases)
    offsets.gradient = layout.reserve(rows)
    offsets.parameter = layout.reserve(
      max(
        2 * shape.block.width, relativeBias?.table.count ?? 0, leaves.embedding.types?.count ?? 0))
    return offsets
  }

  // MARK: What is trained

  private var trainsEmbedding: Bool { embedding.words.isTrainable }

  private func isTrained(layer: Int) -> Bool {
    (blocks[layer].parameters.leaves + blocks[layer].parameters.additions).contains { $0.isTrainable }
  }

  /// True when the stack has a trained leaf.
  var isTrained: Bool {
    trainsEmbedding || (finalNorm?.isTrainable ?? false) || blocks.indices.contains { isTrained(layer: $0) }
  }

  /// The lowest layer whose backward anything needs; the number of layers when none is.
  private func lowestLayer(carriesEncoderGradient: Bool) -> Int {
    if trainsEmbedding || carriesEncoderGradient || (relativeBias?.table.isTrainable ?? false) { return 0 }
    return blocks.indices.first { isTrained(layer: $0) } ?? blocks.count
  }

  // MARK: Forward

  /// Runs the stack over a micro-batch's ids and returns its final states.
  func forward(_ ids: [Int32], types: [Int32], _ pass: Pass) -> Matrix {
    let (tokens, arena) = (pass.sequences.tokens, pass.arena)
    let first = matrix(offsets.inputs[0], tokens, arena)
    let sums = offsets.sums.map { matrix($0, tokens, arena) } ?? first
    embedding.sums(ids, types: types, pass.sequences, into: sums)
    embedding.norm?.forward(sums, into: first, statistics: offsets.sumStatistics.map { arena.base + $0 })
    pass.dropout?.backbone?.apply(
      first, into: first, sequences: pass.sequences, layer: firstLayer, site: .embedding)
    _ = relativeBias?.expand(span: pass.sequences.longest, into: arena.base + offsets.bias)
    for layer in blocks.indices { forward(layer: layer, pass) }
    let last = matrix(offsets.inputs[blocks.count], tokens, arena)
    let final = finalStates(tokens: tokens, arena: arena)
    finalNorm?.forward(
      last, into: final, statistics: training ? arena.base + offsets.finalStatistics : nil)
    if shape.block.placement == .pre {
      pass.dropout?.backbone?.apply(
        final, into: final, sequences: pass.sequences, layer: firstLayer + blocks.count, site: .final)
    }
    return final
  }

  private func forward(layer: Int, _ pass: Pass) {
    let tokens = pass.sequences.tokens
    blocks[layer].forward(
      matrix(offsets.inputs[layer], tokens, pass.arena),
      into: matrix(offsets.inputs[layer + 1], tokens, pass.arena), sequences: pass.sequences,
      bias: bias(pass), encoder: pass.encoder, activations: activations[set(layer)],
      scratch: scratch, arena: pass.arena, dropout: blockDropout(layer, pass))
  }

  /// The final states of the last `forward`.
  func finalStates(tokens: Int, arena: Arena) -> Matrix { matrix(offsets.final, tokens, arena) }

  private func set(_ layer: Int) -> Int { activations.count == 1 ? 0 : layer }

  private func bias(_ pass: Pass) -> PositionBias? {
    relativeBias.map { _ in
      PositionBias(
        values: UnsafePointer(pass.arena.base + offsets.bias), span: pass.sequences.longest)
    }
  }

  private func blockDropout(_ layer: Int, _ pass: Pass) -> BlockDropout? {
    pass.dropout?.block(layer: firstLayer + layer, placement: shape.block.placement)
  }

  // MARK: Backward

  /// The place for the gradient of the final states, which `backward` then overwrites.
  func gradient(tokens: Int, arena: Arena) -> Matrix { matrix(offsets.gradient, tokens, arena) }

  /// From the gradient of the final states to those of all trained leaves above the embedding.
  ///
  /// Leaves the gradient of what enters the first block when the embedding is trained. The encoder's share is added
  /// to `encoderGradient`.
  func backward(_ pass: Pass, encoderGradient: Matrix?, sink: any GradientSink) {
    let (tokens, arena) = (pass.sequences.tokens, pass.arena)
    let gradient = gradient(tokens: tokens, arena: arena)
    let lowest = lowestLayer(carriesEncoderGradient: encoderGradient != nil)
    guard lowest < blocks.count || finalNorm?.isTrainable ?? false else { return }
    if shape.block.placement == .pre {
      pass.dropout?.backbone?.apply(
        gradient, into: gradient, sequences: pass.sequences, layer: firstLayer + blocks.count, site: .final)
    }
    finalNorm?.backward(
      input: matrix(offsets.inputs[blocks.count], tokens, arena),
      statistics: UnsafePointer(arena.base + offsets.finalStatistics), gradient: gradient, into: gradient,
      accumulate: false, scratch: arena.base + offsets.parameter, sink: sink)
    let trainsBias = relativeBias?.table.isTrainable ?? false
    let biasSums = arena.base + offsets.biasGradient
    if trainsBias, let relativeBias {
      biasSums.update(repeating: 0, count: relativeBias.valueCount(span: pass.sequences.longest))
    }
    for layer in blocks.indices.reversed() where layer >= lowest {
      // The last layer's rows are still there.
      if checkpoints && layer + 1 < blocks.count { forward(layer: layer, pass) }
      blocks[layer].backward(
        gradient, input: matrix(offsets.inputs[layer], tokens, arena), sequences: pass.sequences,
        bias: bias(pass), biasGradient: trainsBias ? biasSums : nil, encoder: pass.encoder,
        encoderGradient: encoderGradient, activations: activations[set(layer)], scratch: scratch,
        arena: arena, sink: sink, needsInputGradient: layer > lowest || trainsEmbedding,
        dropout: blockDropout(layer, pass))
    }
    guard trainsBias else { return }
    relativeBias?.backward(
      UnsafePointer(biasSums), span: pass.sequences.longest, scratch: arena.base + offsets.parameter,
      sink: sink)
  }

  /// From the gradient of what entered the first block to that of each token's word, and of all other leaves of the
  /// embedding; returns the words' rows, before their scale.
  func backwardEmbedding(types: [Int32], _ pass: Pass, sink: any GradientSink) -> Matrix {
    let (tokens, arena) = (pass.sequences.tokens, pass.arena)
    let gradient = gradient(tokens: tokens, arena: arena)
    pass.dropout?.backbone?.apply(
      gradient, into: gradient, sequences: pass.sequences, layer: firstLayer, site: .embedding)
    let scratch = arena.base + offsets.parameter
    if let norm = embedding.norm, let sums = offsets.sums, let statistics = offsets.sumStatistics {
      norm.backward(
        input: matrix(sums, tokens, arena), statistics: UnsafePointer(arena.base + statistics),
        gradient: gradient, into: gradient, accumulate: false, scratch: scratch, sink: sink)
    }
    if let positions = embedding.positions, positions.isTrainable {
      addPositions(gradient, positions, pass.sequences, scratch: scratch, sink: sink)
    }
    if let leaf = embedding.types, leaf.isTrainable {
      scratch.update(repeating: 0, count: leaf.count)
      let sums = Matrix(scratch, rows: leaf.rows, columns: leaf.columns)
      for row in 0..<tokens {
        let segment = types.isEmpty ? 0 : Int(types[row])
        addRows(gradient.rowRange(row, count: 1), into: sums.rowRange(segment, count: 1))
      }
      sink.add(scratch, of: leaf)
    }
    return gradient
  }

  private func addPositions(
    _ gradient: Matrix, _ positions: Parameter, _ sequences: PackedSequences,
    scratch: UnsafeMutablePointer<Float>, sink: any GradientSink
  ) {
    let sum = Matrix(scratch, rows: 1, columns: positions.columns)
    for position in 0..<sequences.longest {
      scratch.update(repeating: 0, count: positions.columns)
      for index in 0..<sequences.count where position < sequences.length(index) {
        addRows(gradient.rowRange(sequences.offsets[index] + position, count: 1), into: sum)
      }
      let row = embedding.positionOffset + position
      sink.add(scratch, of: positions.rowRange(row..<row + 1))
    }
  }

  private func matrix(_ offset: Int, _ tokens: Int, _ arena: Arena) -> Matrix {
    arena.matrix(offset, rows: tokens, columns: shape.block.width)
  }
}
