package import ActivationCache
package import TensorKernels

/// How far the filling of a cache has come.
package struct FillProgress: Sendable, Equatable {
  /// Samples whose work is done; a sample counts by the share of its layers.
  package var samples: Int
  /// Samples to be computed.
  package var totalSamples: Int
  /// Layers that are done in the chunk at hand.
  package var layer: Int
  /// Layers of all stacks.
  package var layers: Int

  /// A position in a fill.
  package init(samples: Int, totalSamples: Int, layer: Int, layers: Int) {
    self.samples = samples
    self.totalSamples = totalSamples
    self.layer = layer
    self.layers = layers
  }
}

/// Fills an activation cache layer by layer, chunk by chunk: what a live epoch does to the cache, without the whole
/// backbone in memory and without training (DESIGN "fill").
///
/// A finished chunk is on the disk; an interrupted one is given up, so the next fill begins with it.
package struct CacheFill {
  private let cache: ActivationCacheStore
  private let forward: LayerwiseForward
  private let chunkTokens: Int

  /// A fill of `cache` by chunks of `chunkTokens` tokens, for which `forward` was made.
  package init(cache: ActivationCacheStore, forward: LayerwiseForward, chunkTokens: Int) {
    self.cache = cache
    self.forward = forward
    self.chunkTokens = chunkTokens
  }

  /// The micro-batches of which the cache lacks a sample.
  package static func missing(_ batches: [PackedMicroBatch], in cache: ActivationCacheStore)
    -> [PackedMicroBatch]
  {
    batches.filter { !cache.resolve($0.keys).isComplete }
  }

  /// Computes what the cache lacks of the micro-batches' samples.
  ///
  /// - Parameter report: called several times a layer; returning false ends the fill after its last whole chunk.
  /// - Returns: false when `report` ended it.
  package func run(
    _ batches: [PackedMicroBatch], loop: any ParallelLoop, report: (FillProgress) -> Bool
  ) throws(TrainingFailure) -> Bool {
    let missing = Self.missing(batches, in: cache)
    let total = missing.reduce(0) { $0 + $1.samples.count }
    var done = 0
    for range in LayerwiseForward.chunks(missing, chunkTokens: chunkTokens) {
      let chunk = Array(missing[range])
      let samples = chunk.reduce(0) { $0 + $1.samples.count }
      let sink = try CacheSink(chunk, cache)
      let finished = try forward.run(chunk, sink: sink, loop: loop) { progress in
        sink.settle(layer: progress.layer)
        return report(
          FillProgress(
            samples: done + Int(Double(samples) * progress.fraction), totalSamples: total,
            layer: progress.layer, layers: progress.layers))
      }
      guard finished else {
        sink.abandon()
        return false
      }
      try sink.commit()
      done += samples
    }
    return true
  }
}

/// Writes the taps of a chunk to their places in the cache.
///
/// - Safety: micro-batches have samples of their own, and the forward hands out one tap of each at a time.
private final class CacheSink: TapSink, @unchecked Sendable {
  private let cache: ActivationCacheStore
  private let reservation: CacheReservation
  /// Number of each micro-batch's first sample in the reservation.
  private let first: [Int]
  private var settledLayer = 0

  init(_ chunk: [PackedMicroBatch], _ cache: ActivationCacheStore) throws(TrainingFailure) {
    self.cache = cache
    var first: [Int] = []
    var count = 0
    for batch in chunk {
      first.append(count)
      count += batch.keys.count
    }
    self.first = first
    let kinds = cache.identity.stacks.map(\.name)
    do throws(CacheFailure) {
      reservation = try cache.reserve(
        chunk.flatMap(\.keys),
        sequences: chunk.map { batch in
          kinds.map { $0 == "encoder" ? batch.encoder : batch.decoder ?? batch.encoder }
        })
    } catch {
      throw .cache(error)
    }
  }

  func take(
    _ rows: EncodedRows, of batch: PackedMicroBatch, position: Int, stack: Int
  ) throws(TrainingFailure) {
    let sequences = stack == 0 ? batch.encoder : batch.decoder ?? batch.encoder
    do throws(CacheFailure) {
      for index in batch.keys.indices where reservation.needs(first[position] + index) {
        try reservation.write(
          first[position] + index,
          rows.rowRange(sequences.offsets[index], count: sequences.length(index)))
      }
    } catch {
      throw .cache(error)
    }
  }

  /// Once a layer: what was written of it is on its way to the disk and need not stay in memory.
  func settle(layer: Int) {
    guard layer > settledLayer else { return }
    settledLayer = layer
    reservation.settle()
  }

  func commit() throws(TrainingFailure) {
    do throws(CacheFailure) {
      try reservation.commit()
      try cache.flush()
    } catch {
      throw .cache(error)
    }
  }

  func abandon() { reservation.abandon() }
}
