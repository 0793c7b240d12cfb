import Collectives
import NeuralNetworks
import TensorKernels

/// A part of the parameters that walks through the vector from step to step, so that replicas can be compared at every
/// step for next to nothing, and all of them in the course of some steps.
struct ParameterWindow {
  /// Parameters of a step's part: some hundred microseconds of work.
  static let width = 1 << 20

  let parameters: ParameterTree
  let selection: VectorSelection

  /// CRC-32C of the part of step `round`.
  func digest(round: UInt64) -> UInt32 {
    let parts = (selection.count + Self.width - 1) / Self.width
    guard parts > 0 else { return 0 }
    let start = Int(round % UInt64(parts)) * Self.width
    return digest(start..<min(start + Self.width, selection.count))
  }

  /// CRC-32C of all of them.
  var whole: UInt32 { digest(0..<selection.count) }

  private func digest(_ range: Range<Int>) -> UInt32 {
    selection.flatRanges(range).reduce(0) { digest, flat in
      crc32c(
        UnsafeRawBufferPointer(
          UnsafeBufferPointer(start: parameters.vector + flat.lowerBound, count: flat.count)),
        seed: digest)
    }
  }
}
