package import LanguageModels
package import NeuralNetworks
package import TensorKernels

/// Full fine-tuning, Houlsby's adapters and LoRA: the backbone itself is run over a transformed tree of leaves.
///
/// A technique changes leaves and nothing else: the blocks are those of the frozen backbone, and the backward
/// computes what a trained leaf needs. Dropout is decided by (seed, step, sample), so that gradients depend on the
/// micro-batch alone. Frozen leaves stay where the backbone has them.
///
/// - Safety: worker `w` is used by one thread at a time; parameters and the step change between steps only.
package final class BackboneTuning: TechniqueComputation, @unchecked Sendable {
  /// The trainable parameters.
  package let parameters: ParameterTree
  /// 64-bit sums where a few leaves are trained, 32-bit sums where all are.
  package let gradientSums: GradientSumFormat
  /// Words are added to once for every stack that looks them up, and once more for a head that is tied to them.
  package let contributions: Int
  private let workers: [TuningWorker]
  private let dropout: TuningDropout
  private var step = 0
  /// Keeps frozen leaves alive; full fine-tuning has none, so that the backbone can leave memory.
  private let backbone: (any Backbone)?

  /// The technique on `workers` workers for micro-batches within `capacity`.
  ///
  /// - Parameters:
  ///   - parameters: the leaves of `parameterShapes(configuration:head:backbone:)`.
  ///   - checkpointsActivations: keeps only what enters each block and computes the rest again in the backward.
  ///   - dropoutSeed: decides, with the step and the sample, what is dropped.
  ///   - gradientPrecision: how finely gradients are rounded before they are added up.
  package init(
    configuration: TechniqueConfiguration, head: TaskHead, backbone: any Backbone, parameters: ParameterTree,
    capacity: MicroBatchCapacity, workers: Int, training: Bool, checkpointsActivations: Bool,
    dropoutSeed: UInt64, gradientPrecision: GradientPrecision = .full
  ) {
    self.parameters = parameters
    dropout = TuningDropout(configuration, architecture: backbone.architecture, seed: dropoutSeed)
    let model = TunedPart.Model(
      configuration, head: head, backbone: backbone, tree: parameters,
      parts: StackPart.whole(depths: backbone.architecture.depths))
    self.workers = (0..<max(1, workers)).map { _ in
      TuningWorker(
        model, capacity: capacity, training: training, checkpoints: checkpointsActivations)
    }
    gradientSums = configuration.gradientSums(gradientPrecision)
    contributions = configuration.contributions(head: head, backbone: backbone)
    if case .full = configuration {
      self.backbone = head == .languageModel && model.leaves.head?.bias != nil ? backbone : nil
    } else {
      self.backbone = backbone
    }
  }

  /// Bytes of one worker's buffers.
  package static func workerBytes(
    configuration: TechniqueConfiguration, head: TaskHead, backbone: any Backbone,
    capacity: MicroBatchCapacity, training: Bool, checkpointsActivations: Bool
  ) -> Int {
    let model = TunedPart.Model(
      configuration, head: head, backbone: backbone,
      tree: emptyParameters(configuration: configuration, head: head, backbone: backbone),
      parts: StackPart.whole(depths: backbone.architecture.depths))
    return MemoryLayout<Float>.stride
      * TuningWorker.floatCount(
        model, capacity: capacity, training: training, checkpoints: checkpointsActivations)
  }

  /// Tells which step the next micro-batches belong to.
  package func begin(step: Int) { self.step = step }

  /// Forward, loss and backward of a micro-batch; returns the sum of the losses.
  package func train(
    _ batch: PackedMicroBatch, worker: Int, sink: any GradientSink
  ) throws(TrainingFailure) -> Double {
    workers[worker].train(batch, dropout: BatchDropout(dropout, batch, step: step), sink: sink)
  }

  /// Predicts one row a sample, without dropout; a language-model head has no predictions, only a loss.
  package func predict(_ batch: PackedMicroBatch, worker: Int) throws(TrainingFailure) -> Matrix {
    workers[worker].predict(batch)
  }

  /// The sum of the losses of a micro-batch, without dropout and without gradients.
  package func loss(_ batch: PackedMicroBatch, worker: Int) throws(TrainingFailure) -> Double {
    workers[worker].loss(batch)
  }
}

extension TunedPart.Model {
  /// The given parts of a backbone under a technique.
  init(
    _ configuration: TechniqueConfiguration, head: TaskHead, backbone: any Backbone, tree: ParameterTree,
    parts: [StackPart]
  ) {
    self.init(
      head: head, architecture: backbone.architecture,
      leaves: configuration.tunedLeaves(
        of: backbone.leaves, architecture: backbone.architecture, parameters: tree),
      tree: tree, parts: parts)
  }
}

extension TechniqueConfiguration {
  /// 64-bit sums where a few leaves are trained, and 32-bit sums, which know one precision only, where all are.
  package func gradientSums(_ precision: GradientPrecision) -> GradientSumFormat {
    if case .full = self { .scaled32 } else { GradientSumFormat(precision) }
  }

  /// How often at most a micro-batch adds to one sum, on one device and in all stages of a pipeline together.
  package func contributions(head: TaskHead, backbone: any Backbone) -> Int {
    guard case .full = self else { return 1 }
    let scoresWords = head == .languageModel && backbone.leaves.isTied
    return backbone.architecture.stacks.count + (scoresWords ? 1 : 0)
  }
}
