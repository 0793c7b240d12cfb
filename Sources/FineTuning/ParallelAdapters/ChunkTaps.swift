import LanguageModels
package import TensorKernels

/// The taps of one chunk of micro-batches in memory: filled layer by layer, then read like any source.
///
/// For predictions of a backbone that is streamed: nothing private goes to a disk.
///
/// - Safety: a micro-batch's rows are written by one thread at a time, and read only after the chunk is whole.
package final class ChunkTaps: TapSource, TapSink, @unchecked Sendable {
  private let shape: SideNetworkShape
  private let element: ActivationElement
  private let storage: UnsafeMutableRawPointer
  private let byteCount: Int
  /// For each micro-batch of the chunk, the offset of its next tap while it is filled, and of its first.
  private let next: UnsafeMutableBufferPointer<Int>
  private var firsts: [Int] = []
  private var firstOrdinal = 0

  /// Room for chunks of at most `chunkTokens` tokens, of all stacks together, in at most as many micro-batches.
  package init(shape: SideNetworkShape, element: ActivationElement, chunkTokens: Int) {
    self.shape = shape
    self.element = element
    byteCount = Self.byteCount(shape: shape, element: element, chunkTokens: chunkTokens)
    storage = .allocate(byteCount: max(64, byteCount), alignment: 64)
    next = .allocate(capacity: max(1, chunkTokens))
    next.initialize(repeating: 0)
  }

  deinit {
    storage.deallocate()
    next.deallocate()
  }

  /// Bytes of the taps of `chunkTokens` tokens, whichever stack they are of.
  package static func byteCount(shape: SideNetworkShape, element: ActivationElement, chunkTokens: Int) -> Int
  {
    let taps = shape.stacks.map(\.taps.count).max() ?? 0
    return chunkTokens * taps * element.rowBytes(width: shape.backboneWidth)
  }

  /// Starts a chunk; its micro-batches have consecutive ordinals.
  package func begin(_ chunk: [PackedMicroBatch]) {
    firstOrdinal = chunk.first?.ordinal ?? 0
    firsts = []
    var offset = 0
    for (position, batch) in chunk.enumerated() {
      precondition(batch.ordinal == firstOrdinal + position, "micro-batch \(batch.ordinal) at \(position)")
      firsts.append(offset)
      next[position] = offset
      for stack in shape.stacks { offset += stack.taps.count * tapBytes(batch, stack) }
    }
    precondition(offset <= byteCount, "a chunk of \(offset) bytes of taps in a place for \(byteCount)")
  }

  private func tapBytes(_ batch: PackedMicroBatch, _ stack: SideStackShape) -> Int {
    let tokens = stack.kind == .encoder ? batch.encoder.tokens : batch.decoder?.tokens ?? 0
    return tokens * element.rowBytes(width: shape.backboneWidth)
  }

  /// Keeps a tap.
  package func take(
    _ rows: EncodedRows, of batch: PackedMicroBatch, position: Int, stack: Int
  ) throws(TrainingFailure) {
    (storage + next[position]).copyMemory(from: rows.base, byteCount: rows.byteCount)
    next[position] += rows.byteCount
  }

  /// Copies a micro-batch's taps.
  package func load(
    _ batch: PackedMicroBatch, into taps: TapBuffer, worker: Int
  ) throws(TrainingFailure) {
    let position = batch.ordinal - firstOrdinal
    guard firsts.indices.contains(position) else { throw .activationsMissing(samples: batch.samples.count) }
    taps.prepare(encoderTokens: batch.encoder.tokens, decoderTokens: batch.decoder?.tokens ?? 0)
    var offset = firsts[position]
    for stack in taps.rows {
      for tap in stack {
        tap.base.copyMemory(from: storage + offset, byteCount: tap.byteCount)
        offset += tap.byteCount
      }
    }
  }
}
