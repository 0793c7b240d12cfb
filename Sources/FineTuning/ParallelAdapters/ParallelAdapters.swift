package import NeuralNetworks
package import TensorKernels

/// Where the taps of a micro-batch come from.
package protocol TapSource: AnyObject, Sendable {
  /// Fills `taps` with the taps of `batch`, on the thread of `worker`.
  func load(_ batch: PackedMicroBatch, into taps: TapBuffer, worker: Int) throws(TrainingFailure)
  /// Computes the taps of `batch` where a later `load` will find them, with `taps` as scratch; false when it keeps none.
  func prepare(
    _ batch: PackedMicroBatch, scratch taps: TapBuffer, worker: Int
  ) throws(TrainingFailure) -> Bool
}

extension TapSource {
  /// Keeps none.
  package func prepare(
    _ batch: PackedMicroBatch, scratch taps: TapBuffer, worker: Int
  ) throws(TrainingFailure) -> Bool { false }
}

/// The technique of PAC §4.1: each worker owns a side network and a tap buffer; parameters are shared.
///
/// - Safety: worker `w` is used by one thread at a time, and parameters change only between steps.
package final class ParallelAdapters: TechniqueComputation, @unchecked Sendable {
  /// The trainable parameters.
  package let parameters: ParameterTree
  /// 64-bit sums, coarse ones in half precision.
  package let gradientSums: GradientSumFormat
  private let source: any TapSource
  private let workers: [(network: SideNetwork, taps: TapBuffer)]

  /// The technique on `workers` workers for micro-batches within `capacity`.
  package init(
    shape: SideNetworkShape, parameters: ParameterTree, frozen: FrozenOutput, source: any TapSource,
    element: ActivationElement, capacity: MicroBatchCapacity, workers: Int, training: Bool,
    gradientPrecision: GradientPrecision = .full
  ) {
    self.parameters = parameters
    gradientSums = GradientSumFormat(gradientPrecision)
    self.source = source
    self.workers = (0..<max(1, workers)).map { _ in
      (
        SideNetwork(shape: shape, tree: parameters, frozen: frozen, capacity: capacity, training: training),
        TapBuffer(shape: shape, element: element, capacity: capacity)
      )
    }
  }

  /// Bytes of one worker's buffers.
  package static func workerBytes(
    shape: SideNetworkShape, element: ActivationElement, capacity: MicroBatchCapacity, training: Bool
  ) -> Int {
    SideNetwork.workspaceBytes(shape: shape, capacity: capacity, training: training)
      + TapBuffer.byteCount(shape: shape, element: element, capacity: capacity)
  }

  /// Runs the frozen backbone, whose taps depend on no trained parameter, if the source keeps them.
  package func prepare(_ batch: PackedMicroBatch, worker: Int) throws(TrainingFailure) -> Bool {
    try source.prepare(batch, scratch: workers[worker].taps, worker: worker)
  }

  /// Loads the taps, runs the side network forward and backward, and returns the loss sum.
  package func train(
    _ batch: PackedMicroBatch, worker: Int, sink: any GradientSink
  ) throws(TrainingFailure) -> Double {
    let (network, taps) = workers[worker]
    try source.load(batch, into: taps, worker: worker)
    return network.train(batch, taps: taps, sink: sink)
  }

  /// Loads the taps and runs the side network forward.
  package func predict(_ batch: PackedMicroBatch, worker: Int) throws(TrainingFailure) -> Matrix {
    let (network, taps) = workers[worker]
    try source.load(batch, into: taps, worker: worker)
    return network.predict(batch, taps: taps)
  }

  /// Loads the taps, runs the side network forward and returns the loss sum.
  package func loss(_ batch: PackedMicroBatch, worker: Int) throws(TrainingFailure) -> Double {
    let (network, taps) = workers[worker]
    try source.load(batch, into: taps, worker: worker)
    return network.loss(batch, taps: taps)
  }
}
