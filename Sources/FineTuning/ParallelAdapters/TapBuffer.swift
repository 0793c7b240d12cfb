import LanguageModels
package import TensorKernels

/// Memory for the taps of one micro-batch: what the backbone or the cache writes and the side network reads.
///
/// Sized once for the largest micro-batch; `prepare` only moves row counts, so a step allocates nothing.
///
/// - Safety: one worker owns a buffer; nothing else touches it during a step.
package final class TapBuffer: @unchecked Sendable {
  /// Bytes that a buffer of the given capacity takes, for all stacks or the given parts of them.
  package static func byteCount(
    shape: SideNetworkShape, element: ActivationElement, capacity: MicroBatchCapacity,
    parts: [StackPart]? = nil
  ) -> Int {
    var bytes = 0
    for (stack, taps) in zip(shape.stacks, tapCounts(shape, parts)) {
      let tokens = stack.kind == .encoder ? capacity.encoderTokens : capacity.decoderTokens
      bytes += taps * blockBytes(tokens, shape.backboneWidth, element)
    }
    return bytes
  }

  /// Taps of each stack that the given parts make.
  private static func tapCounts(_ shape: SideNetworkShape, _ parts: [StackPart]?) -> [Int] {
    guard let parts else { return shape.stacks.map(\.taps.count) }
    return shape.stacks.indices.map { stack in
      parts.first { $0.stack == stack }.map { shape.stacks[stack].taps(of: $0).count } ?? 0
    }
  }

  /// For each stack, its taps in the order of `SideStackShape.taps`.
  package private(set) var rows: [[EncodedRows]]
  private let storage: UnsafeMutableRawPointer
  private let capacity: MicroBatchCapacity
  private let kinds: [Bool]

  /// A buffer for micro-batches within `capacity`, for the taps of all stacks or of the given parts of them.
  package init(
    shape: SideNetworkShape, element: ActivationElement, capacity: MicroBatchCapacity,
    parts: [StackPart]? = nil
  ) {
    let bytes = Self.byteCount(shape: shape, element: element, capacity: capacity, parts: parts)
    storage = UnsafeMutableRawPointer.allocate(byteCount: max(64, bytes), alignment: 64)
    self.capacity = capacity
    kinds = shape.stacks.map { $0.kind == .encoder }
    var offset = 0
    var rows: [[EncodedRows]] = []
    for (stack, count) in zip(shape.stacks, Self.tapCounts(shape, parts)) {
      let tokens = stack.kind == .encoder ? capacity.encoderTokens : capacity.decoderTokens
      var taps: [EncodedRows] = []
      for _ in 0..<count {
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
