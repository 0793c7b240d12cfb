package import NeuralNetworks
package import TensorKernels

/// Computes the gradients of a mini-batch, or of a device's part of one, into sums that no order can change.
package protocol MiniBatchComputation: AnyObject {
  /// The trainable parameters.
  var parameters: ParameterTree { get }
  /// How the sums of its gradients are kept.
  var gradientSums: GradientSumFormat { get }
  /// How often at most a micro-batch adds to one sum.
  var contributions: Int { get }
  /// Called before each optimizer step with its number, from 1 on; a step that is computed again has the same number.
  func begin(step: Int)
  /// Adds the gradients of this device's part of the mini-batch to `sums`.
  func accumulate(
    _ miniBatch: [PackedMicroBatch], into sums: any GradientSums, loop: any ParallelLoop
  ) throws(TrainingFailure)
  /// The loss of the micro-batch at `position` of the mini-batch at hand; nil when another device has computed it.
  func loss(at position: Int) -> Double?
}

/// Makes one optimizer step of what several devices have computed of a mini-batch.
///
/// The trainer calls it between its own passes, in this order; a step that must be computed again begins anew with
/// `exchange`. Everything that a device decides afterwards is decided from the same bits on all of them.
package protocol StepReduction: AnyObject {
  /// Gives the other devices this one's losses and the evidence of its sums, and takes theirs into `sums`.
  ///
  /// - Returns: the sum of the losses of all micro-batches, in the order of the mini-batch.
  func exchange(
    _ computation: any MiniBatchComputation, microBatches: Int, sums: any GradientSums
  ) throws(TrainingFailure) -> Double
  /// Makes the integers of every leaf that this device trains the sum of all devices' ones.
  func reduce(_ sums: any GradientSums) throws(TrainingFailure)
  /// Gives the squares of this device's leaves to the stages that do not sum them, and takes those of theirs.
  ///
  /// - Parameter squares: Σ gradient² of every trainable leaf, in the order of the tree; 0 for leaves of other stages.
  func exchange(squares: inout [Double]) throws(TrainingFailure)
}

/// The leaves that a device trains, by their places in the tree.
package struct TrainedLeaves: Sendable, Equatable {
  /// Leaves whose squares this device counts towards the norm, ascending; of a leaf that several stages sum, the first.
  package var counted: [Int]
  /// Leaves that it updates, ascending: the counted ones, and those that it reads but another stage counts.
  package var updated: [Int]

  /// All trainable leaves of a tree.
  package init(all tree: ParameterTree) {
    let all = tree.parameters.indices.filter { tree.parameters[$0].isTrainable }
    self.init(counted: all, updated: all)
  }

  /// Some leaves, of a stage.
  package init(counted: [Int], updated: [Int]) {
    self.counted = counted.sorted()
    self.updated = updated.sorted()
  }
}
