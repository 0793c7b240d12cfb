package import NeuralNetworks
package import TensorKernels

/// What a fine-tuning technique computes for one micro-batch on one worker.
///
/// The trainer knows nothing else of a technique: lanes, exact reduction, clipping and the optimizer are the
/// same for all of them.
package protocol TechniqueComputation: AnyObject, Sendable {
  /// The trainable parameters.
  var parameters: ParameterTree { get }
  /// Adds the gradient of the micro-batch's loss sum to `sink`.
  ///
  /// - Returns: the sum of the losses of the micro-batch's units (samples, or decoder tokens).
  func train(_ batch: PackedMicroBatch, worker: Int, sink: any GradientSink) throws(TrainingFailure) -> Double
  /// Predicts one row a sample; the result is valid until the worker's next call.
  func predict(_ batch: PackedMicroBatch, worker: Int) throws(TrainingFailure) -> Matrix
  /// Tells which optimizer step, from 1, the next `train` calls belong to; it decides what dropout drops.
  func begin(step: Int)
}

extension TechniqueComputation {
  /// Nothing, for a technique without dropout.
  package func begin(step: Int) {}
}
