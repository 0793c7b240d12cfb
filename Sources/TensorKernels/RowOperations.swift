import CKernels

// Elementwise maps stay Swift: the compiler vectorises them, and memory, not arithmetic, bounds them.

/// sums[c] (+)= Σ over rows of x[·, c], in row order: the gradient of a bias.
package func columnSums(_ x: Matrix, into sums: UnsafeMutablePointer<Float>, accumulate: Bool) {
  if !accumulate { sums.update(repeating: 0, count: x.columns) }
  for row in 0..<x.rows {
    let source = x.base + row * x.stride
    for column in 0..<x.columns { sums[column] += source[column] }
  }
}

/// y += scale·x.
package func addRows(_ x: Matrix, into y: Matrix, scale: Float = 1) {
  precondition(
    x.rows == y.rows && x.columns == y.columns,
    "adding \(x.rows) x \(x.columns) to \(y.rows) x \(y.columns)")
  for row in 0..<x.rows {
    let source = x.base + row * x.stride
    let target = y.base + row * y.stride
    for column in 0..<x.columns { target[column] += scale * source[column] }
  }
}

/// c = weight·a + (1 − weight)·b; c may be a or b.
package func blendRows(_ a: Matrix, _ b: Matrix, weight: Float, into c: Matrix) {
  precondition(
    a.rows == b.rows && a.columns == b.columns && a.rows == c.rows && a.columns == c.columns,
    "blending \(a.rows) x \(a.columns) and \(b.rows) x \(b.columns) into \(c.rows) x \(c.columns)")
  let rest = 1 - weight
  for row in 0..<a.rows {
    let left = a.base + row * a.stride
    let right = b.base + row * b.stride
    let target = c.base + row * c.stride
    for column in 0..<a.columns { target[column] = weight * left[column] + rest * right[column] }
  }
}

/// Σ a∘b, accumulated in double in a fixed order that no kernel set changes.
package func dotProduct(_ a: Matrix, _ b: Matrix, using set: KernelSet = .best) -> Float {
  precondition(
    a.rows == b.rows && a.columns == b.columns,
    "dot product of \(a.rows) x \(a.columns) and \(b.rows) x \(b.columns)")
  var sum = 0.0
  for row in 0..<a.rows {
    sum += set.kernels.pointee.dot(a.base + row * a.stride, b.base + row * b.stride, a.columns)
  }
  return Float(sum)
}

/// Σ x², accumulated in double in a fixed order that no kernel set changes.
package func sumOfSquares(_ x: UnsafePointer<Float>, count: Int, using set: KernelSet = .best) -> Double {
  precondition(count >= 0, "\(count) values cannot be")
  return set.kernels.pointee.dot(x, x, count)
}

/// y[r] (+)= table[ids[r]]: an embedding look-up.
package func gatherRows(
  _ table: Matrix, _ ids: UnsafePointer<Int32>, count: Int, into y: Matrix, accumulate: Bool
) {
  precondition(
    count <= y.rows && table.columns == y.columns,
    "gathering \(count) rows of \(table.columns) into \(y.rows) x \(y.columns)")
  for row in 0..<count {
    let id = Int(ids[row])
    precondition(id >= 0 && id < table.rows, "id \(id) at \(row) is outside a table of \(table.rows) rows")
    let source = table.base + id * table.stride
    let target = y.base + row * y.stride
    if accumulate {
      for column in 0..<y.columns { target[column] += source[column] }
    } else {
      target.update(from: source, count: y.columns)
    }
  }
}

/// Σ (p − t)² over the single column of `prediction`; `gradient` becomes 2(p − t)·gradientScale.
package func squaredError(
  prediction: Matrix, target: UnsafePointer<Float>, into gradient: Matrix?, gradientScale: Float
) -> Double {
  precondition(prediction.columns == 1, "a prediction has 1 column, not \(prediction.columns)")
  precondition(
    gradient.map { $0.rows == prediction.rows && $0.columns == 1 } ?? true,
    "gradient \(gradient?.rows ?? 0) x \(gradient?.columns ?? 0) of \(prediction.rows) predictions")
  var sum = 0.0
  for row in 0..<prediction.rows {
    let difference = prediction[row, 0] - target[row]
    sum += Double(difference) * Double(difference)
    gradient?[row, 0] = 2 * difference * gradientScale
  }
  return sum
}
