package import LanguageModels
package import NeuralNetworks
import TensorKernels

/// A stage of a pipeline under full fine-tuning, Houlsby's adapters or LoRA: layers of the tuned backbone.
///
/// A boundary's forward is the residual stream, with the encoder's final states in front of it for every stage of the
/// decoder; its backward is the gradient of both, as far as something before the stage is trained, with the running
/// gradient of trained relative position biases. The words of a full fine-tuning belong to every stage that looks them
/// up or scores them: each hands on its share.
///
/// - Safety: a slot and a worker are each used by one thread at a time; parameters and the step change between steps only.
package final class TunedStage: StageComputation, @unchecked Sendable {
  /// The layers of this stage, counted through all stacks.
  package let layers: Range<Int>
  /// All trained parameters, those of other stages included.
  package let parameters: ParameterTree
  /// Leaves whose gradients this stage hands on.
  package let ownLeaves: [Int]
  /// Leaves that it reads and another stage hands on.
  package let sharedLeaves: [Int]
  /// As on one device.
  package let gradientSums: GradientSumFormat
  /// As on one device.
  package let contributions: Int
  /// Micro-batches that can be in flight.
  package var slots: Int { held.count }

  private let head: TaskHead
  private let held: [TunedPart]
  private let workers: [TunedPart.Scratch]
  private let arena: Arena
  private let dropout: TuningDropout
  private var step = 0
  /// Keeps frozen leaves alive.
  private let backbone: any Backbone

  /// A stage for micro-batches within `capacity`; of backbone and parameters only the stage's own layers are read.
  ///
  /// - Parameters:
  ///   - checkpointsActivations: keeps only what enters each block and computes the rest again in the backward.
  ///   - dropoutSeed: decides, with the step and the sample, what is dropped.
  ///   - gradientPrecision: how finely gradients are rounded before they are added up.
  package init(
    configuration: TechniqueConfiguration, head: TaskHead, backbone: any Backbone, parameters: ParameterTree,
    layers: Range<Int>, capacity: MicroBatchCapacity, slots: Int, workers: Int,
    checkpointsActivations: Bool = false, dropoutSeed: UInt64, gradientPrecision: GradientPrecision = .full
  ) {
    precondition(slots > 0 && workers > 0, "a stage of \(slots) slots and \(workers) workers")
    self.layers = layers
    self.parameters = parameters
    self.head = head
    self.backbone = backbone
    let leaves = StageLeaves(
      configuration, head: head, backbone: backbone, layers: layers, in: parameters)
    (ownLeaves, sharedLeaves) = (leaves.own, leaves.shared)
    gradientSums = configuration.gradientSums(gradientPrecision)
    contributions = configuration.contributions(head: head, backbone: backbone)
    dropout = TuningDropout(configuration, architecture: backbone.architecture, seed: dropoutSeed)
    let model = TunedPart.Model(
      configuration, head: head, backbone: backbone, tree: parameters,
      parts: StackPart.parts(of: layers, depths: backbone.architecture.depths))
    var layout = ArenaLayout()
    held = (0..<slots).map { _ in
      TunedPart(
        model, capacity: capacity, training: true, checkpoints: checkpointsActivations, layout: &layout)
    }
    self.workers = (0..<workers).map { _ in
      TunedPart.scratch(model, capacity: capacity, training: true, layout: &layout)
    }
    arena = Arena(floatCount: layout.floatCount)
  }

  /// Bytes of a stage's buffers, its weights and parameters not counted.
  package static func byteCount(
    configuration: TechniqueConfiguration, head: TaskHead, backbone: any Backbone, layers: Range<Int>,
    capacity: MicroBatchCapacity, slots: Int, workers: Int, checkpointsActivations: Bool = false
  ) -> Int {
    let model = TunedPart.Model(
      configuration, head: head, backbone: backbone,
      tree: BackboneTuning.emptyParameters(configuration: configuration, head: head, backbone: backbone),
      parts: StackPart.parts(of: layers, depths: backbone.architecture.depths))
    var layout = ArenaLayout()
    for _ in 0..<slots {
      _ = TunedPart(
        model, capacity: capacity, training: true, checkpoints: checkpointsActivations, layout: &layout)
    }
    for _ in 0..<workers {
      _ = TunedPart.scratch(model, capacity: capacity, training: true, layout: &layout)
    }
    return layout.floatCount * MemoryLayout<Float>.stride
  }

  /// Tells which step the next micro-batches belong to.
  package func begin(step: Int) { self.step = step }

  /// None: layers that are trained give other activations after every step.
  package var aheadSlots: Int { 0 }

  /// Never asked for, as there is no place.
  package func prepare(_ batch: PackedMicroBatch, ahead: Int, worker: Int) {
    preconditionFailure("a tuned backbone has nothing that can be run ahead")
  }

  /// Runs the layers; a tuned backbone's activations are nobody's taps, so there is nothing to fill.
  package func forward(
    _ batch: PackedMicroBatch, pass: StagePass, slot: Int, worker: Int, input: [UInt8], prepared: Int?
  ) throws(TrainingFailure) -> StageOutput {
    precondition(
      pass != .fill && prepared == nil, "a tuned backbone has no taps, to fill a cache with or to prepare")
    let part = held[slot]
    let dropout = pass == .train ? BatchDropout(self.dropout, batch, step: step) : nil
    let partPass = partPass(batch, dropout, worker)
    try StageBoundary.read(input, into: part.statesFromPrevious(partPass), "activations", layers: layers)
    let states = part.forward(partPass)
    guard part.output != nil else {
      return StageOutput(boundary: StageBoundary.bytes(part.statesForNext(partPass)))
    }
    var predictions: [Float] = []
    if pass == .predict, head != .languageModel {
      let values = part.scores(states, partPass)
      predictions = Array(UnsafeBufferPointer(start: values.base, count: values.rows * values.columns))
    }
    return StageOutput(
      lossSum: part.loss(states, partPass, keepsGradient: pass == .train), predictions: predictions)
  }

  /// Runs the layers backward.
  package func backward(
    _ batch: PackedMicroBatch, slot: Int, worker: Int, gradient: [UInt8], sink: any GradientSink
  ) throws(TrainingFailure) -> [UInt8] {
    let part = held[slot]
    let pass = partPass(batch, BatchDropout(dropout, batch, step: step), worker)
    try StageBoundary.read(gradient, into: part.gradientsFromNext(pass), "gradients", layers: layers)
    part.backward(pass, sink: sink)
    return StageBoundary.bytes(part.gradientsForPrevious(pass))
  }

  /// Nothing: a tuned backbone's activations change with every step.
  package func encodedTaps(_ batch: PackedMicroBatch, slot: Int) -> [UInt8] { [] }

  private func partPass(
    _ batch: PackedMicroBatch, _ dropout: BatchDropout?, _ worker: Int
  ) -> TunedPart.Pass {
    TunedPart.Pass(batch: batch, dropout: dropout, scratch: workers[worker], arena: arena)
  }
}
