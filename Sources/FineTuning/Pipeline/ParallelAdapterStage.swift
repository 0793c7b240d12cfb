package import LanguageModels
package import NeuralNetworks
package import TensorKernels

/// A stage of a pipeline under Parallel Adapters (PAC §5): layers of the frozen backbone, and the side layers that read
/// their taps.
///
/// A boundary's forward is the backbone's residual stream and the side network's state, with the final states of both
/// encoders in front of them for every stage of the decoder; its backward is the gradient of the side network's rows
/// alone. Relative position biases are one table for a whole stack: their gradient travels backward too, and the stack's
/// first stage hands it on, so that floats are added in the order of one device.
///
/// - Safety: a slot and a worker are each used by one thread at a time; parameters change between steps only.
package final class ParallelAdapterStage: StageComputation, @unchecked Sendable {
  /// What a slot holds between the forward and the backward of its micro-batch.
  private final class Slot {
    let network: SideNetworkPart
    var taps: TapBuffer

    init(network: SideNetworkPart, taps: TapBuffer) {
      self.network = network
      self.taps = taps
    }
  }

  /// A micro-batch of the next mini-batch whose backbone has been run.
  private final class Ahead {
    var taps: TapBuffer
    /// What the next stage reads of the backbone.
    var rows: [UInt8] = []

    init(taps: TapBuffer) { self.taps = taps }
  }

  /// What the micro-batches of one thread share.
  private struct Worker {
    let backbone: BackbonePart
    let scratch: SideNetworkPart.Scratch
  }

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
  /// Micro-batches that can be in flight.
  package var slots: Int { held.count }
  /// Micro-batches of the next mini-batch that the backbone can run ahead; a slot's taps and theirs change places.
  package var aheadSlots: Int { ahead.count }

  private let shape: SideNetworkShape
  private let element: ActivationElement
  private let parts: [StackPart]
  private let held: [Slot]
  private let ahead: [Ahead]
  private let workers: [Worker]
  private let arena: Arena

  /// A stage for micro-batches within `capacity`; of backbone and parameters only the stage's own layers are read.
  package init(
    shape: SideNetworkShape, backbone: any Backbone, parameters: ParameterTree, layers: Range<Int>,
    element: ActivationElement, capacity: MicroBatchCapacity, slots: Int, ahead aheadSlots: Int = 0,
    workers: Int, gradientPrecision: GradientPrecision = .full
  ) {
    precondition(slots > 0 && workers > 0, "a stage of \(slots) slots and \(workers) workers")
    precondition(aheadSlots == 0 || layers.lowerBound == 0, "only a first stage runs ahead, not \(layers)")
    let parts = StackPart.parts(of: layers, depths: shape.depths)
    self.shape = shape
    self.parameters = parameters
    gradientSums = GradientSumFormat(gradientPrecision)
    self.layers = layers
    self.element = element
    self.parts = parts
    let leaves = StageLeaves(shape, layers: layers, in: parameters)
    (ownLeaves, sharedLeaves) = (leaves.own, leaves.shared)
    let frozen =
      SideNetworkPart.endsNetwork(shape, parts)
      ? FrozenOutput(copying: backbone, head: shape.head) : FrozenOutput(norm: nil)
    var layout = ArenaLayout()
    held = (0..<slots).map { _ in
      Slot(
        network: SideNetworkPart(
          shape, parts: parts, tree: parameters, frozen: frozen, capacity: capacity, training: true,
          layout: &layout),
        taps: TapBuffer(shape: shape, element: element, capacity: capacity, parts: parts))
    }
    ahead = (0..<aheadSlots).map { _ in
      Ahead(taps: TapBuffer(shape: shape, element: element, capacity: capacity, parts: parts))
    }
    self.workers = (0..<workers).map { _ in
      Worker(
        backbone: BackbonePart(backbone, parts: parts, capacity: capacity),
        scratch: SideNetworkPart.scratch(
          shape, parts: parts, tree: parameters, capacity: capacity, training: true, layout: &layout))
    }
    arena = Arena(floatCount: layout.floatCount)
  }

  /// Bytes of a stage's buffers, its weights and parameters not counted.
  package static func byteCount(
    shape: SideNetworkShape, backbone: any Backbone, layers: Range<Int>, element: ActivationElement,
    capacity: MicroBatchCapacity, slots: Int, ahead: Int = 0, workers: Int
  ) -> Int {
    let parts = StackPart.parts(of: layers, depths: shape.depths)
    let tree = shape.emptyParameters()
    var layout = ArenaLayout()
    for _ in 0..<slots {
      _ = SideNetworkPart(
        shape, parts: parts, tree: tree, frozen: FrozenOutput(norm: nil), capacity: capacity, training: true,
        layout: &layout)
    }
    for _ in 0..<workers {
      _ = SideNetworkPart.scratch(
        shape, parts: parts, tree: tree, capacity: capacity, training: true, layout: &layout)
    }
    let frozen =
      SideNetworkPart.endsNetwork(shape, parts)
      ? FrozenOutput.floatCount(copying: backbone, head: shape.head) : 0
    let floats =
      layout.floatCount + frozen
      + workers * BackbonePart.floatCount(backbone, parts: parts, capacity: capacity)
    return floats * MemoryLayout<Float>.stride + (slots + ahead)
      * TapBuffer.byteCount(shape: shape, element: element, capacity: capacity, parts: parts)
  }

  /// Nothing to prepare: a side network drops nothing.
  package func begin(step: Int) {}

  /// Runs the backbone's layers and rounds their taps, for a later `forward`.
  package func prepare(_ batch: PackedMicroBatch, ahead index: Int, worker: Int) throws(TrainingFailure) {
    let (place, backbone) = (ahead[index], workers[worker].backbone)
    try run(backbone, batch, into: place.taps)
    place.rows = StageBoundary.bytes(backbone.rowsForNext(batch))
  }

  /// Runs the backbone's layers, rounds their taps, and runs the side layers on them.
  package func forward(
    _ batch: PackedMicroBatch, pass: StagePass, slot: Int, worker: Int, input: [UInt8], prepared: Int?
  ) throws(TrainingFailure) -> StageOutput {
    let (slot, network) = (held[slot], held[slot].network)
    let backbone = workers[worker].backbone
    let known = prepared.map { index in
      swap(&slot.taps, &ahead[index].taps)
      return ahead[index].rows
    }
    let sidePass = sidePass(batch, slot, worker)
    let rows = backbone.rowsFromPrevious(batch)
    let states = pass == .fill ? [] : network.statesFromPrevious(sidePass)
    try StageBoundary.read(input, into: rows + states, "activations", layers: layers)
    if known == nil { try run(backbone, batch, into: slot.taps) }
    if pass == .fill { return StageOutput(boundary: StageBoundary.bytes(backbone.rowsForNext(batch))) }
    guard network.output != nil else {
      _ = network.forward(sidePass)
      let states = network.statesForNext(sidePass)
      return StageOutput(
        boundary: known.map { $0 + StageBoundary.bytes(states) }
          ?? StageBoundary.bytes(backbone.rowsForNext(batch) + states))
    }
    let output = network.forwardToHead(sidePass)
    var predictions: [Float] = []
    if pass == .predict, shape.head != .languageModel {
      let values = network.predictions(output, sidePass)
      predictions = Array(UnsafeBufferPointer(start: values.base, count: values.rows * values.columns))
    }
    let loss = network.loss(output, sidePass, keepsGradient: pass == .train)
    return StageOutput(lossSum: loss, predictions: predictions)
  }

  private func run(
    _ backbone: BackbonePart, _ batch: PackedMicroBatch, into taps: TapBuffer
  ) throws(TrainingFailure) {
    taps.prepare(encoderTokens: batch.encoder.tokens, decoderTokens: batch.decoder?.tokens ?? 0)
    var overflow: (stack: Int, tap: Int, values: Int)?
    let indices = shape.stacks.indices.map { stack in
      parts.first { $0.stack == stack }.map { shape.stacks[stack].taps(of: $0) } ?? []
    }
    backbone.run(batch) { stack, index, rows in
      guard let place = indices[stack].firstIndex(of: index) else { return }
      let values = encodeRows(rows, into: taps.rows[stack][place])
      if values > 0, overflow == nil { overflow = (stack, index, values) }
    }
    if let overflow {
      throw .activationOverflow(
        stack: shape.stacks[overflow.stack].name, tap: overflow.tap, values: overflow.values,
        element: element.rawValue)
    }
  }

  /// Runs the side layers backward.
  package func backward(
    _ batch: PackedMicroBatch, slot: Int, worker: Int, gradient: [UInt8], sink: any GradientSink
  ) throws(TrainingFailure) -> [UInt8] {
    let network = held[slot].network
    let pass = sidePass(batch, held[slot], worker)
    try StageBoundary.read(gradient, into: network.gradientsFromNext(pass), "gradients", layers: layers)
    network.backward(pass, sink: sink)
    return StageBoundary.bytes(network.gradientsForPrevious(pass))
  }

  /// The rounded taps of the stage's layers, stack by stack and ascending.
  package func encodedTaps(_ batch: PackedMicroBatch, slot: Int) -> [UInt8] {
    let taps = held[slot].taps.rows.joined()
    let count = taps.reduce(0) { $0 + $1.byteCount }
    return [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
      for rows in taps where rows.byteCount > 0 {
        guard let base = buffer.baseAddress else { return }
        UnsafeMutableRawPointer(base + initialized).copyMemory(from: rows.base, byteCount: rows.byteCount)
        initialized += rows.byteCount
      }
    }
  }

  private func sidePass(_ batch: PackedMicroBatch, _ slot: Slot, _ worker: Int) -> SideNetworkPart.Pass {
    SideNetworkPart.Pass(
      batch: batch, taps: slot.taps, scratch: workers[worker].scratch, arena: arena)
  }
}
