import ActivationCache
import FineTuning
import TensorKernels

/// Reads whole units' activations from the cache of this device, for messages to their owners.
///
/// - Safety: one thread uses it.
final class CachedTaps: @unchecked Sendable {
  private let kept: KeptTaps
  private let buffer: TapBuffer
  private let scratch: CacheReadScratch
  private let capacity: MicroBatchCapacity

  init(_ kept: KeptTaps, capacity: MicroBatchCapacity) {
    self.kept = kept
    self.capacity = capacity
    buffer = TapBuffer(shape: kept.shape, element: kept.element, capacity: capacity)
    scratch = kept.cache.makeReadScratch()
  }

  /// The activations of a unit, which must be in the cache: stack by stack, tap by tap.
  func read(_ batch: PackedMicroBatch) throws(TrainingFailure) -> [UInt8] {
    buffer.prepare(encoderTokens: batch.encoder.tokens, decoderTokens: batch.decoder?.tokens ?? 0)
    let selection = kept.cache.resolve(batch.keys)
    guard selection.missing.isEmpty else { throw .activationsMissing(samples: selection.missing.count) }
    let outcome: CacheReadOutcome
    do throws(CacheFailure) {
      outcome = try kept.cache.read(selection, into: buffer.rows, scratch: scratch)
    } catch {
      throw .cache(error)
    }
    guard outcome == .complete else { throw .activationsMissing(samples: batch.samples.count) }
    let blocks = buffer.rows.joined()
    return [UInt8](unsafeUninitializedCapacity: blocks.reduce(0) { $0 + $1.byteCount }) { target, count in
      for block in blocks where block.byteCount > 0 {
        UnsafeMutableRawBufferPointer(rebasing: UnsafeMutableRawBufferPointer(target)[count...])
          .copyMemory(from: UnsafeRawBufferPointer(start: block.base, count: block.byteCount))
        count += block.byteCount
      }
    }
  }
}
