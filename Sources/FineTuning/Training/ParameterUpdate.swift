import NeuralNetworks
import TensorKernels

/// The passes over the trained parameters between two mini-batches, in blocks that any worker takes.
///
/// Blocks have a fixed size, never cross a leaf, and their results are added in the order of the leaves: neither the number
/// of workers nor the division of the leaves among stages of a pipeline changes a bit.
///
/// - Safety: one thread calls; during a loop a block touches its own range alone and a worker its own floats.
final class ParameterUpdate: @unchecked Sendable {
  /// Parameters of a block: its gradient stays in the second-level cache from one pass to the next.
  static let blockSize = 1 << 15

  /// A part of one leaf in the flat vector.
  private struct Block {
    let range: Range<Int>
    /// Place of the leaf among the tree's trainable ones.
    let leaf: Int
    /// False for a leaf whose squares another stage counts.
    let isCounted: Bool
  }

  private let sums: any GradientSums
  private let blocks: [Block]
  /// A block of gradients for each worker.
  private let gradients: UnsafeMutablePointer<Float>
  private let squares: UnsafeMutablePointer<Double>
  private let leafCount: Int
  private var sumsAreZero = true
  private var optimizer: AdamWOptimizer?
  private var gradientScale: Float = 1
  private var learningRate: Float = 0
  // Made once: a loop over a kept body allocates nothing.
  private var squareBlock: @Sendable (Int, Int) -> Void = { _, _ in }
  private var updateBlock: @Sendable (Int, Int) -> Void = { _, _ in }

  init(_ sums: any GradientSums, of tree: ParameterTree, leaves: TrainedLeaves, workers: Int) {
    self.sums = sums
    (blocks, leafCount) = Self.blocks(tree, leaves)
    gradients = .allocate(capacity: workers * Self.blockSize)
    gradients.initialize(repeating: 0, count: workers * Self.blockSize)
    squares = .allocate(capacity: max(1, blocks.count))
    squares.initialize(repeating: 0, count: max(1, blocks.count))
    squareBlock = { [unowned self] block, worker in
      guard blocks[block].isCounted else { return }
      squares[block] = TensorKernels.sumOfSquares(read(block, worker), count: blocks[block].range.count)
    }
    updateBlock = { [unowned self] block, worker in
      let range = blocks[block].range
      optimizer?.update(
        range, gradients: read(block, worker), gradientScale: gradientScale, learningRate: learningRate)
      sums.zero(range)
    }
  }

  deinit {
    gradients.deallocate()
    squares.deallocate()
  }

  /// Bytes of the blocks of `workers` workers.
  static func byteCount(workers: Int) -> Int { workers * blockSize * MemoryLayout<Float>.stride }

  private static func blocks(_ tree: ParameterTree, _ leaves: TrainedLeaves) -> ([Block], Int) {
    let trainable = tree.parameters.indices.filter { tree.parameters[$0].isTrainable }
    var blocks: [Block] = []
    let (counted, updated) = (Set(leaves.counted), Set(leaves.updated))
    for (place, index) in trainable.enumerated() where updated.contains(index) {
      let leaf = tree.parameters[index]
      guard let offset = leaf.gradientOffset else { continue }
      for start in stride(from: offset, to: offset + leaf.count, by: blockSize) {
        blocks.append(
          Block(
            range: start..<min(start + blockSize, offset + leaf.count), leaf: place,
            isCounted: counted.contains(index)))
      }
    }
    return (blocks, trainable.count)
  }

  /// Makes the sums zero, which they are after an update.
  func clearSums() {
    if !sumsAreZero { for block in blocks { sums.zero(block.range) } }
    sumsAreZero = false
  }

  /// Σ gradient² of every leaf that this device counts, in the order of the tree; 0 for the others.
  func squares(loop: any ParallelLoop) -> [Double] {
    loop.forEach(blocks.count, squareBlock)
    var leaves = [Double](repeating: 0, count: leafCount)
    for (index, block) in blocks.enumerated() where block.isCounted { leaves[block.leaf] += squares[index] }
    return leaves
  }

  /// Σ gradient² over all parameters, from the sums; adds the same numbers in the same order as the sum of `squares`.
  func sumOfSquares(loop: any ParallelLoop) -> Double {
    loop.forEach(blocks.count, squareBlock)
    var (total, ofLeaf, leaf) = (0.0, 0.0, 0)
    for (index, block) in blocks.enumerated() {
      if block.leaf != leaf {
        total += ofLeaf
        (ofLeaf, leaf) = (0, block.leaf)
      }
      ofLeaf += squares[index]
    }
    return total + ofLeaf
  }

  /// Updates the trained parameters from the sums as of the optimizer's step, and zeroes them.
  func apply(
    _ optimizer: AdamWOptimizer, gradientScale: Float, learningRate: Float, loop: any ParallelLoop
  ) {
    self.optimizer = optimizer
    self.gradientScale = gradientScale
    self.learningRate = learningRate
    loop.forEach(blocks.count, updateBlock)
    self.optimizer = nil
    sumsAreZero = true
  }

  private func read(_ block: Int, _ worker: Int) -> UnsafeMutablePointer<Float> {
    let floats = gradients + worker * Self.blockSize
    sums.read(blocks[block].range, into: floats)
    return floats
  }
}
