package import NeuralNetworks
package import TensorKernels

/// What a fine-tuning technique computes for one micro-batch on one worker.
///
/// The trainer knows nothing else of a technique: lanes, exact reduction, clipping and the optimizer are the
/// same for all of them.
package protocol TechniqueComputation: AnyObject, Sendable {
  /// The trainable parameters.
  var parameters: ParameterTree { get }
  /// How the sums of its gradients are kept.
  var gradientSums: GradientSumFormat { get }
  /// How often at most a micro-batch adds to one sum.
  var contributions: Int { get }
  /// Called before each optimizer step with its number, from 1 on; a step that is computed again has the same number.
  func begin(step: Int)
  /// Computes what of a later micro-batch depends on no trained parameter, and keeps it until that one is trained.
  ///
  /// - Returns: false when there is nothing of that kind, or no place to keep it.
  func prepare(_ batch: PackedMicroBatch, worker: Int) throws(TrainingFailure) -> Bool
  /// Adds the gradient of the micro-batch's loss sum to `sink`.
  ///
  /// - Returns: the sum of the losses of the micro-batch's units (samples, or decoder tokens).
  func train(_ batch: PackedMicroBatch, worker: Int, sink: any GradientSink) throws(TrainingFailure) -> Double
  /// The sum of the losses of the micro-batch's units, without dropout and without a gradient.
  func loss(_ batch: PackedMicroBatch, worker: Int) throws(TrainingFailure) -> Double
  /// Predicts one row a sample; the result is valid until the worker's next call.
  func predict(_ batch: PackedMicroBatch, worker: Int) throws(TrainingFailure) -> Matrix
}

extension TechniqueComputation {
  /// 64-bit sums, unless the technique trains too many parameters for them.
  package var gradientSums: GradientSumFormat { .fixed64 }
  /// Once: a leaf's whole gradient at a time.
  package var contributions: Int { 1 }
  /// Nothing to prepare: only dropout needs the step's number.
  package func begin(step: Int) {}
  /// Nothing: layers that are trained give other values after every step.
  package func prepare(_ batch: PackedMicroBatch, worker: Int) throws(TrainingFailure) -> Bool { false }
}
