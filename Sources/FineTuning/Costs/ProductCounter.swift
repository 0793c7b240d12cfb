/// Floating-point operations of matrix products, two for each multiplication with its addition.
///
/// Only products count: norms, activations, softmax and the optimizer are bound by memory, and the paper's figures leave
/// them out too. The backward is what the mathematics needs: what an implementation computes again to save memory is
/// its own affair.
struct ProductCounter {
  private(set) var forward = 0
  private(set) var backward = 0

  /// Rows times a weight matrix.
  ///
  /// - Parameters:
  ///   - rows: rows of the input.
  ///   - inputs: columns of the input.
  ///   - outputs: columns of the output.
  ///   - trains: the matrix gets a gradient.
  ///   - passes: the input gets a gradient.
  mutating func weight(rows: Int, inputs: Int, outputs: Int, trains: Bool, passes: Bool) {
    let operations = 2 * rows * inputs * outputs
    forward += operations
    backward += (trains ? operations : 0) + (passes ? operations : 0)
  }

  /// A product of two activations, which both get gradients or none.
  mutating func pair(_ m: Int, _ n: Int, _ k: Int, differentiated: Bool) {
    let operations = 2 * m * n * k
    forward += operations
    backward += differentiated ? 2 * operations : 0
  }

  /// A low-rank pair beside a frozen matrix: `y += (x·Aᵀ)·Bᵀ`.
  mutating func lowRank(rows: Int, inputs: Int, outputs: Int, rank: Int, passes: Bool) {
    forward += 2 * rows * rank * (inputs + outputs)
    // dy·B, once for both gradients behind it; then those of B and A; then the input's.
    backward += 2 * rows * rank * (2 * outputs + inputs + (passes ? inputs : 0))
  }
}
