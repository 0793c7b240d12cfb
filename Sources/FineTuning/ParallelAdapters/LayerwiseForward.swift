package import LanguageModels
package import NeuralNetworks
import Synchronization
package import TensorKernels

/// Brings frozen weights into memory before they are used and lets them go afterwards.
package protocol WeightResidency: Sendable {
  /// Asks for the leaves' bytes, because they are read soon.
  func willNeed(_ leaves: [Parameter])
  /// Lets the leaves' bytes leave memory.
  func release(_ leaves: [Parameter])
}

/// Takes the taps that a layer-by-layer forward computes.
package protocol TapSink: AnyObject, Sendable {
  /// Takes one tap of a micro-batch, `position`-th of its chunk; the rows are valid only during the call.
  ///
  /// The taps of one micro-batch come one at a time, stack by stack and ascending; those of different ones on
  /// different threads.
  func take(_ rows: EncodedRows, of batch: PackedMicroBatch, position: Int, stack: Int)
    throws(TrainingFailure)
}

/// The frozen backbone run layer by layer over a chunk of many micro-batches, so that one layer's weights are in
/// memory at a time and are read once a chunk.
///
/// The residual streams of the chunk stay in memory between layers; taps go to a sink, rounded as in a live epoch.
/// Each micro-batch is computed as a unit by the calls of `Backbone.forward`, so its taps are the same bits.
///
/// - Safety: one thread drives a forward; in a loop a piece touches its own micro-batch's rows, and a worker its own
///   workspace.
package final class LayerwiseForward: @unchecked Sendable {
  private let shape: SideNetworkShape
  private let backbone: any Backbone
  private let weights: any WeightResidency
  private let element: ActivationElement
  private let streams: Arena
  private let workspaces: [Arena]
  private let scratch: [UnsafeMutableRawPointer]
  private let failure = Mutex<TrainingFailure?>(nil)
  /// Micro-batches between two reports, a worker.
  private static let wave = 4

  /// Plans the memory for chunks of at most `chunkTokens` tokens, of all stacks together.
  package init(
    shape: SideNetworkShape, backbone: any Backbone, weights: any WeightResidency,
    element: ActivationElement, capacity: MicroBatchCapacity, chunkTokens: Int, workers: Int
  ) {
    self.shape = shape
    self.backbone = backbone
    self.weights = weights
    self.element = element
    let width = backbone.architecture.width
    streams = Arena(floatCount: chunkTokens * width)
    let floats = Self.workspaceFloats(backbone, capacity)
    workspaces = (0..<max(1, workers)).map { _ in Arena(floatCount: floats) }
    let bytes = Self.scratchBytes(width: width, element, capacity)
    scratch = (0..<max(1, workers)).map { _ in .allocate(byteCount: bytes, alignment: 64) }
  }

  deinit {
    for buffer in scratch { buffer.deallocate() }
  }

  /// Bytes of one worker's buffers.
  package static func workerBytes(
    _ backbone: any Backbone, element: ActivationElement, capacity: MicroBatchCapacity
  ) -> Int {
    workspaceFloats(backbone, capacity) * MemoryLayout<Float>.stride
      + scratchBytes(width: backbone.architecture.width, element, capacity)
  }

  /// Bytes of the streams of `tokens` tokens.
  package static func streamBytes(_ backbone: any Backbone, tokens: Int) -> Int {
    tokens * backbone.architecture.width * MemoryLayout<Float>.stride
  }

  private static func workspaceFloats(_ backbone: any Backbone, _ capacity: MicroBatchCapacity) -> Int {
    backbone.layerWorkspaceFloats(
      capacity: BackboneCapacity(
        encoderTokens: capacity.encoderTokens, longestEncoder: capacity.longestEncoder,
        decoderTokens: capacity.decoderTokens, longestDecoder: capacity.longestDecoder))
  }

  private static func scratchBytes(width: Int, _ element: ActivationElement, _ capacity: MicroBatchCapacity)
    -> Int
  {
    max(64, max(capacity.encoderTokens, capacity.decoderTokens) * element.rowBytes(width: width))
  }

  /// Cuts micro-batches into chunks of at most `chunkTokens` tokens, in order; a longer one is a chunk alone.
  package static func chunks(_ batches: [PackedMicroBatch], chunkTokens: Int) -> [Range<Int>] {
    var chunks: [Range<Int>] = []
    var (first, tokens) = (0, 0)
    for (index, batch) in batches.enumerated() {
      if index > first, tokens + batch.tokens > chunkTokens {
        chunks.append(first..<index)
        (first, tokens) = (index, 0)
      }
      tokens += batch.tokens
    }
    if first < batches.count { chunks.append(first..<batches.count) }
    return chunks
  }

  /// Computes every tap of a chunk.
  ///
  /// - Parameter report: called several times a layer; returning false ends the forward.
  /// - Returns: false when `report` ended it.
  package func run(
    _ batches: [PackedMicroBatch], sink: any TapSink, loop: any ParallelLoop,
    report: (LayerwiseProgress) -> Bool
  ) throws(TrainingFailure) -> Bool {
    let work = ChunkWork(batches, backbone: backbone, shape: shape, streams: streams)
    failure.withLock { $0 = nil }
    var progress = LayerwiseProgress(layers: work.layers)
    // All stacks at once, so that the word embedding is needed once.
    weights.willNeed([backbone.embedding])
    try each(batches.indices, loop) { [self] position, _ throws(TrainingFailure) in
      for stack in 0...work.last {
        backbone.embedTokens(of: work.batch(position), stack: stack, into: work.stream(position, stack))
      }
    }
    weights.release([backbone.embedding])
    for stack in 0...work.last {
      try each(batches.indices, loop) { [self] position, worker throws(TrainingFailure) in
        try handOut(
          work.stream(position, stack), batches[position], position, stack: stack, index: 0, sink, worker)
      }
      for layer in 0..<work.lastLayer(stack) {
        if let next = work.layer(after: layer, stack) { weights.willNeed(leaves(next.stack, next.layer)) }
        var first = 0
        while first < batches.count {
          let end = min(batches.count, first + Self.wave * loop.width)
          try each(first..<end, loop) { [self] position, worker throws(TrainingFailure) in
            let stream = work.stream(position, stack)
            backbone.runLayer(
              layer, stack: stack, of: work.batch(position), stream: stream,
              encoded: stack > 0 ? work.stream(position, 0) : nil, workspace: workspaces[worker])
            try handOut(stream, batches[position], position, stack: stack, index: layer + 1, sink, worker)
          }
          progress.add(work.work(first..<end, stack), of: work.total)
          guard report(progress) else { return false }
          first = end
        }
        weights.release(leaves(stack, layer))
        progress.layer += 1
      }
      guard stack < work.last else { break }
      try each(batches.indices, loop) { [self] position, _ throws(TrainingFailure) in
        backbone.finishStack(stack, stream: work.stream(position, stack))
      }
    }
    return true
  }

  private func leaves(_ stack: Int, _ layer: Int) -> [Parameter] {
    backbone.stacks[stack].blocks[layer].parameters.leaves
  }

  /// Runs `body` for each position of `range`, on all workers.
  private func each(
    _ range: Range<Int>, _ loop: any ParallelLoop,
    _ body: @escaping @Sendable (_ position: Int, _ worker: Int) throws(TrainingFailure) -> Void
  ) throws(TrainingFailure) {
    loop.forEach(range.count) { [self] piece, worker in
      do throws(TrainingFailure) {
        try body(range.lowerBound + piece, worker)
      } catch {
        failure.withLock { $0 = $0 ?? error }
      }
    }
    if let error = failure.withLock({ $0 }) { throw error }
  }

  /// Rounds a tap that the side network reads, and gives it to the sink.
  private func handOut(
    _ stream: Matrix, _ batch: PackedMicroBatch, _ position: Int, stack: Int, index: Int, _ sink: any TapSink,
    _ worker: Int
  ) throws(TrainingFailure) {
    guard shape.stacks[stack].taps.contains(index) else { return }
    let rows = EncodedRows(scratch[worker], rows: stream.rows, width: stream.columns, element: element)
    let misfits = encodeRows(stream, into: rows)
    guard misfits == 0 else {
      throw .activationOverflow(
        stack: shape.stacks[stack].name, tap: index, values: misfits, element: element.rawValue)
    }
    try sink.take(rows, of: batch, position: position, stack: stack)
  }
}

/// How far a layer-by-layer forward has come.
package struct LayerwiseProgress: Sendable, Equatable {
  /// Layers that are done.
  package fileprivate(set) var layer = 0
  /// Layers of all stacks.
  package let layers: Int
  /// Share of the chunk's work that is done, 0 to 1.
  package fileprivate(set) var fraction = 0.0

  fileprivate init(layers: Int) { self.layers = layers }

  fileprivate mutating func add(_ work: Int, of total: Int) {
    fraction = min(1, fraction + Double(work) / Double(max(1, total)))
  }
}

/// The micro-batches of a chunk with the places of their rows.
///
/// - Safety: immutable; the rows are the forward's.
private struct ChunkWork: Sendable {
  private let batches: [BackboneBatch]
  private let stacks: [FrozenStack]
  private let streams: Arena
  private let offsets: [[Int]]
  private let lastLayers: [Int]
  /// The last stack that runs.
  let last: Int
  let total: Int

  init(_ batches: [PackedMicroBatch], backbone: any Backbone, shape: SideNetworkShape, streams: Arena) {
    let packed = batches.map {
      BackboneBatch(
        encoderIDs: $0.encoderIDs, encoderTypes: $0.encoderTypes, encoder: $0.encoder,
        decoderIDs: $0.decoderIDs, decoder: $0.decoder)
    }
    let stacks = backbone.stacks
    var end = 0
    offsets = packed.map { batch in
      stacks.map { stack in
        defer { end += (batch.sequences(stack.shape.kind)?.tokens ?? 0) * stack.shape.block.width }
        return end
      }
    }
    precondition(
      end <= streams.floatCount, "a chunk of \(end) floats in a place for \(streams.floatCount)")
    let last = packed.contains { $0.decoder != nil } ? stacks.count - 1 : 0
    // What comes after the last tap that anybody reads is not computed.
    lastLayers = stacks.indices.map { index in
      index < last ? stacks[index].shape.layers : index == last ? shape.stacks[index].taps.last ?? 0 : 0
    }
    self.last = last
    self.batches = packed
    self.stacks = stacks
    self.streams = streams
    var total = 0
    for (stack, layers) in zip(stacks, lastLayers) {
      total += layers * packed.reduce(0) { $0 + Self.work($1, stack.shape) }
    }
    self.total = total
  }

  /// Layers of all stacks that are computed.
  var layers: Int { lastLayers.reduce(0, +) }

  func lastLayer(_ stack: Int) -> Int { lastLayers[stack] }

  /// What runs after a layer.
  func layer(after layer: Int, _ stack: Int) -> (stack: Int, layer: Int)? {
    if layer + 1 < lastLayers[stack] { return (stack, layer + 1) }
    let next = stack + 1
    return next <= last && lastLayers[next] > 0 ? (next, 0) : nil
  }

  func batch(_ position: Int) -> BackboneBatch { batches[position] }

  func stream(_ position: Int, _ stack: Int) -> Matrix {
    let tokens = batches[position].sequences(stacks[stack].shape.kind)?.tokens ?? 0
    return streams.matrix(offsets[position][stack], rows: tokens, columns: stacks[stack].shape.block.width)
  }

  func work(_ positions: Range<Int>, _ stack: Int) -> Int {
    positions.reduce(0) { $0 + Self.work(batches[$1], stacks[stack].shape) }
  }

  /// A layer's work in eighths of a token; a decoder's look at the encoder's rows costs about one of them.
  private static func work(_ batch: BackboneBatch, _ stack: StackShape) -> Int {
    let own = 8 * (batch.sequences(stack.kind)?.tokens ?? 0)
    return stack.kind == .decoder ? own + batch.encoder.tokens : own
  }
}
