package import ActivationCache
import LanguageModels
package import TensorKernels

/// Puts a micro-batch's taps, which the stages of a pipeline made in parts, into the cache of the device that owns them.
///
/// The bytes are those that one device would have stored. A micro-batch is put together from all its parts at once, so
/// that what waits for other parts is the receiver's to bound.
package struct TapAssembly: Sendable {
  private let shape: SideNetworkShape
  private let element: ActivationElement
  /// The layers and the stack parts of each stage.
  private let stages: [(layers: Range<Int>, parts: [StackPart])]

  /// An assembly of the taps of stages with the given layers, which together are all.
  package init(shape: SideNetworkShape, element: ActivationElement, stages: [Range<Int>]) {
    precondition(
      stages.first?.lowerBound == 0 && stages.last?.upperBound == shape.depths.reduce(0, +)
        && zip(stages, stages.dropFirst()).allSatisfy { $0.upperBound == $1.lowerBound },
      "stages of layers \(stages) are not a model with \(shape.depths) layers")
    self.shape = shape
    self.element = element
    self.stages = stages.map { ($0, StackPart.parts(of: $0, depths: shape.depths)) }
  }

  /// Bytes that the stage's `encodedTaps` has for a micro-batch.
  package func byteCount(_ batch: PackedMicroBatch, stage: Int) -> Int {
    stages[stage].parts.reduce(0) { bytes, part in
      bytes + shape.stacks[part.stack].taps(of: part).count * tapBytes(batch, part.stack)
    }
  }

  /// Appends the micro-batch's samples to a cache.
  ///
  /// - Parameter parts: the `encodedTaps` of each stage, in order.
  /// - Throws: `malformedBoundary` when a part's length is not what the layers and the micro-batch say.
  package func append(
    _ batch: PackedMicroBatch, parts: [[UInt8]], to cache: ActivationCacheStore
  ) throws(TrainingFailure) {
    precondition(parts.count == stages.count, "\(parts.count) parts of \(stages.count) stages")
    for (stage, part) in parts.enumerated() {
      let expected = byteCount(batch, stage: stage)
      guard part.count == expected else {
        throw .malformedBoundary(
          content: "taps", firstLayer: stages[stage].layers.lowerBound,
          lastLayer: stages[stage].layers.upperBound - 1, bytes: part.count, expected: expected)
      }
    }
    let memory = UnsafeMutableRawBufferPointer.allocate(
      byteCount: max(64, parts.reduce(0) { $0 + $1.count }), alignment: 64)
    defer { memory.deallocate() }
    var end = 0
    for part in parts {
      UnsafeMutableRawBufferPointer(rebasing: memory[end..<end + part.count]).copyBytes(from: part)
      end += part.count
    }
    do throws(CacheFailure) {
      try cache.append(batch.keys, sequences: sequences(batch), taps: rows(batch, memory))
    } catch {
      throw .cache(error)
    }
  }

  /// The taps of each stack: stages follow each other, and each lists its taps by stack and ascending, so all together
  /// they are in the order of one device.
  private func rows(
    _ batch: PackedMicroBatch, _ memory: UnsafeMutableRawBufferPointer
  ) -> [[EncodedRows]] {
    guard let base = memory.baseAddress else { return [] }
    var offset = 0
    return shape.stacks.indices.map { stack in
      let bytes = tapBytes(batch, stack)
      return shape.stacks[stack].taps.map { _ in
        defer { offset += bytes }
        return EncodedRows(
          base + offset, rows: sequences(batch)[stack].tokens, width: shape.backboneWidth, element: element)
      }
    }
  }

  private func tapBytes(_ batch: PackedMicroBatch, _ stack: Int) -> Int {
    sequences(batch)[stack].tokens * element.rowBytes(width: shape.backboneWidth)
  }

  private func sequences(_ batch: PackedMicroBatch) -> [PackedSequences] {
    shape.stacks.map { $0.kind == .encoder ? batch.encoder : batch.decoder ?? batch.encoder }
  }
}
