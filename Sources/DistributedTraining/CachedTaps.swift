import LanguageModels
import ActivationCache
import FineTuning
import TensorKernels

/// Activations between the cache of this device and the messages that carry them.
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

  /// Appends a unit's activations from the parts that stages of the given layers have made of it.
  ///
  /// A part holds the taps of its layers stack by stack, ascending; the first layer of a stack brings the stack's input
  /// too.
  func append(
    _ parts: [[UInt8]], stages: [Range<Int>], of batch: PackedMicroBatch
  ) throws(TrainingFailure) {
    buffer.prepare(encoderTokens: batch.encoder.tokens, decoderTokens: batch.decoder?.tokens ?? 0)
    for (part, layers) in zip(parts, stages) {
      let blocks = blocks(of: layers)
      let expected = blocks.reduce(0) { $0 + $1.byteCount }
      guard part.count == expected else {
        throw .exchange(
          "\(part.count) bytes of activations of layers \(layers) came in place of \(expected); "
            + "bring all devices to one version of hearth")
      }
      part.withUnsafeBytes { bytes in
        var start = 0
        for block in blocks where block.byteCount > 0 {
          UnsafeMutableRawBufferPointer(start: block.base, count: block.byteCount)
            .copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[start..<start + block.byteCount]))
          start += block.byteCount
        }
      }
    }
    do throws(CacheFailure) {
      try kept.cache.append(
        batch.keys,
        sequences: kept.shape.stacks.map {
          $0.kind == .encoder ? batch.encoder : batch.decoder ?? batch.encoder
        }, taps: buffer.rows)
    } catch {
      throw .cache(error)
    }
  }

  /// The rows of the taps that a stage of these layers makes.
  private func blocks(of layers: Range<Int>) -> [EncodedRows] {
    var blocks: [EncodedRows] = []
    var first = 0
    for (index, stack) in kept.shape.stacks.enumerated() {
      for (slot, tap) in stack.taps.enumerated() where layers.contains(first + max(0, tap - 1)) {
        blocks.append(buffer.rows[index][slot])
      }
      first += kept.depths[index]
    }
    return blocks
  }
}
