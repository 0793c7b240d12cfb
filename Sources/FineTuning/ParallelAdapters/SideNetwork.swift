package import NeuralNetworks
package import TensorKernels

/// Parallel Adapters of one compute thread: forward and backward of a micro-batch from its taps alone.
///
/// It reads `EncodedRows` and nothing else, so it cannot tell a live backbone from the cache; no gradient can
/// reach the backbone because the backbone is not here. Buffers are planned at `init`; calls allocate nothing.
///
/// - Safety: one worker owns a network. Parameters are shared and written only between steps.
package final class SideNetwork: @unchecked Sendable {
  /// Shapes of the network.
  package let shape: SideNetworkShape
  private let part: SideNetworkPart
  private let scratch: SideNetworkPart.Scratch
  private let arena: Arena

  /// Plans the buffers for micro-batches within `capacity`; `tree` holds `shape.parameterShapes()`.
  package init(
    shape: SideNetworkShape, tree: ParameterTree, frozen: FrozenOutput, capacity: MicroBatchCapacity,
    training: Bool
  ) {
    self.shape = shape
    var layout = ArenaLayout()
    (part, scratch) = Self.plan(
      shape, tree: tree, frozen: frozen, capacity: capacity, training: training, layout: &layout)
    arena = Arena(floatCount: layout.floatCount)
  }

  /// Bytes that a network of this shape takes beside its parameters.
  package static func workspaceBytes(
    shape: SideNetworkShape, capacity: MicroBatchCapacity, training: Bool
  ) -> Int {
    var layout = ArenaLayout()
    _ = plan(
      shape, tree: shape.emptyParameters(), frozen: FrozenOutput(norm: nil), capacity: capacity,
      training: training, layout: &layout)
    return layout.floatCount * MemoryLayout<Float>.stride
  }

  private static func plan(
    _ shape: SideNetworkShape, tree: ParameterTree, frozen: FrozenOutput, capacity: MicroBatchCapacity,
    training: Bool, layout: inout ArenaLayout
  ) -> (SideNetworkPart, SideNetworkPart.Scratch) {
    let parts = StackPart.whole(depths: shape.depths)
    let part = SideNetworkPart(
      shape, parts: parts, tree: tree, frozen: frozen, capacity: capacity, training: training,
      layout: &layout)
    let scratch = SideNetworkPart.scratch(
      shape, parts: parts, tree: tree, capacity: capacity, training: training, layout: &layout)
    return (part, scratch)
  }

  /// Value of a gate: `σ(α / 0.1)`, 0.5 at the start (α = 0).
  static func gateValue(_ gate: Parameter) -> Float {
    // σ(x) is the first entry of softmax(x, 0): the same code as every other exponential of the engine.
    var pair: (Float, Float) = (gate.values[0] / SideNetworkShape.gateTemperature, 0)
    withUnsafeMutableBytes(of: &pair) { bytes in
      guard let base = bytes.baseAddress?.assumingMemoryBound(to: Float.self) else { return }
      softmaxRows(Matrix(base, rows: 1, columns: 2))
    }
    return pair.0
  }

  /// Predicts a micro-batch: logits or values, one row a sample; valid until the next call.
  ///
  /// A network with a language-model head has no logits in memory; use `train` for its loss.
  package func predict(_ batch: PackedMicroBatch, taps: TapBuffer) -> Matrix {
    let pass = pass(batch, taps)
    return part.predictions(part.forwardToHead(pass), pass)
  }

  /// The loss sum of a micro-batch, without a gradient.
  package func loss(_ batch: PackedMicroBatch, taps: TapBuffer) -> Double {
    let pass = pass(batch, taps)
    return part.loss(part.forwardToHead(pass), pass, keepsGradient: false)
  }

  /// Runs the stacks and returns the states before the head, [outputs × d]; valid until the next call.
  package func forward(_ batch: PackedMicroBatch, taps: TapBuffer) -> Matrix {
    part.forwardToHead(pass(batch, taps))
  }

  /// Forward, loss and backward of a micro-batch: gradients of the loss *sum* go to `sink`.
  ///
  /// - Returns: the sum of the losses of the micro-batch's samples (or decoder tokens).
  package func train(_ batch: PackedMicroBatch, taps: TapBuffer, sink: any GradientSink) -> Double {
    let pass = pass(batch, taps)
    let loss = part.loss(part.forwardToHead(pass), pass, keepsGradient: true)
    part.backward(pass, sink: sink)
    return loss
  }

  private func pass(_ batch: PackedMicroBatch, _ taps: TapBuffer) -> SideNetworkPart.Pass {
    SideNetworkPart.Pass(batch: batch, taps: taps, scratch: scratch, arena: arena)
  }
}
