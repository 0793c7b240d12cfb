package import LanguageModels
package import NeuralNetworks
package import TensorKernels

/// The frozen parts of a backbone that a side network needs after the backbone has left memory.
package struct FrozenOutput: Sendable {
  /// Final norm of the output stack; nil when its last tap is already normalised.
  package var norm: NormParameters?
  /// Vocabulary embedding of the language-model head, [vocabulary × width]; nil for other heads.
  package var embedding: Matrix?
  /// Factor on the states before the language-model head (T5: width^−½ when tied).
  package var embeddingScale: Float
  /// Added to the scores of the language-model head, [1 × vocabulary] (BART).
  package var embeddingBias: Matrix?
  /// Keeps copied values alive.
  private var storage: Arena?

  /// The parts that the given head needs; the memory behind them is the caller's.
  package init(
    norm: NormParameters?, embedding: Matrix? = nil, embeddingScale: Float = 1, embeddingBias: Matrix? = nil
  ) {
    self.norm = norm
    self.embedding = embedding
    self.embeddingScale = embeddingScale
    self.embeddingBias = embeddingBias
  }

  /// A copy of what `head` needs of a backbone's last stack, which outlives the backbone.
  package init(copying backbone: any Backbone, head: TaskHead) {
    self.init(norm: nil)
    let norm = backbone.finalNorm(stack: backbone.architecture.stacks.count - 1)
    let output = Self.outputHead(of: backbone, head: head)
    let arena = Arena(floatCount: max(16, Self.floatCount(copying: backbone, head: head)))
    var end = 0
    func copy(_ parameter: Parameter) -> Parameter {
      let place = arena.base + end
      place.update(from: parameter.values, count: parameter.count)
      end += parameter.count
      return Parameter(
        frozen: parameter.name, rows: parameter.rows, columns: parameter.columns,
        values: UnsafePointer(place))
    }
    if let norm {
      self.norm = NormParameters(
        kind: norm.kind, epsilon: norm.epsilon, weight: copy(norm.weight), bias: norm.bias.map(copy))
    }
    if let output {
      embedding = copy(output.weight).matrix
      embeddingScale = output.scale
      embeddingBias = output.bias.map { copy($0).matrix }
    }
    storage = arena
  }

  /// Floats of such a copy.
  package static func floatCount(copying backbone: any Backbone, head: TaskHead) -> Int {
    let norm = backbone.finalNorm(stack: backbone.architecture.stacks.count - 1)
    let output = outputHead(of: backbone, head: head)
    return [norm?.weight, norm?.bias, output?.weight, output?.bias].reduce(0) { $0 + ($1?.count ?? 0) }
  }

  private static func outputHead(of backbone: any Backbone, head: TaskHead) -> LanguageModelHead? {
    guard head == .languageModel else { return nil }
    guard let output = backbone.leaves.head else {
      preconditionFailure("\(backbone.architecture.name) writes no text")
    }
    return output
  }
}

/// Parallel Adapters of one compute thread: forward and backward of a micro-batch from its taps alone.
///
/// It reads `EncodedRows` and nothing else, so it cannot tell a live backbone from the cache; no gradient can
/// reach the backbone because the backbone is not here. Buffers are planned at `init`; calls allocate nothing.
///
/// - Safety: one worker owns a network. Parameters are shared and written only between steps.
package final class SideNetwork: @unchecked Sendable {
  /// Shapes of the network.
  package let shape: SideNetworkShape
  private let arena: Arena
  private let stacks: [SideStack]
  private let frozen: FrozenOutput
  private let up: LinearParameters
  private let outputMix: Parameter?
  private let head: LinearParameters?
  private let offsets: OutputOffsets
  private let capacity: MicroBatchCapacity

  /// Offsets of the buffers after the stacks: P rows of outputs, one a sample or one a decoder token.
  private struct OutputOffsets {
    var pooled, side, final, mixed, logits, gradient, sideGradient, pooledGradient, scratch, decoded: Int
    var stackGradients: [Int]
  }

  /// Plans the buffers for micro-batches within `capacity`; `tree` holds `shape.parameterShapes()`.
  package init(
    shape: SideNetworkShape, tree: ParameterTree, frozen: FrozenOutput, capacity: MicroBatchCapacity,
    training: Bool
  ) {
    self.shape = shape
    self.frozen = frozen
    self.capacity = capacity
    var layout = ArenaLayout()
    (stacks, offsets) = Self.plan(shape, tree: tree, capacity: capacity, training: training, layout: &layout)
    up = LinearParameters(tree, "up", bias: true)
    outputMix = tree.parameter(named: "outputMix")
    head = shape.head.outputs > 0 ? LinearParameters(tree, "head", bias: true) : nil
    arena = Arena(floatCount: layout.floatCount)
  }

  /// Bytes that a network of this shape takes beside its parameters.
  package static func workspaceBytes(
    shape: SideNetworkShape, capacity: MicroBatchCapacity, training: Bool
  ) -> Int {
    var layout = ArenaLayout()
    _ = plan(shape, tree: shape.emptyParameters(), capacity: capacity, training: training, layout: &layout)
    return layout.floatCount * MemoryLayout<Float>.stride
  }

  private static func plan(
    _ shape: SideNetworkShape, tree: ParameterTree, capacity: MicroBatchCapacity, training: Bool,
    layout: inout ArenaLayout
  ) -> ([SideStack], OutputOffsets) {
    let stacks = shape.stacks.map {
      SideStack($0, network: shape, tree: tree, capacity: capacity, training: training, layout: &layout)
    }
    let rows = outputRows(shape, capacity)
    let outputs = max(1, shape.head.outputs)
    let wide = rows * shape.backboneWidth
    let narrow = rows * shape.width
    let largestWeight = max(shape.width, outputs) * shape.backboneWidth + max(shape.backboneWidth, outputs)
    let longest = max(capacity.longestEncoder, 1)
    let offsets = OutputOffsets(
      pooled: layout.reserve(narrow), side: layout.reserve(wide), final: layout.reserve(wide),
      mixed: layout.reserve(wide), logits: layout.reserve(rows * outputs),
      gradient: layout.reserve(training ? wide : 0), sideGradient: layout.reserve(training ? wide : 0),
      pooledGradient: layout.reserve(training ? narrow : 0),
      scratch: layout.reserve(training ? largestWeight : 0),
      decoded: layout.reserve(max(longest, rows) * shape.backboneWidth),
      stackGradients: shape.stacks.map { stack in
        let tokens = stack.kind == .encoder ? capacity.encoderTokens : capacity.decoderTokens
        return layout.reserve(training ? tokens * shape.width : 0)
      })
    return (stacks, offsets)
  }

  private static func outputRows(_ shape: SideNetworkShape, _ capacity: MicroBatchCapacity) -> Int {
    shape.head == .languageModel ? capacity.decoderTokens : capacity.sequences
  }

  /// Value of a gate: `σ(α / 0.1)`, 0.5 at the start (α = 0).
  static func gateValue(_ gate: Parameter) -> Float {
    // σ(x) is the first entry of softmax(x, 0): the same code as every other exponential of the engine.
    var pair: (Float, Float) = (gate.values[0] / SideNetworkShape.gateTemperature, 0)
    withUnsafeMutableBytes(of: &pair) { bytes in
      guard let base = bytes.baseAddress?.assumingMemoryBound(to: Float.self) else { return }
      softmaxRows(Matrix(base, rows: 1, columns: 2))
    }
    return pair.0
  }

  // MARK: Forward

  /// Predicts a micro-batch: logits or values, one row a sample; valid until the next call.
  ///
  /// A network with a language-model head has no logits in memory; use `train` for its loss.
  package func predict(_ batch: PackedMicroBatch, taps: TapBuffer) -> Matrix {
    let output = forward(batch, taps: taps)
    guard let head else { preconditionFailure("a language-model head has no predictions to return") }
    let logits = matrix(offsets.logits, output.rows, shape.head.outputs)
    head.forward(output, into: logits)
    return logits
  }

  /// The loss sum of a micro-batch, without a gradient.
  package func loss(_ batch: PackedMicroBatch, taps: TapBuffer) -> Double {
    let output = forward(batch, taps: taps)
    guard let head else { return streamedLoss(batch, output: output, gradient: nil) }
    let logits = matrix(offsets.logits, output.rows, shape.head.outputs)
    head.forward(output, into: logits)
    if case .value = shape.head {
      return squaredError(prediction: logits, target: batch.values, into: logits, gradientScale: 1)
    }
    return softmaxCrossEntropy(logits: logits, labels: batch.labels, into: nil, gradientScale: 1)
  }

  /// Runs the stacks and returns the states before the head, [outputs × d]; valid until the next call.
  package func forward(_ batch: PackedMicroBatch, taps: TapBuffer) -> Matrix {
    var encoder: EncoderStates?
    var states: Matrix?
    for (index, stack) in stacks.enumerated() {
      let sequences = self.sequences(stack, batch)
      states = stack.forward(taps: taps.rows[index], sequences: sequences, encoder: encoder, arena: arena)
      if stack.shape.kind == .encoder, let rows = states {
        encoder = EncoderStates(rows: rows, sequences: sequences)
      }
    }
    guard let states else { preconditionFailure("a side network has at least one stack") }
    let rows = outputRows(batch)
    let pooled = matrix(offsets.pooled, rows, shape.width)
    pool(states, batch, into: pooled)
    let side = matrix(offsets.side, rows, shape.backboneWidth)
    up.forward(pooled, into: side)
    guard shape.configuration.output != .side else { return side }
    let final = matrix(offsets.final, rows, shape.backboneWidth)
    poolBackbone(batch, taps: taps, into: final)
    let mixed = matrix(offsets.mixed, rows, shape.backboneWidth)
    if let outputMix {
      blendRows(side, final, weight: Self.gateValue(outputMix), into: mixed)
    } else {
      let count = rows * shape.backboneWidth
      for index in 0..<count { mixed.base[index] = side.base[index] + final.base[index] }
    }
    return mixed
  }

  /// Picks the rows that the prediction is made from.
  ///
  /// Encoder-only models: the mean over a sample's tokens. Encoder-decoder models: decoder step 0, or every
  /// decoder token under a language-model head.
  private func pool(_ states: Matrix, _ batch: PackedMicroBatch, into pooled: Matrix) {
    guard let decoder = batch.decoder else {
      for sample in 0..<batch.encoder.count {
        columnSums(
          rows(of: sample, states, batch.encoder), into: pooled.base + sample * pooled.stride,
          accumulate: false)
        scale(pooled.rowRange(sample, count: 1), by: 1 / Float(batch.encoder.length(sample)))
      }
      return
    }
    for row in 0..<pooled.rows {
      let source = shape.head == .languageModel ? row : decoder.offsets[row]
      for column in 0..<pooled.columns { pooled[row, column] = states[source, column] }
    }
  }

  /// The backbone's own final state of each output row, from its last tap.
  private func poolBackbone(_ batch: PackedMicroBatch, taps: TapBuffer, into final: Matrix) {
    guard let tap = taps.rows.last?.last else { preconditionFailure("the output needs the last tap") }
    guard let decoder = batch.decoder else {
      for sample in 0..<batch.encoder.count {
        let range = batch.encoder.offsets[sample]
        let length = batch.encoder.length(sample)
        let decoded = matrix(offsets.decoded, length, shape.backboneWidth)
        decodeRows(tap.rowRange(range, count: length), into: decoded)
        columnSums(decoded, into: final.base + sample * final.stride, accumulate: false)
        scale(final.rowRange(sample, count: 1), by: 1 / Float(length))
      }
      return
    }
    let decoded = matrix(offsets.decoded, final.rows, shape.backboneWidth)
    for row in 0..<final.rows {
      let source = shape.head == .languageModel ? row : decoder.offsets[row]
      decodeRows(tap.rowRange(source, count: 1), into: decoded.rowRange(row, count: 1))
    }
    if let norm = frozen.norm {
      norm.forward(decoded, into: final, statistics: nil)
    } else {
      blendRows(decoded, decoded, weight: 1, into: final)
    }
  }

  // MARK: Training

  /// Forward, loss and backward of a micro-batch: gradients of the loss *sum* go to `sink`.
  ///
  /// - Returns: the sum of the losses of the micro-batch's samples (or decoder tokens).
  package func train(_ batch: PackedMicroBatch, taps: TapBuffer, sink: any GradientSink) -> Double {
    let output = forward(batch, taps: taps)
    let gradient = matrix(offsets.gradient, output.rows, shape.backboneWidth)
    let loss = headLoss(batch, output: output, gradient: gradient, sink: sink)
    let pooledGradient = outputBackward(gradient, sink: sink)
    stacksBackward(pooledGradient, batch, taps: taps, sink: sink)
    return loss
  }

  private func headLoss(
    _ batch: PackedMicroBatch, output: Matrix, gradient: Matrix, sink: any GradientSink
  ) -> Double {
    guard let head else { return streamedLoss(batch, output: output, gradient: gradient) }
    let logits = matrix(offsets.logits, output.rows, shape.head.outputs)
    head.forward(output, into: logits)
    let loss: Double
    if case .value = shape.head {
      loss = squaredError(prediction: logits, target: batch.values, into: logits, gradientScale: 1)
    } else {
      loss = softmaxCrossEntropy(logits: logits, labels: batch.labels, into: logits, gradientScale: 1)
    }
    head.parameterGradients(logits, output, scratch: arena.base + offsets.scratch, sink: sink)
    head.inputGradient(logits, into: gradient, accumulate: false)
    return loss
  }

  private func streamedLoss(_ batch: PackedMicroBatch, output: Matrix, gradient: Matrix?) -> Double {
    guard let embedding = frozen.embedding else {
      preconditionFailure("a language-model head needs the backbone's embedding")
    }
    return streamedHeadCrossEntropy(
      output, embedding: embedding, scale: frozen.embeddingScale,
      bias: frozen.embeddingBias.map { UnsafePointer($0.base) }, labels: batch.labels, into: gradient)
  }

  /// From the gradient before the head to the gradient of the pooled side states.
  private func outputBackward(_ gradient: Matrix, sink: any GradientSink) -> Matrix {
    let rows = gradient.rows
    var sideGradient = gradient
    if let outputMix {
      let weight = Self.gateValue(outputMix)
      let side = matrix(offsets.side, rows, shape.backboneWidth)
      let final = matrix(offsets.final, rows, shape.backboneWidth)
      let slope = dotProduct(gradient, side) - dotProduct(gradient, final)
      var mixGradient = slope * weight * (1 - weight) / SideNetworkShape.gateTemperature
      sink.add(&mixGradient, of: outputMix)
      sideGradient = matrix(offsets.sideGradient, rows, shape.backboneWidth)
      let count = rows * shape.backboneWidth
      for index in 0..<count { sideGradient.base[index] = weight * gradient.base[index] }
    }
    let pooled = matrix(offsets.pooled, rows, shape.width)
    up.parameterGradients(sideGradient, pooled, scratch: arena.base + offsets.scratch, sink: sink)
    let pooledGradient = matrix(offsets.pooledGradient, rows, shape.width)
    up.inputGradient(sideGradient, into: pooledGradient, accumulate: false)
    return pooledGradient
  }

  private func stacksBackward(
    _ pooledGradient: Matrix, _ batch: PackedMicroBatch, taps: TapBuffer, sink: any GradientSink
  ) {
    for index in stacks.indices { zero(stackGradient(index, batch)) }
    let last = stacks.count - 1
    unpool(pooledGradient, batch, into: stackGradient(last, batch))
    for index in stacks.indices.reversed() {
      let stack = stacks[index]
      var encoder: EncoderStates?
      var encoderGradient: Matrix?
      if stack.shape.kind == .decoder {
        let states = stacks[0].finalStates(tokens: batch.encoder.tokens, arena: arena)
        encoder = EncoderStates(rows: states, sequences: batch.encoder)
        encoderGradient = stackGradient(0, batch)
      }
      stack.backward(
        stackGradient(index, batch), taps: taps.rows[index], sequences: sequences(stack, batch),
        encoder: encoder, encoderGradient: encoderGradient, arena: arena, sink: sink)
    }
  }

  private func unpool(_ pooledGradient: Matrix, _ batch: PackedMicroBatch, into gradient: Matrix) {
    guard let decoder = batch.decoder else {
      for sample in 0..<batch.encoder.count {
        let share = 1 / Float(batch.encoder.length(sample))
        let rows = rows(of: sample, gradient, batch.encoder)
        for row in 0..<rows.rows {
          for column in 0..<rows.columns { rows[row, column] = share * pooledGradient[sample, column] }
        }
      }
      return
    }
    for row in 0..<pooledGradient.rows {
      let target = shape.head == .languageModel ? row : decoder.offsets[row]
      for column in 0..<pooledGradient.columns { gradient[target, column] = pooledGradient[row, column] }
    }
  }

  // MARK: Views

  private func outputRows(_ batch: PackedMicroBatch) -> Int {
    shape.head == .languageModel ? (batch.decoder?.tokens ?? 0) : batch.encoder.count
  }

  private func sequences(_ stack: SideStack, _ batch: PackedMicroBatch) -> PackedSequences {
    if stack.shape.kind == .encoder { return batch.encoder }
    guard let decoder = batch.decoder else { preconditionFailure("a decoder stack needs decoder tokens") }
    return decoder
  }

  private func stackGradient(_ index: Int, _ batch: PackedMicroBatch) -> Matrix {
    matrix(offsets.stackGradients[index], sequences(stacks[index], batch).tokens, shape.width)
  }

  private func rows(of sample: Int, _ matrix: Matrix, _ sequences: PackedSequences) -> Matrix {
    matrix.rowRange(sequences.offsets[sample], count: sequences.length(sample))
  }

  private func matrix(_ offset: Int, _ rows: Int, _ columns: Int) -> Matrix {
    Matrix(arena.base + offset, rows: rows, columns: columns)
  }

  private func zero(_ matrix: Matrix) {
    matrix.base.update(repeating: 0, count: matrix.rows * matrix.columns)
  }

  private func scale(_ matrix: Matrix, by factor: Float) {
    for index in 0..<matrix.rows * matrix.columns { matrix.base[index] *= factor }
  }
}
