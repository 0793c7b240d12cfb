import LanguageModels
import NeuralNetworks
import TensorKernels

/// What follows the last block of a tuned backbone: the task's head or the backbone's own, and the loss.
struct TunedOutput {
  /// Rows that no micro-batch needs between its forward and its backward.
  struct Scratch {
    fileprivate let pooledGradient: Int
    /// A finished gradient on its way to the sink.
    fileprivate let parameter: Int
    fileprivate let tiled: TiledHead?
  }

  /// What a forward or a backward of one micro-batch works with.
  struct Pass {
    let batch: PackedMicroBatch
    let scratch: Scratch
    let arena: Arena
  }

  private let head: TaskHead
  private let width: Int
  private let linear: LinearParameters?
  private let languageModel: LanguageModelHead?
  private let pooled: Int
  /// Scores; their gradient once `loss` has kept it.
  private let logits: Int
  /// Gradient of the states, kept by the loss of a language-model head.
  private let gradient: Int

  /// Reserves what a micro-batch keeps between its forward and its backward.
  init(
    _ head: TaskHead, _ leaves: BackboneLeaves, width: Int, tree: ParameterTree,
    capacity: MicroBatchCapacity, training: Bool, layout: inout ArenaLayout
  ) {
    self.head = head
    self.width = width
    linear = head.outputs > 0 ? LinearParameters(tree, "head", bias: true) : nil
    languageModel = head == .languageModel ? leaves.head : nil
    let rows = head == .languageModel ? 0 : capacity.sequences
    pooled = layout.reserve(rows * width)
    logits = layout.reserve(rows * head.outputs)
    gradient = layout.reserve(training && head == .languageModel ? capacity.decoderTokens * width : 0)
  }

  /// Reserves the rest, which the micro-batches of one thread share.
  static func scratch(
    _ head: TaskHead, _ leaves: BackboneLeaves, width: Int, capacity: MicroBatchCapacity, training: Bool,
    layout: inout ArenaLayout
  ) -> Scratch {
    let rows = head == .languageModel ? 0 : capacity.sequences
    return Scratch(
      pooledGradient: layout.reserve(training ? rows * width : 0),
      parameter: layout.reserve(training ? head.outputs * (width + 1) : 0),
      tiled: head == .languageModel
        ? leaves.head.map {
          TiledHead($0, rows: capacity.decoderTokens, training: training, layout: &layout)
        } : nil)
  }

  // MARK: Forward

  /// Predictions from the final states; kept rows of the pooled states serve the backward.
  func scores(_ states: Matrix, _ pass: Pass) -> Matrix {
    guard let linear else {
      preconditionFailure("a language-model head has no predictions to return")
    }
    let pooled = pass.arena.matrix(self.pooled, rows: pass.batch.encoder.count, columns: width)
    pool(states, pass.batch, into: pooled)
    let logits = pass.arena.matrix(self.logits, rows: pooled.rows, columns: linear.outputs)
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

  /// The loss sum of the final states, keeping what `backward` needs if there is one.
  func loss(_ states: Matrix, _ pass: Pass, keepsGradient: Bool) -> Double {
    if let languageModel {
      return streamedHeadCrossEntropy(
        states, embedding: languageModel.weight.matrix, scale: languageModel.scale,
        bias: languageModel.bias.map { UnsafePointer($0.values) }, labels: pass.batch.labels,
        into: keepsGradient ? pass.arena.matrix(gradient, rows: states.rows, columns: width) : nil)
    }
    let logits = scores(states, pass)
    if case .value = head {
      return squaredError(prediction: logits, target: pass.batch.values, into: logits, gradientScale: 1)
    }
    return softmaxCrossEntropy(logits: logits, labels: pass.batch.labels, into: logits, gradientScale: 1)
  }

  // MARK: Backward

  /// From what `loss` kept to the gradient of the final states, and to those of a trained head.
  func backward(_ states: Matrix, into stateGradient: Matrix, _ pass: Pass, sink: any GradientSink) {
    guard let linear else {
      let kept = pass.arena.matrix(gradient, rows: states.rows, columns: width)
      stateGradient.base.update(from: kept.base, count: kept.rows * kept.columns)
      if let tiled = pass.scratch.tiled, tiled.head.weight.isTrainable {
        tiled.share(states, arena: pass.arena)
        tiled.weightGradient(states, labels: pass.batch.labels, arena: pass.arena, sink: sink)
      }
      return
    }
    let rows = pass.batch.encoder.count
    let slopes = pass.arena.matrix(logits, rows: rows, columns: linear.outputs)
    let pooled = pass.arena.matrix(self.pooled, rows: rows, columns: width)
    linear.parameterGradients(slopes, pooled, scratch: pass.arena.base + pass.scratch.parameter, sink: sink)
    let pooledGradient = pass.arena.matrix(pass.scratch.pooledGradient, rows: rows, columns: width)
    linear.inputGradient(slopes, into: pooledGradient, accumulate: false)
    unpool(pooledGradient, pass.batch, into: stateGradient)
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
}
