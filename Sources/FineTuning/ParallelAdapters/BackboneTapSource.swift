package import ActivationCache
package import LanguageModels
import Synchronization
package import TensorKernels

/// Taps from the activation cache where it has them, from the frozen backbone where it has not.
///
/// A live micro-batch is encoded once; those bytes go to the cache and to the side network, so a live epoch and
/// a cached one see the same values (DESIGN §7.4, "rounded taps").
///
/// - Safety: each worker uses its own workspace; the backbone is read-only and the store synchronises itself.
///   `release` is called between steps only.
package final class BackboneTapSource: TapSource, @unchecked Sendable {
  private let shape: SideNetworkShape
  private let cache: ActivationCacheStore?
  private var backbone: (any Backbone)?
  private var workspaces: [Arena]
  private let readers: [ActivationCacheReader]
  /// For each stack and backbone tap, its slot in the tap buffer, or −1.
  private let slots: [[Int]]
  private let live = Atomic<Int>(0)

  /// A source over an optional backbone and an optional cache.
  package init(
    shape: SideNetworkShape, backbone: (any Backbone)?, cache: ActivationCacheStore?,
    capacity: MicroBatchCapacity, workers: Int
  ) {
    self.shape = shape
    self.cache = cache
    self.backbone = backbone
    let floats = backbone.map { Self.workspaceFloats($0, capacity: capacity) } ?? 0
    workspaces = backbone == nil ? [] : (0..<max(1, workers)).map { _ in Arena(floatCount: floats) }
    readers = (0..<max(1, workers)).compactMap { _ in cache?.makeReader() }
    slots = shape.stacks.map { stack in
      (0...(stack.taps.last ?? 0)).map { tap in stack.taps.firstIndex(of: tap) ?? -1 }
    }
  }

  /// Floats of one worker's backbone workspace.
  package static func workspaceFloats(_ backbone: any Backbone, capacity: MicroBatchCapacity) -> Int {
    backbone.workspaceFloats(
      capacity: BackboneCapacity(
        encoderTokens: capacity.encoderTokens, longestEncoder: capacity.longestEncoder,
        decoderTokens: capacity.decoderTokens, longestDecoder: capacity.longestDecoder))
  }

  /// Samples that the backbone computed so far.
  package var liveSamples: Int { live.load(ordering: .relaxed) }

  /// Lets go of the backbone and its workspaces; from now on every sample must be in the cache.
  package func release() {
    backbone = nil
    workspaces = []
  }

  /// Fills `taps` from the cache, or runs the backbone and offers its taps to the cache.
  package func load(
    _ batch: PackedMicroBatch, into taps: TapBuffer, worker: Int
  ) throws(TrainingFailure) {
    taps.prepare(encoderTokens: batch.encoder.tokens, decoderTokens: batch.decoder?.tokens ?? 0)
    if try read(batch, into: taps, worker: worker) { return }
    guard let backbone else { throw .activationsMissing(samples: batch.samples.count) }
    try compute(batch, backbone: backbone, into: taps, worker: worker)
    live.add(batch.samples.count, ordering: .relaxed)
    try store(batch, taps)
  }
}
