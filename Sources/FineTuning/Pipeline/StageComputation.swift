package import NeuralNetworks

/// What a pass of a micro-batch through the stages of a pipeline is for.
package enum StagePass: Sendable, Equatable {
  /// Forward with everything kept for the backward, dropout if the technique has it.
  case train
  /// The frozen backbone alone, for its taps (a side network's technique only).
  case fill
  /// Forward without dropout and without a backward; the last stage gives predictions and losses.
  case predict
}

/// What leaves a stage after the forward of one micro-batch.
package struct StageOutput: Sendable, Equatable {
  /// What the next stage reads; empty in the last stage.
  package var boundary: [UInt8]
  /// The sum of the losses of the micro-batch's units; only in the last stage, 0 in a `fill`.
  package var lossSum: Double
  /// Predictions, one row a sample; only in the last stage of a `predict` under a head that has any.
  package var predictions: [Float]

  /// An output.
  package init(boundary: [UInt8] = [], lossSum: Double = 0, predictions: [Float] = []) {
    self.boundary = boundary
    self.lossSum = lossSum
    self.predictions = predictions
  }
}

/// One stage of a pipeline at work: consecutive layers of the model, with the same bits as the whole model gives.
///
/// Layers count through all stacks from the model's input. A slot holds one micro-batch between its forward and its
/// backward; 1F1B has several in flight. Different slots may be computed by different workers at once.
package protocol StageComputation: AnyObject, Sendable {
  /// The layers of this stage.
  var layers: Range<Int> { get }
  /// All trained parameters of the technique, those of other stages included.
  var parameters: ParameterTree { get }
  /// Leaves (by place in `parameters.parameters`) whose gradients this stage hands to its sink.
  ///
  /// Every leaf is one stage's own, but for one that several stages hand on, each with a share of its gradient.
  var ownLeaves: [Int] { get }
  /// Leaves whose values this stage reads, and whose gradients another stage hands to a sink, alone or as well.
  var sharedLeaves: [Int] { get }
  /// How the sums of gradients are kept.
  var gradientSums: GradientSumFormat { get }
  /// How often at most a micro-batch adds to one sum, in all stages together.
  var contributions: Int { get }
  /// Micro-batches that can be in flight.
  var slots: Int { get }
  /// Called before each optimizer step with its number, from 1 on.
  func begin(step: Int)
  /// Places for micro-batches of the next mini-batch whose frozen layers are run ahead; 0 where they cannot be.
  var aheadSlots: Int { get }
  /// Runs the frozen layers of a micro-batch whose training forward comes in a later step (first stage only).
  ///
  /// What they give does not depend on trained parameters, so it may be computed while the stage would wait.
  func prepare(_ batch: PackedMicroBatch, ahead: Int, worker: Int) throws(TrainingFailure)
  /// Runs the stage's layers forward; `input` is the boundary that the stage before gave, empty in the first.
  ///
  /// - Parameter prepared: the place whose frozen layers `prepare` has run for this micro-batch; used once.
  func forward(
    _ batch: PackedMicroBatch, pass: StagePass, slot: Int, worker: Int, input: [UInt8], prepared: Int?
  ) throws(TrainingFailure) -> StageOutput
  /// Runs them backward; `gradient` is what the next stage gave, empty in the last. Returns what the stage before needs.
  func backward(
    _ batch: PackedMicroBatch, slot: Int, worker: Int, gradient: [UInt8], sink: any GradientSink
  ) throws(TrainingFailure) -> [UInt8]
  /// The taps that the slot's last forward made, encoded as the cache keeps them: what the owner of the lane puts
  /// together with those of the other stages. Empty for a technique that reads none.
  func encodedTaps(_ batch: PackedMicroBatch, slot: Int) -> [UInt8]
}

extension StageComputation {
  /// Runs the stage's layers forward, with nothing prepared.
  package func forward(
    _ batch: PackedMicroBatch, pass: StagePass, slot: Int, worker: Int, input: [UInt8]
  ) throws(TrainingFailure) -> StageOutput {
    try forward(batch, pass: pass, slot: slot, worker: worker, input: input, prepared: nil)
  }

  /// Once: a leaf's whole gradient at a time.
  package var contributions: Int { 1 }
}
