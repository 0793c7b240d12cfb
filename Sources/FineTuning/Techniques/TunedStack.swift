import LanguageModels
import NeuralNetworks
import TensorKernels

/// Consecutive layers of one stack of a tuned backbone with their buffers, all of them or a pipeline stage's: forward with
/// kept rows, and backward to every trained leaf.
///
/// The blocks are those of the frozen backbone's forward; what is trained is decided by their leaves alone. What comes
/// from layers before and behind is put into `state`, `gradient` and `biasGradient` by whoever calls.
struct TunedStack {
  /// Rows that no micro-batch needs between its forward and its backward.
  struct Scratch {
    let block: BlockScratch
    let gradient: Int
    let biasGradient: Int
    /// A finished gradient on its way to the sink.
    let parameter: Int
  }

  /// What a forward or a backward of one micro-batch works with.
  struct Pass {
    let sequences: PackedSequences
    let encoder: EncoderStates?
    let dropout: BatchDropout?
    let scratch: Scratch
    let arena: Arena
  }

  let shape: StackShape
  let part: StackPart
  let embedding: StackEmbedding
  /// True when the stack has a trained leaf, in whatever stage.
  let isTrained: Bool
  /// The lowest layer of the stack whose backward anything needs; the number of layers when none is.
  private let lowestLayer: Int
  private let blocks: [TransformerBlock]
  private let relativeBias: RelativePositionBias?
  private let finalNorm: NormParameters?
  /// Number of the stack's first layer, counted over all stacks.
  private let firstLayer: Int
  private let training: Bool
  private let checkpoints: Bool
  private let offsets: Offsets
  private let activations: [BlockActivations]

  private struct Offsets {
    /// What enters each block, and what leaves the last.
    var inputs: [Int] = []
    /// [tokens × width] words and positions before the norm, when its gradient is needed.
    var sums: Int?
    var sumStatistics: Int?
    var final = 0
    var finalStatistics = 0
    var bias = 0
  }

  /// Reserves what a micro-batch keeps between its forward and its backward.
  ///
  /// - Parameter carriesEncoderGradient: true in a decoder below which something is trained.
  init(
    _ shape: StackShape, part: StackPart, _ leaves: StackLeaves, firstLayer: Int,
    carriesEncoderGradient: Bool, capacity: MicroBatchCapacity, training: Bool, checkpoints: Bool,
    layout: inout ArenaLayout
  ) {
    self.shape = shape
    self.part = part
    self.firstLayer = firstLayer
    self.training = training
    self.checkpoints = checkpoints && training
    embedding = leaves.embedding
    let own = Array(leaves.blocks[part.layers])
    blocks = own.map { TransformerBlock(shape.block, $0) }
    finalNorm = part.endsStack ? leaves.finalNorm : nil
    relativeBias = Self.relativeBias(shape, leaves)
    isTrained = leaves.isTrained
    lowestLayer = carriesEncoderGradient ? 0 : leaves.lowestTrainedLayer
    let size = Self.size(shape.kind, capacity)
    offsets = Self.plan(
      shape, part, leaves, relativeBias: relativeBias, tokens: size.capacity.tokens, longest: size.longest,
      training: training, layout: &layout)
    let bottlenecks = own.contains { $0.selfAttention.bottleneck != nil }
    var sets: [BlockActivations] = []
    for _ in 0..<(training && !checkpoints ? part.layers.count : 1) {
      sets.append(
        BlockActivations(
          shape.block, capacity: size.capacity, training: training, bottlenecks: bottlenecks, hidden: true,
          layout: &layout))
    }
    activations = sets
  }

  /// Reserves the rows of the blocks; stacks never need theirs at the same time.
  static func blockScratch(
    _ shape: StackShape, capacity: MicroBatchCapacity, training: Bool, layout: inout ArenaLayout
  ) -> BlockScratch {
    BlockScratch(
      shape.block, capacity: size(shape.kind, capacity).capacity, training: training, layout: &layout)
  }

  /// Reserves the rest of what the micro-batches of one thread share.
  static func scratch(
    _ shape: StackShape, _ leaves: StackLeaves, block: BlockScratch, capacity: MicroBatchCapacity,
    training: Bool, layout: inout ArenaLayout
  ) -> Scratch {
    let size = size(shape.kind, capacity)
    let relativeBias = relativeBias(shape, leaves)
    let largest = max(
      2 * shape.block.width, relativeBias?.table.count ?? 0, leaves.embedding.types?.count ?? 0)
    return Scratch(
      block: block, gradient: layout.reserve(training ? size.capacity.tokens * shape.block.width : 0),
      biasGradient: layout.reserve(training ? relativeBias?.valueCount(span: max(1, size.longest)) ?? 0 : 0),
      parameter: layout.reserve(training ? largest : 0))
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

  private static func relativeBias(_ shape: StackShape, _ leaves: StackLeaves) -> RelativePositionBias? {
    leaves.relativeBias.flatMap { table in
      shape.relativeBias.map {
        RelativePositionBias(
          table: table, bidirectional: $0.bidirectional, maximumDistance: $0.maximumDistance)
      }
    }
  }

  private static func plan(
    _ shape: StackShape, _ part: StackPart, _ leaves: StackLeaves, relativeBias: RelativePositionBias?,
    tokens: Int, longest: Int, training: Bool, layout: inout ArenaLayout
  ) -> Offsets {
    let rows = tokens * shape.block.width
    var offsets = Offsets()
    let stream = layout.reserve(rows)
    offsets.inputs = [stream]
    for _ in part.layers { offsets.inputs.append(training ? layout.reserve(rows) : stream) }
    if training, part.startsStack, let norm = leaves.embedding.norm, leaves.embedding.words.isTrainable {
      offsets.sums = layout.reserve(rows)
      offsets.sumStatistics = layout.reserve(tokens * norm.kind.statisticsPerRow)
    }
    let hasNorm = part.endsStack && leaves.finalNorm != nil
    offsets.final = hasNorm ? layout.reserve(rows) : offsets.inputs[part.layers.count]
    offsets.finalStatistics = layout.reserve(hasNorm ? tokens * shape.block.norm.statisticsPerRow : 0)
    offsets.bias = layout.reserve(relativeBias?.valueCount(span: max(1, longest)) ?? 0)
    return offsets
  }

  // MARK: What is trained, and what crosses to other layers

  private var trainsEmbedding: Bool { embedding.words.isTrainable }

  /// True when something below a layer of the stack needs the gradient of what enters the layer.
  func needsGradient(below layer: Int) -> Bool { lowestLayer < layer }

  /// What enters the part's first layer.
  func state(tokens: Int, arena: Arena) -> Matrix { matrix(offsets.inputs[0], tokens, arena) }

  /// The states behind the part's last layer, and behind the final norm where the stack ends.
  func finalStates(tokens: Int, arena: Arena) -> Matrix { matrix(offsets.final, tokens, arena) }

  /// The gradient of what leaves the part, which `backward` turns into that of what enters.
  func gradient(_ scratch: Scratch, tokens: Int, arena: Arena) -> Matrix {
    matrix(scratch.gradient, tokens, arena)
  }

  /// The gradient of trained relative position biases, summed over the layers so far.
  func biasGradient(_ scratch: Scratch, span: Int, arena: Arena) -> Matrix? {
    guard let relativeBias, relativeBias.table.isTrainable else { return nil }
    return arena.matrix(scratch.biasGradient, rows: 1, columns: relativeBias.valueCount(span: span))
  }

  // MARK: Forward

  /// Runs the layers over a micro-batch, from its ids where the stack starts; returns `finalStates`.
  func forward(_ ids: [Int32], types: [Int32], _ pass: Pass) -> Matrix {
    let (tokens, arena) = (pass.sequences.tokens, pass.arena)
    if part.startsStack { embed(ids, types: types, pass) }
    _ = relativeBias?.expand(span: pass.sequences.longest, into: arena.base + offsets.bias)
    for index in blocks.indices { forward(block: index, pass) }
    let final = finalStates(tokens: tokens, arena: arena)
    guard part.endsStack else { return final }
    finalNorm?.forward(
      matrix(offsets.inputs[blocks.count], tokens, arena), into: final,
      statistics: training ? arena.base + offsets.finalStatistics : nil)
    if shape.block.placement == .pre {
      pass.dropout?.backbone?.apply(
        final, into: final, sequences: pass.sequences, layer: firstLayer + shape.layers, site: .final)
    }
    return final
  }

  private func embed(_ ids: [Int32], types: [Int32], _ pass: Pass) {
    let (tokens, arena) = (pass.sequences.tokens, pass.arena)
    let first = matrix(offsets.inputs[0], tokens, arena)
    let sums = offsets.sums.map { matrix($0, tokens, arena) } ?? first
    embedding.sums(ids, types: types, pass.sequences, into: sums)
    embedding.norm?.forward(sums, into: first, statistics: offsets.sumStatistics.map { arena.base + $0 })
    pass.dropout?.backbone?.apply(
      first, into: first, sequences: pass.sequences, layer: firstLayer, site: .embedding)
  }

  private func forward(block index: Int, _ pass: Pass) {
    let tokens = pass.sequences.tokens
    blocks[index].forward(
      matrix(offsets.inputs[index], tokens, pass.arena),
      into: matrix(offsets.inputs[index + 1], tokens, pass.arena), sequences: pass.sequences,
      bias: bias(pass), encoder: pass.encoder, activations: activations[set(index)],
      scratch: pass.scratch.block, arena: pass.arena, dropout: blockDropout(index, pass))
  }

  private func set(_ index: Int) -> Int { activations.count == 1 ? 0 : index }

  private func bias(_ pass: Pass) -> PositionBias? {
    relativeBias.map { _ in
      PositionBias(
        values: UnsafePointer(pass.arena.base + offsets.bias), span: pass.sequences.longest)
    }
  }

  private func blockDropout(_ index: Int, _ pass: Pass) -> BlockDropout? {
    pass.dropout?.block(
      layer: firstLayer + part.layers.lowerBound + index, placement: shape.block.placement)
  }

  // MARK: Backward

  /// From the gradient of what leaves the part, in `gradient`, to those of all trained leaves above the embedding.
  ///
  /// Leaves the gradient of what enters the part's first layer when anything below needs it. The encoder's share is
  /// added to `encoderGradient`.
  func backward(_ pass: Pass, encoderGradient: Matrix?, sink: any GradientSink) {
    let (tokens, arena) = (pass.sequences.tokens, pass.arena)
    let biasSums = biasGradient(pass.scratch, span: pass.sequences.longest, arena: arena)
    if part.endsStack {
      guard lowestLayer < shape.layers || finalNorm?.isTrainable ?? false else { return }
      backwardFinal(pass, sink: sink)
      if let biasSums { biasSums.base.update(repeating: 0, count: biasSums.columns) }
    }
    let gradient = gradient(pass.scratch, tokens: tokens, arena: arena)
    for index in blocks.indices.reversed() {
      let layer = part.layers.lowerBound + index
      guard layer >= lowestLayer else { break }
      // The last layer's rows are still there.
      if checkpoints && index + 1 < blocks.count { forward(block: index, pass) }
      blocks[index].backward(
        gradient, input: matrix(offsets.inputs[index], tokens, arena), sequences: pass.sequences,
        bias: bias(pass), biasGradient: biasSums?.base, encoder: pass.encoder,
        encoderGradient: encoderGradient, activations: activations[set(index)], scratch: pass.scratch.block,
        arena: arena, sink: sink, needsInputGradient: needsGradient(below: layer) || trainsEmbedding,
        dropout: blockDropout(index, pass))
    }
    guard part.startsStack, let biasSums else { return }
    relativeBias?.backward(
      UnsafePointer(biasSums.base), span: pass.sequences.longest,
      scratch: arena.base + pass.scratch.parameter, sink: sink)
  }

  private func backwardFinal(_ pass: Pass, sink: any GradientSink) {
    let (tokens, arena) = (pass.sequences.tokens, pass.arena)
    let gradient = gradient(pass.scratch, tokens: tokens, arena: arena)
    if shape.block.placement == .pre {
      pass.dropout?.backbone?.apply(
        gradient, into: gradient, sequences: pass.sequences, layer: firstLayer + shape.layers, site: .final)
    }
    finalNorm?.backward(
      input: matrix(offsets.inputs[blocks.count], tokens, arena),
      statistics: UnsafePointer(arena.base + offsets.finalStatistics), gradient: gradient, into: gradient,
      accumulate: false, scratch: arena.base + pass.scratch.parameter, sink: sink)
  }

  /// From the gradient of what entered the stack's first block to those of all leaves of the embedding, if trained.
  func backwardEmbedding(_ ids: [Int32], types: [Int32], _ pass: Pass, sink: any GradientSink) {
    guard part.startsStack, trainsEmbedding else { return }
    let rows = backwardSums(types: types, pass, sink: sink)
    WordGradients(ids, rows: rows, scale: embedding.scale).add(
      embedding.words, scratch: pass.arena.base + pass.scratch.parameter, sink: sink)
  }

  /// To the gradients of what is added to the words; returns that of each token's word, before its scale.
  private func backwardSums(types: [Int32], _ pass: Pass, sink: any GradientSink) -> Matrix {
    let (tokens, arena) = (pass.sequences.tokens, pass.arena)
    let gradient = gradient(pass.scratch, tokens: tokens, arena: arena)
    pass.dropout?.backbone?.apply(
      gradient, into: gradient, sequences: pass.sequences, layer: firstLayer, site: .embedding)
    let scratch = arena.base + pass.scratch.parameter
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

extension StackLeaves {
  /// True when a leaf is trained.
  var isTrained: Bool {
    embedding.words.isTrainable || (finalNorm?.isTrainable ?? false) || blocks.contains(where: Self.isTrained)
  }

  /// The lowest layer whose backward a leaf of the stack needs; the number of layers when none does.
  fileprivate var lowestTrainedLayer: Int {
    if embedding.words.isTrainable || (relativeBias?.isTrainable ?? false) { return 0 }
    return blocks.firstIndex(where: Self.isTrained) ?? blocks.count
  }

  private static func isTrained(_ block: BlockParameters) -> Bool {
    (block.leaves + block.additions).contains { $0.isTrainable }
  }
}
