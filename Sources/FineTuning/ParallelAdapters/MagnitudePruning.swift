import TensorKernels

/// Cuts small weight matrices out of large ones by weight magnitude.
///
/// The paper's structural pruning (§6.1) follows Ladder Side-Tuning's Fisher importance, which needs a backward
/// pass through the whole backbone. This one needs none: a coordinate's importance is the sum of the
/// magnitudes of the weights that read or write it. One set of residual coordinates serves all layers, so a
/// side network's residual stream keeps its meaning from layer to layer, and heads stay whole.
enum MagnitudePruning {
  /// Adds Σ_rows |w| to each column's importance.
  static func addColumnMagnitudes(_ matrix: Matrix, into importance: inout [Float]) {
    precondition(importance.count == matrix.columns, "\(importance.count) of \(matrix.columns) columns")
    importance.withUnsafeMutableBufferPointer { sums in
      for row in 0..<matrix.rows {
        let weights = matrix.base + row * matrix.stride
        for column in 0..<matrix.columns { sums[column] += weights[column].magnitude }
      }
    }
  }

  /// Adds Σ_columns |w| to each row's importance.
  static func addRowMagnitudes(_ matrix: Matrix, into importance: inout [Float]) {
    precondition(importance.count == matrix.rows, "\(importance.count) of \(matrix.rows) rows")
    for row in 0..<matrix.rows {
      let weights = matrix.base + row * matrix.stride
      var sum: Float = 0
      for column in 0..<matrix.columns { sum += weights[column].magnitude }
      importance[row] += sum
    }
  }

  /// The `count` most important indices of `range`, in ascending order; ties go to the lower index.
  static func strongest(_ count: Int, in range: Range<Int>, importance: [Float]) -> [Int] {
    precondition(count <= range.count, "cannot keep \(count) of \(range.count)")
    let ranked = range.sorted { left, right in
      importance[left] != importance[right] ? importance[left] > importance[right] : left < right
    }
    return ranked.prefix(count).sorted()
  }

  /// The sub-matrix of the given rows and columns, row-major.
  static func slice(_ matrix: Matrix, rows: [Int], columns: [Int]) -> [Float] {
    var values: [Float] = []
    values.reserveCapacity(rows.count * columns.count)
    for row in rows {
      let weights = matrix.base + row * matrix.stride
      for column in columns { values.append(weights[column]) }
    }
    return values
  }

  /// The chosen elements of a vector.
  static func slice(_ vector: UnsafePointer<Float>, _ indices: [Int]) -> [Float] {
    indices.map { vector[$0] }
  }

  /// Which rows of a projection to heads are kept: `heads.count` heads of `headSize` rows each.
  ///
  /// `first` and `second` are the two matrices whose rows meet in a dot product or a sum (query and key, or
  /// value and the transposed output), so their importances are multiplied.
  static func headRows(
    heads: [Int], headSize: Int, backboneHeadSize: Int, first: [Float], second: [Float]
  ) -> [Int] {
    let joint = zip(first, second).map { $0 * $1 }
    return heads.flatMap { head -> [Int] in
      let range = head * backboneHeadSize..<(head + 1) * backboneHeadSize
      return strongest(headSize, in: range, importance: joint)
    }
  }
}
