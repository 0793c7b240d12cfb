import LanguageModels
package import TensorKernels

/// Memory for the taps of one micro-batch: what the backbone or the cache writes and the side network reads.
///
/// Sized once for the largest micro-batch; `prepare` only moves row counts, so a step allocates nothing.
///
/// - Safety: one worker owns a buffer; nothing else touches it during a step.
package final class TapBuffer: @unchecked Sendable {
  /// Bytes that a buffer of the given capacity takes.
  package static func byteCount(
    shape: SideNetworkShape, element: ActivationElement, capacity: MicroBatchCapacity
  ) -> Int {
    var bytes = 0
    for stack in shape.stacks {
      let tokens = stack.kind == .encoder ? capacity.encoderTokens : capacity.decoderTokens
      bytes += stack.taps.count * blockBytes(tokens, shape.backboneWidth, element)
    }
    return bytes
  }

  /// For each stack, its taps in the order of `SideStackShape.taps`.
  package private(set) var rows: [[EncodedRows]]
  private let storage: UnsafeMutableRawPointer
  private let capacity: MicroBatchCapacity
  private let kinds: [Bool]

  /// A buffer for micro-batches within `capacity`.
  package init(shape: SideNetworkShape, element: ActivationElement, capacity: MicroBatchCapacity) {
    let bytes = Self.byteCount(shape: shape, element: element, capacity: capacity)
    storage = UnsafeMutableRawPointer.allocate(byteCount: max(64, bytes), alignment: 64)
    self.capacity = capacity
    kinds = shape.stacks.map { $0.kind == .encoder }
    var offset = 0
    var rows: [[EncodedRows]] = []
    for stack in shape.stacks {
      let tokens = stack.kind == .encoder ? capacity.encoderTokens : capacity.decoderTokens
      var taps: [EncodedRows] = []
      for _ in stack.taps {
        taps.append(EncodedRows(storage + offset, rows: 0, width: shape.backboneWidth, element: element))
        offset += Self.blockBytes(tokens, shape.backboneWidth, element)
      }
      rows.append(taps)
    }
    self.rows = rows
  }

  deinit { storage.deallocate() }

  /// Sets the row counts to those of a micro-batch.
  package func prepare(encoderTokens: Int, decoderTokens: Int) {
    precondition(
      encoderTokens <= capacity.encoderTokens && decoderTokens <= capacity.decoderTokens,
      "a micro-batch of \(encoderTokens) + \(decoderTokens) tokens exceeds \(capacity)")
    for stack in rows.indices {
      let tokens = kinds[stack] ? encoderTokens : decoderTokens
      for tap in rows[stack].indices { rows[stack][tap].rows = tokens }
    }
  }

  private static func blockBytes(_ tokens: Int, _ width: Int, _ element: ActivationElement) -> Int {
    (tokens * element.rowBytes(width: width) + 63) / 64 * 64
  }
}
