package import ActivationCache
package import LanguageModels
import TensorKernels

/// Taps from the activation cache where it has them, from the frozen backbone where it has not.
///
/// A live micro-batch is encoded once; those bytes go to the cache and to the side network, so a live epoch and
/// a cached one see the same values (docs/ARCHITECTURE.md, "rounded taps").
///
/// - Safety: each worker uses its own workspace; the backbone is read-only and the store synchronises itself.
///   `release` is called between steps only.
package final class BackboneTapSource: TapSource, @unchecked Sendable {
  private let shape: SideNetworkShape
  private let cache: ActivationCacheStore?
  private var backbone: (any Backbone)?
  private var workspaces: [Arena]
  private let scratch: [CacheReadScratch]
  /// By ordinal of the micro-batch: where its samples are in the cache.
  private var selections: [CacheSelection?] = []
  /// For each stack and backbone tap, its slot in the tap buffer, or −1.
  private let slots: [[Int]]

  /// A source over an optional backbone and an optional cache.
  package init(
    shape: SideNetworkShape, backbone: (any Backbone)?, cache: ActivationCacheStore?,
    capacity: MicroBatchCapacity, workers: Int
  ) {
    self.shape = shape
    self.cache = cache
    workspaces = []
    scratch = (0..<max(1, workers)).compactMap { _ in cache?.makeReadScratch() }
    slots = shape.stacks.map { stack in
      (0...(stack.taps.last ?? 0)).map { tap in stack.taps.firstIndex(of: tap) ?? -1 }
    }
    if let backbone { attach(backbone, capacity: capacity, workers: workers) }
  }

  /// Floats of one worker's backbone workspace.
  package static func workspaceFloats(_ backbone: any Backbone, capacity: MicroBatchCapacity) -> Int {
    backbone.workspaceFloats(
      capacity: BackboneCapacity(
        encoderTokens: capacity.encoderTokens, longestEncoder: capacity.longestEncoder,
        decoderTokens: capacity.decoderTokens, longestDecoder: capacity.longestDecoder))
  }

  /// Takes a backbone, so that samples that are not in the cache can be computed; between steps only.
  package func attach(_ backbone: any Backbone, capacity: MicroBatchCapacity, workers: Int) {
    self.backbone = backbone
    let floats = Self.workspaceFloats(backbone, capacity: capacity)
    workspaces = (0..<max(1, workers)).map { _ in Arena(floatCount: floats) }
  }

  /// Lets go of the backbone and its workspaces; from now on every sample must be in the cache.
  package func release() {
    backbone = nil
    workspaces = []
  }

  /// Looks every micro-batch up in the cache, so that the reads of an epoch need no lock and no memory.
  ///
  /// - Returns: true when every sample is there. Call it between steps only.
  @discardableResult
  package func resolve(_ batches: [PackedMicroBatch]) -> Bool {
    guard let cache else { return false }
    var isComplete = true
    for batch in batches where batch.ordinal >= 0 {
      if batch.ordinal >= selections.count {
        selections += Array(repeating: nil, count: batch.ordinal + 1 - selections.count)
      }
      let selection = cache.resolve(batch.keys)
      if !selection.missing.isEmpty { isComplete = false }
      selections[batch.ordinal] = selection.missing.isEmpty ? selection : nil
    }
    return isComplete
  }

  /// Asks the system to fetch a micro-batch's records, if they are in the cache.
  package func prefetch(_ batch: PackedMicroBatch) {
    guard let cache, batch.ordinal >= 0, batch.ordinal < selections.count,
      let selection = selections[batch.ordinal]
    else { return }
    cache.prefetch(selection)
  }

  /// Fills `taps` from the cache, or runs the backbone and offers its taps to the cache.
  package func load(
    _ batch: PackedMicroBatch, into taps: TapBuffer, worker: Int
  ) throws(TrainingFailure) {
    taps.prepare(encoderTokens: batch.encoder.tokens, decoderTokens: batch.decoder?.tokens ?? 0)
    if try read(batch, into: taps, worker: worker) { return }
    guard let backbone else { throw .activationsMissing(samples: batch.samples.count) }
    try compute(batch, backbone: backbone, into: taps, worker: worker)
    try store(batch, taps)
  }

  /// Runs the backbone for a micro-batch that is not in the cache, so that it is there when it is trained.
  package func prepare(
    _ batch: PackedMicroBatch, scratch taps: TapBuffer, worker: Int
  ) throws(TrainingFailure) -> Bool {
    guard let cache, let backbone else { return false }
    guard !cache.resolve(batch.keys).missing.isEmpty else { return true }
    taps.prepare(encoderTokens: batch.encoder.tokens, decoderTokens: batch.decoder?.tokens ?? 0)
    try compute(batch, backbone: backbone, into: taps, worker: worker)
    try store(batch, taps)
    return true
  }

  private func read(
    _ batch: PackedMicroBatch, into taps: TapBuffer, worker: Int
  ) throws(TrainingFailure) -> Bool {
    guard let cache else { return false }
    let selection: CacheSelection
    if batch.ordinal >= 0, batch.ordinal < selections.count, let known = selections[batch.ordinal] {
      selection = known
    } else {
      selection = cache.resolve(batch.keys)
      guard selection.missing.isEmpty else { return false }
    }
    do throws(CacheFailure) {
      return try cache.read(selection, into: taps.rows, scratch: scratch[worker]) == .complete
    } catch {
      throw .cache(error)
    }
  }

  private func compute(
    _ batch: PackedMicroBatch, backbone: any Backbone, into taps: TapBuffer, worker: Int
  ) throws(TrainingFailure) {
    var overflow: (stack: Int, tap: Int, values: Int)?
    backbone.forward(
      BackboneBatch(
        encoderIDs: batch.encoderIDs, encoderTypes: batch.encoderTypes, encoder: batch.encoder,
        decoderIDs: batch.decoderIDs, decoder: batch.decoder), workspace: workspaces[worker]
    ) { stack, index, rows in
      guard index < slots[stack].count, slots[stack][index] >= 0 else { return }
      let values = encodeRows(rows, into: taps.rows[stack][slots[stack][index]])
      if values > 0, overflow == nil { overflow = (stack, index, values) }
    }
    if let overflow {
      throw .activationOverflow(
        stack: shape.stacks[overflow.stack].name, tap: overflow.tap, values: overflow.values,
        element: taps.rows[0][0].element.rawValue)
    }
  }

  private func store(_ batch: PackedMicroBatch, _ taps: TapBuffer) throws(TrainingFailure) {
    guard let cache else { return }
    do throws(CacheFailure) {
      try cache.append(batch.keys, sequences: sequences(batch), taps: taps.rows)
    } catch {
      throw .cache(error)
    }
  }

  private func sequences(_ batch: PackedMicroBatch) -> [PackedSequences] {
    shape.stacks.map { $0.kind == .encoder ? batch.encoder : batch.decoder ?? batch.encoder }
  }
}
