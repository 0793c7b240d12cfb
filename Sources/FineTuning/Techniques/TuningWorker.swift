import LanguageModels
import NeuralNetworks
import TensorKernels

/// The buffers and the passes of one compute thread of a tuned backbone that one device runs whole.
///
/// - Safety: one worker at a time; leaves are written between steps only.
final class TuningWorker: @unchecked Sendable {
  private let part: TunedPart
  private let scratch: TunedPart.Scratch
  private let arena: Arena

  /// Plans the buffers; `model` has all layers.
  init(_ model: TunedPart.Model, capacity: MicroBatchCapacity, training: Bool, checkpoints: Bool) {
    var layout = ArenaLayout()
    (part, scratch) = Self.plan(
      model, capacity: capacity, training: training, checkpoints: checkpoints, layout: &layout)
    arena = Arena(floatCount: layout.floatCount)
  }

  /// Floats of a worker's buffers.
  static func floatCount(
    _ model: TunedPart.Model, capacity: MicroBatchCapacity, training: Bool, checkpoints: Bool
  ) -> Int {
    var layout = ArenaLayout()
    _ = plan(model, capacity: capacity, training: training, checkpoints: checkpoints, layout: &layout)
    return layout.floatCount
  }

  private static func plan(
    _ model: TunedPart.Model, capacity: MicroBatchCapacity, training: Bool, checkpoints: Bool,
    layout: inout ArenaLayout
  ) -> (TunedPart, TunedPart.Scratch) {
    let part = TunedPart(
      model, capacity: capacity, training: training, checkpoints: checkpoints, layout: &layout)
    let scratch = TunedPart.scratch(model, capacity: capacity, training: training, layout: &layout)
    return (part, scratch)
  }

  func predict(_ batch: PackedMicroBatch) -> Matrix {
    let pass = pass(batch, nil)
    return part.scores(part.forward(pass), pass)
  }

  func loss(_ batch: PackedMicroBatch) -> Double {
    let pass = pass(batch, nil)
    return part.loss(part.forward(pass), pass, keepsGradient: false)
  }

  func train(_ batch: PackedMicroBatch, dropout: BatchDropout?, sink: any GradientSink) -> Double {
    let pass = pass(batch, dropout)
    let loss = part.loss(part.forward(pass), pass, keepsGradient: true)
    part.backward(pass, sink: sink)
    return loss
  }

  private func pass(_ batch: PackedMicroBatch, _ dropout: BatchDropout?) -> TunedPart.Pass {
    TunedPart.Pass(batch: batch, dropout: dropout, scratch: scratch, arena: arena)
  }
}
