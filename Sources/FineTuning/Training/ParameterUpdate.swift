import NeuralNetworks
import TensorKernels

/// The passes over all parameters between two mini-batches, in blocks that any worker takes.
///
/// Blocks have a fixed size and their results are added in order, so the number of workers changes no bit.
///
/// - Safety: one thread calls; during a loop a block touches its own range alone and a worker its own floats.
final class ParameterUpdate: @unchecked Sendable {
  /// Parameters of a block: its gradient stays in the second-level cache from one pass to the next.
  static let blockSize = 1 << 15

  private let sums: any GradientSums
  private let blocks: Int
  /// A block of gradients for each worker.
  private let gradients: UnsafeMutablePointer<Float>
  private let squares: UnsafeMutablePointer<Double>
  private var sumsAreZero = true
  private var optimizer: AdamWOptimizer?
  private var gradientScale: Float = 1
  private var learningRate: Float = 0
  // Made once: a loop over a kept body allocates nothing.
  private var squareBlock: @Sendable (Int, Int) -> Void = { _, _ in }
  private var updateBlock: @Sendable (Int, Int) -> Void = { _, _ in }

  init(_ sums: any GradientSums, workers: Int) {
    self.sums = sums
    blocks = (sums.count + Self.blockSize - 1) / Self.blockSize
    gradients = .allocate(capacity: workers * Self.blockSize)
    gradients.initialize(repeating: 0, count: workers * Self.blockSize)
    squares = .allocate(capacity: max(1, blocks))
    squares.initialize(repeating: 0, count: max(1, blocks))
    squareBlock = { [unowned self] block, worker in
      squares[block] = TensorKernels.sumOfSquares(read(block, worker), count: range(block).count)
    }
    updateBlock = { [unowned self] block, worker in
      optimizer?.update(
        range(block), gradients: read(block, worker), gradientScale: gradientScale, learningRate: learningRate
      )
      sums.zero(range(block))
    }
  }

  deinit {
    gradients.deallocate()
    squares.deallocate()
  }

  /// Bytes of the blocks of `workers` workers.
  static func byteCount(workers: Int) -> Int { workers * blockSize * MemoryLayout<Float>.stride }

  /// Makes the sums zero, which they are after an update.
  func clearSums() {
    if !sumsAreZero { sums.zero(0..<sums.count) }
    sumsAreZero = false
  }

  /// Σ gradient² over all parameters, from the sums.
  func sumOfSquares(loop: any ParallelLoop) -> Double {
    loop.forEach(blocks, squareBlock)
    return (0..<blocks).reduce(0) { $0 + squares[$1] }
  }

  /// Updates every parameter from the sums as of the optimizer's step, and zeroes them.
  func apply(
    _ optimizer: AdamWOptimizer, gradientScale: Float, learningRate: Float, loop: any ParallelLoop
  ) {
    self.optimizer = optimizer
    self.gradientScale = gradientScale
    self.learningRate = learningRate
    loop.forEach(blocks, updateBlock)
    self.optimizer = nil
    sumsAreZero = true
  }

  private func range(_ block: Int) -> Range<Int> {
    block * Self.blockSize..<min((block + 1) * Self.blockSize, sums.count)
  }

  private func read(_ block: Int, _ worker: Int) -> UnsafeMutablePointer<Float> {
    let floats = gradients + worker * Self.blockSize
    sums.read(range(block), into: floats)
    return floats
  }
}
