package import NeuralNetworks
package import TensorKernels

/// Computes the gradients of a mini-batch, or of a device's part of one, into sums that no order can change.
package protocol MiniBatchComputation: AnyObject {
  /// The trainable parameters.
  var parameters: ParameterTree { get }
  /// How the sums of its gradients are kept.
  var gradientSums: GradientSumFormat { get }
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
  /// Adds the other devices' integers to the sums of the leaves that this one trains.
  func reduce(_ sums: any GradientSums) throws(TrainingFailure)
  /// Gives the squares of this device's leaves to the stages that do not hold them, and takes those of theirs; takes the
  /// sums of leaves that it borrows.
  ///
  /// - Parameter squares: Σ gradient² of every trainable leaf, in the order of the tree; 0 for leaves of other stages.
  func exchange(squares: inout [Double], sums: any GradientSums) throws(TrainingFailure)
}

/// The leaves that a device trains, by their places in the tree.
package struct TrainedLeaves: Sendable, Equatable {
  /// Leaves whose gradients are summed here, ascending.
  package var own: [Int]
  /// Leaves of other stages that this device reads and so updates too, ascending.
  package var borrowed: [Int]

  /// All trainable leaves of a tree.
  package init(all tree: ParameterTree) {
    self.init(own: tree.parameters.indices.filter { tree.parameters[$0].isTrainable }, borrowed: [])
  }

  /// Some leaves of a stage.
  package init(own: [Int], borrowed: [Int]) {
    self.own = own.sorted()
    self.borrowed = borrowed.sorted()
  }
}
