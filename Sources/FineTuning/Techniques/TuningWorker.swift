import LanguageModels
import NeuralNetworks
import TensorKernels

/// The buffers and the passes of one compute thread of a tuned backbone.
///
/// - Safety: one worker at a time; leaves are written between steps only.
final class TuningWorker: @unchecked Sendable {
  private let plan: Plan
  private let arena: Arena

  init(
    head: TaskHead, architecture: BackboneArchitecture, leaves: BackboneLeaves, tree: ParameterTree,
    capacity: MicroBatchCapacity, training: Bool, checkpoints: Bool
  ) {
    var layout = ArenaLayout()
    plan = Plan(
      head: head, architecture: architecture, leaves: leaves, tree: tree, capacity: capacity,
      training: training, checkpoints: checkpoints, layout: &layout)
    arena = Arena(floatCount: layout.floatCount)
  }

  /// Floats of a worker's buffers.
  static func floatCount(
    head: TaskHead, architecture: BackboneArchitecture, leaves: BackboneLeaves, tree: ParameterTree,
    capacity: MicroBatchCapacity, training: Bool, checkpoints: Bool
  ) -> Int {
    var layout = ArenaLayout()
    _ = Plan(
      head: head, architecture: architecture, leaves: leaves, tree: tree, capacity: capacity,
      training: training, checkpoints: checkpoints, layout: &layout)
    return layout.floatCount
  }

  /// What runs, and where its rows lie.
  private struct Plan {
    let head: TaskHead
    let width: Int
    let isTied: Bool
    let stacks: [TunedStack]
    let linear: LinearParameters?
    let tiled: TiledHead?
    let pooled, pooledGradient, logits, parameter: Int

    init(
      head: TaskHead, architecture: BackboneArchitecture, leaves: BackboneLeaves, tree: ParameterTree,
      capacity: MicroBatchCapacity, training: Bool, checkpoints: Bool, layout: inout ArenaLayout
    ) {
      self.head = head
      width = architecture.width
      isTied = leaves.isTied
      let scratches = architecture.stacks.map { shape in
        layout.rewind(to: 0)
        return TunedStack.scratch(shape, capacity: capacity, training: training, layout: &layout)
      }
      layout.rewind(to: 0)
      _ = layout.reserve(layout.floatCount)
      var stacks: [TunedStack] = []
      var firstLayer = 0
      for (index, shape) in architecture.stacks.enumerated() {
        stacks.append(
          TunedStack(
            shape, leaves.stacks[index], firstLayer: firstLayer, capacity: capacity, training: training,
            checkpoints: checkpoints, scratch: scratches[index], layout: &layout))
        // One number more, for what follows the last layer.
        firstLayer += shape.layers + 1
      }
      self.stacks = stacks
      linear = head.outputs > 0 ? LinearParameters(tree, "head", bias: true) : nil
      let rows = head == .languageModel ? 0 : capacity.sequences
      pooled = layout.reserve(rows * width)
      pooledGradient = layout.reserve(training ? rows * width : 0)
      logits = layout.reserve(rows * head.outputs)
      parameter = layout.reserve((head.outputs + 1) * width + head.outputs)
      tiled =
        head == .languageModel
        ? leaves.head.map {
          TiledHead($0, rows: capacity.decoderTokens, training: training, layout: &layout)
        } : nil
    }
  }

  // MARK: Forward

  /// Runs all stacks and returns the passes of each and the final states of the last.
  private func forward(
    _ batch: PackedMicroBatch, dropout: BatchDropout?
  ) -> (passes: [TunedStack.Pass], states: Matrix) {
    var passes: [TunedStack.Pass] = []
    var states: Matrix?
    for stack in plan.stacks {
      var encoder: EncoderStates?
      var sequences = batch.encoder
      if stack.shape.kind == .decoder {
        guard let rows = states, let decoder = batch.decoder else {
          preconditionFailure("a decoder needs an encoder's states and tokens of its own")
        }
        encoder = EncoderStates(rows: rows, sequences: batch.encoder)
        sequences = decoder
      }
      let pass = TunedStack.Pass(
        sequences: sequences, encoder: encoder, dropout: dropout, arena: arena)
      passes.append(pass)
      states = stack.forward(ids(stack, batch), types: types(stack, batch), pass)
    }
    guard let states else { preconditionFailure("a backbone has at least one stack") }
    return (passes, states)
  }

  private func ids(_ stack: TunedStack, _ batch: PackedMicroBatch) -> [Int32] {
    stack.shape.kind == .encoder ? batch.encoderIDs : batch.decoderIDs
  }

  private func types(_ stack: TunedStack, _ batch: PackedMicroBatch) -> [Int32] {
    stack.shape.kind == .encoder && stack.embedding.types != nil ? batch.encoderTypes : []
  }

  func predict(_ batch: PackedMicroBatch) -> Matrix {
    let (_, states) = forward(batch, dropout: nil)
    return scores(batch, states)
  }

  /// Predictions from the final states; kept rows of the pooled states serve the backward.
  private func scores(_ batch: PackedMicroBatch, _ states: Matrix) -> Matrix {
    guard let linear = plan.linear else {
      preconditionFailure("a language-model head has no predictions to return")
    }
    let pooled = arena.matrix(plan.pooled, rows: batch.encoder.count, columns: plan.width)
    pool(states, batch, into: pooled)
    let logits = arena.matrix(plan.logits, rows: pooled.rows, columns: linear.outputs)
    linear.forward(pooled, into: logits)
    return logits
  }

  /// Decoder step 0, or the mean over an encoder-only model's tokens.
  private func pool(_ states: Matrix, _ batch: PackedMicroBatch, into pooled: Matrix) {
    guard let decoder = batch.decoder else {
      pooled.base.update(repeating: 0, count: pooled.rows * pooled.columns)
      for sample in 0..<batch.encoder.count {
        let (first, count) = (batch.encoder.offsets[sample], batch.encoder.length(sample))
        let share = 1 / Float(count)
        for row in first..<first + count {
          addRows(states.rowRange(row, count: 1), into: pooled.rowRange(sample, count: 1), scale: share)
        }
      }
      return
    }
    for sample in 0..<pooled.rows {
      (pooled.base + sample * pooled.stride).update(
        from: states.base + decoder.offsets[sample] * states.stride, count: pooled.columns)
    }
  }

  func loss(_ batch: PackedMicroBatch) -> Double {
    let (_, states) = forward(batch, dropout: nil)
    return loss(batch, states, gradient: nil, sink: nil)
  }

  /// The loss; with a place for it, also the gradient of the final states, and those of the task's head.
  private func loss(
    _ batch: PackedMicroBatch, _ states: Matrix, gradient: Matrix?, sink: (any GradientSink)?
  ) -> Double {
    if let head = plan.tiled?.head {
      return streamedHeadCrossEntropy(
        states, embedding: head.weight.matrix, scale: head.scale,
        bias: head.bias.map { UnsafePointer($0.values) }, labels: batch.labels, into: gradient)
    }
    let logits = scores(batch, states)
    let loss: Double
    if case .value = plan.head {
      loss = squaredError(prediction: logits, target: batch.values, into: logits, gradientScale: 1)
    } else {
      loss = softmaxCrossEntropy(logits: logits, labels: batch.labels, into: logits, gradientScale: 1)
    }
    guard let gradient, let sink, let linear = plan.linear else { return loss }
    let pooled = arena.matrix(plan.pooled, rows: logits.rows, columns: plan.width)
    linear.parameterGradients(logits, pooled, scratch: arena.base + plan.parameter, sink: sink)
    let pooledGradient = arena.matrix(plan.pooledGradient, rows: logits.rows, columns: plan.width)
    linear.inputGradient(logits, into: pooledGradient, accumulate: false)
    unpool(pooledGradient, batch, into: gradient)
    return loss
  }

  private func unpool(_ pooled: Matrix, _ batch: PackedMicroBatch, into gradient: Matrix) {
    gradient.base.update(repeating: 0, count: gradient.rows * gradient.columns)
    for sample in 0..<pooled.rows {
      let row = pooled.rowRange(sample, count: 1)
      if let decoder = batch.decoder {
        addRows(row, into: gradient.rowRange(decoder.offsets[sample], count: 1))
        continue
      }
      let (first, count) = (batch.encoder.offsets[sample], batch.encoder.length(sample))
      for token in first..<first + count {
        addRows(row, into: gradient.rowRange(token, count: 1), scale: 1 / Float(count))
      }
    }
  }

  // MARK: Backward

  func train(_ batch: PackedMicroBatch, dropout: BatchDropout?, sink: any GradientSink) -> Double {
    let (passes, states) = forward(batch, dropout: dropout)
    let last = plan.stacks.count - 1
    let gradient = plan.stacks[last].gradient(tokens: states.rows, arena: arena)
    let loss = loss(batch, states, gradient: gradient, sink: sink)
    var words = WordGradients()
    var trainsWords = false
    for index in plan.stacks.indices.reversed() {
      let stack = plan.stacks[index]
      var encoderGradient: Matrix?
      if stack.shape.kind == .decoder, plan.stacks[0].isTrained {
        let place = plan.stacks[0].gradient(tokens: batch.encoder.tokens, arena: arena)
        place.base.update(repeating: 0, count: place.rows * place.columns)
        encoderGradient = place
      }
      stack.backward(passes[index], encoderGradient: encoderGradient, sink: sink)
      guard stack.embedding.words.isTrainable else { continue }
      trainsWords = true
      let rows = stack.backwardEmbedding(types: types(stack, batch), passes[index], sink: sink)
      words.append(ids(stack, batch), rows: rows, scale: stack.embedding.scale)
    }
    if trainsWords { finish(words, batch, states, sink: sink) }
    return loss
  }

  /// Hands on the gradients of the words and of a trained language-model head, which may be the same leaf.
  private func finish(
    _ gradients: WordGradients, _ batch: PackedMicroBatch, _ states: Matrix, sink: any GradientSink
  ) {
    var gradients = gradients
    gradients.sort()
    let scratch = arena.base + plan.parameter
    guard let tiled = plan.tiled, tiled.head.weight.isTrainable else {
      gradients.add(plan.stacks[0].embedding.words, scratch: scratch, sink: sink)
      return
    }
    tiled.share(states, arena: arena)
    tiled.weightGradient(
      states, labels: batch.labels, adding: plan.isTied ? gradients : nil, arena: arena, sink: sink)
    if !plan.isTied { gradients.add(plan.stacks[0].embedding.words, scratch: scratch, sink: sink) }
  }
}
