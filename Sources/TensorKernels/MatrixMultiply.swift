import CKernels
import COpenBLAS

/// Whether an operand enters a product as it is stored or transposed.
package enum Transposition: Sendable { case none, transposed }

/// What happens to a product before it is stored:
/// c = activation(scale · op(a)·op(b) + bias) + (accumulate ? c : 0).
///
/// - Safety: the caller keeps the bias alive for the call.
package struct Epilogue: @unchecked Sendable {
  /// One value a column of the result, or nil.
  package var bias: UnsafePointer<Float>?
  /// Applied after the bias.
  package var activation: Activation
  /// Factor of the product alone.
  package var scale: Float
  /// Adds to what the result held instead of replacing it.
  package var accumulate: Bool

  /// The plain product unless told otherwise.
  package init(
    bias: UnsafePointer<Float>? = nil, activation: Activation = .none, scale: Float = 1,
    accumulate: Bool = false
  ) {
    self.bias = bias
    self.activation = activation
    self.scale = scale
    self.accumulate = accumulate
  }
}

/// c = epilogue(op(a)·op(b)): the one door to matrix products; it chooses the back end by shape.
///
/// Large products go to OpenBLAS, all others to the packed kernels of `set`. The result depends on the
/// operands, the shapes and the back ends only: not on threads, alignment or earlier calls. `c` must not
/// overlap an operand.
package func matrixMultiply(
  _ a: Matrix, _ ta: Transposition = .none, _ b: Matrix, _ tb: Transposition = .none, into c: Matrix,
  epilogue: Epilogue = Epilogue(), using set: KernelSet = .best
) {
  let (rows, depth) = ta == .none ? (a.rows, a.columns) : (a.columns, a.rows)
  let (depthOfB, columns) = tb == .none ? (b.rows, b.columns) : (b.columns, b.rows)
  precondition(
    rows == c.rows && columns == c.columns && depth == depthOfB,
    "product of \(rows) x \(depth) and \(depthOfB) x \(columns) into \(c.rows) x \(c.columns)")
  if usesBLAS(rows: rows, columns: columns, depth: depth, epilogue: epilogue, set: set) {
    multiplyWithBLAS(a, ta, b, tb, into: c, depth: depth, epilogue: epilogue)
  } else {
    multiplyPacked(operand(a, ta), operand(b, tb), depth: depth, into: c, epilogue: epilogue, set: set)
  }
}

/// The same product by OpenBLAS whatever the shape: the yardstick of the other back end.
package func matrixMultiplyByBLAS(
  _ a: Matrix, _ ta: Transposition = .none, _ b: Matrix, _ tb: Transposition = .none, into c: Matrix
) {
  let (rows, depth) = ta == .none ? (a.rows, a.columns) : (a.columns, a.rows)
  let (depthOfB, columns) = tb == .none ? (b.rows, b.columns) : (b.columns, b.rows)
  precondition(
    rows == c.rows && columns == c.columns && depth == depthOfB,
    "product of \(rows) x \(depth) and \(depthOfB) x \(columns) into \(c.rows) x \(c.columns)")
  multiplyWithBLAS(a, ta, b, tb, into: c, depth: depth, epilogue: Epilogue())
}

/// c[rows × out] = epilogue(decode(x)·weightᵀ) for `weight` [out × width]; decodes while it copies a block of x.
package func decodeMultiply(
  _ x: EncodedRows, weight: Matrix, into c: Matrix, epilogue: Epilogue = Epilogue(),
  using set: KernelSet = .best
) {
  precondition(
    x.rows == c.rows && x.width == weight.columns && weight.rows == c.columns,
    "product of \(x.rows) x \(x.width) and (\(weight.rows) x \(weight.columns))ᵀ into \(c.rows) x \(c.columns)"
  )
  multiplyPacked(
    operand(x), operand(weight, .transposed), depth: x.width, into: c, epilogue: epilogue, set: set)
}

/// dW[out × width] (+)= dyᵀ·decode(x) for `dy` [rows × out]; decodes while it packs x.
package func decodeWeightGradient(
  _ dy: Matrix, _ x: EncodedRows, into dW: Matrix, accumulate: Bool, using set: KernelSet = .best
) {
  precondition(
    dy.rows == x.rows && dW.rows == dy.columns && dW.columns == x.width,
    "product of (\(dy.rows) x \(dy.columns))ᵀ and \(x.rows) x \(x.width) into \(dW.rows) x \(dW.columns)")
  multiplyPacked(
    operand(dy, .transposed), operand(x), depth: x.rows, into: dW,
    epilogue: Epilogue(accumulate: accumulate), set: set)
}

// MARK: - Back ends

/// From this many rows, columns and steps on, OpenBLAS is at least as fast as the packed kernels.
///
/// With an activation the packed kernels win at every size, because they apply it to a tile that is still in the
/// first cache.
private let largeDimension = 256
/// The portable set has four lanes; OpenBLAS has kernels for every CPU, so it wins from small shapes on.
private let largeDimensionWithoutVectors = 24

/// True where the packed kernels are as fast as OpenBLAS at every size, or faster.
///
/// Measured on Zen 4 with 512 rows, T5-Base's four shapes: 1.03 to 1.07 times OpenBLAS 0.3.21's Zen kernels, which it
/// has had since before AVX-512. On Intel its SkylakeX kernels reach 85 % of the peak on these shapes.
private let packedWinsAlways: Bool = {
  let cpu = CPUFeatures.detect()
  return cpu.avx512 && cpu.isAMDBeforeZen5
}()

private func usesBLAS(rows: Int, columns: Int, depth: Int, epilogue: Epilogue, set: KernelSet) -> Bool {
  let least = min(rows, columns, depth)
  if set.index == 0 { return set == .best && least >= largeDimensionWithoutVectors }
  if packedWinsAlways && set == .best { return false }
  return least >= largeDimension && epilogue.activation == .none
}

private func multiplyWithBLAS(
  _ a: Matrix, _ ta: Transposition, _ b: Matrix, _ tb: Transposition, into c: Matrix, depth: Int,
  epilogue: Epilogue
) {
  _ = BLASCore.select()
  if epilogue.activation != .none && epilogue.accumulate {
    addThroughBlocks(of: c) { first, block in
      let part = ta == .none ? a.rowRange(first, count: block.rows) : a.columnRange(first, count: block.rows)
      var whole = epilogue
      whole.accumulate = false
      multiplyWithBLAS(part, ta, b, tb, into: block, depth: depth, epilogue: whole)
    }
    return
  }
  if let bias = epilogue.bias {
    for row in 0..<c.rows {
      let target = c.base + row * c.stride
      if epilogue.accumulate {
        for column in 0..<c.columns { target[column] += bias[column] }
      } else {
        target.update(from: bias, count: c.columns)
      }
    }
  }
  cblas_sgemm(
    CblasRowMajor, ta == .none ? CblasNoTrans : CblasTrans, tb == .none ? CblasNoTrans : CblasTrans,
    blasint(c.rows), blasint(c.columns), blasint(depth), epilogue.scale,
    a.base, blasint(max(1, a.stride)), b.base, blasint(max(1, b.stride)),
    epilogue.accumulate || epilogue.bias != nil ? 1 : 0, c.base, blasint(max(1, c.stride)))
  if epilogue.activation != .none { applyActivation(epilogue.activation, c, into: c) }
}

func multiplyPacked(
  _ a: hearth_operand, _ b: hearth_operand, depth: Int, into c: Matrix, epilogue: Epilogue, set: KernelSet
) {
  if epilogue.activation != .none && epilogue.accumulate {
    addThroughBlocks(of: c) { first, block in
      var part = a
      part.base += first * (a.transposed != 0 ? MemoryLayout<Float>.stride : a.row_bytes)
      var whole = epilogue
      whole.accumulate = false
      multiplyPacked(part, b, depth: depth, into: block, epilogue: whole, set: set)
    }
    return
  }
  withUnsafePointer(to: a) { a in
    withUnsafePointer(to: b) { b in
      var finish = hearth_epilogue()
      finish.bias = epilogue.bias
      finish.scale = epilogue.scale
      finish.accumulate = epilogue.accumulate ? 1 : 0
      if epilogue.activation != .none {
        finish.activate = set.kernels.pointee.activate_tile
        finish.activation = epilogue.activation.kernelNumber
      }
      set.kernels.pointee.multiply(c.rows, c.columns, depth, a, b, c.base, c.stride, &finish)
    }
  }
}

/// Computes blocks of rows aside and adds them to `c`: an activation cannot be applied to a sum in place.
func addThroughBlocks(of c: Matrix, _ compute: (_ first: Int, _ block: Matrix) -> Void) {
  let rowsOfBlock = 32
  withUnsafeTemporaryAllocation(of: Float.self, capacity: max(1, min(rowsOfBlock, c.rows) * c.columns)) {
    buffer in
    buffer.initialize(repeating: 0)
    var first = 0
    while first < c.rows {
      let count = min(rowsOfBlock, c.rows - first)
      let block = Matrix(buffer.baseAddress!, rows: count, columns: c.columns)
      compute(first, block)
      addRows(block, into: c.rowRange(first, count: count))
      first += count
    }
  }
}

func operand(_ m: Matrix, _ transposition: Transposition) -> hearth_operand {
  hearth_operand(
    base: UnsafeRawPointer(m.base), row_bytes: m.stride * MemoryLayout<Float>.stride,
    element: Int32(HEARTH_FLOAT32), transposed: transposition == .none ? 0 : 1)
}

private func operand(_ x: EncodedRows) -> hearth_operand {
  let element =
    switch x.element {
    case .float32: HEARTH_FLOAT32
    case .float16: HEARTH_FLOAT16
    case .int8: HEARTH_INT8
    }
  return hearth_operand(
    base: UnsafeRawPointer(x.base), row_bytes: x.rowBytes, element: Int32(element), transposed: 0)
}
