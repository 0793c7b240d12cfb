import CKernels

/// One of the instructions that multiply bytes; all give the same integers and the same float32 results.
///
/// - Safety: `kernels` points at a constant of the C target.
package struct Int8KernelSet: @unchecked Sendable, Equatable {
  /// 0 portable, 1 AVX2, 2 AVX-VNNI, 3 AVX-512 VNNI, 4 NEON dot product.
  package let index: Int32
  let kernels: UnsafePointer<hearth_int8_kernels>

  init?(index: Int32) {
    guard let kernels = hearth_int8_kernels_of(index) else { return nil }
    self.index = index
    self.kernels = kernels
  }

  /// The sets that this CPU runs, best first; never empty.
  package static let available: [Int8KernelSet] = (0..<Int32(HEARTH_INT8_COUNT)).reversed().compactMap {
    Int8KernelSet(index: $0)
  }

  /// The set in use unless a caller forces another.
  package static let best: Int8KernelSet = available[0]

  /// Short name, as reports show it.
  package var name: String {
    switch index {
    case 1: "avx2"
    case 2: "avx-vnni"
    case 3: "avx512-vnni"
    case 4: "neon-dot"
    default: "portable"
    }
  }

  /// Same instruction, same kernels.
  package static func == (a: Int8KernelSet, b: Int8KernelSet) -> Bool { a.index == b.index }
}

/// Inputs of an int8 matrix whose values are far above the others', with their weights in float32.
///
/// One such input would take the range of its rows for itself (LLM.int8(), Dettmers et al., NeurIPS 2022).
///
/// - Safety: the creator keeps the memory for the life of the value.
package struct OutlierColumns: @unchecked Sendable {
  /// The inputs' numbers, ascending.
  package let columns: UnsafePointer<UInt32>
  /// How many there are.
  package let count: Int
  /// [outputs × count].
  package let weights: UnsafePointer<Float>

  /// Columns with their weights.
  package init(columns: UnsafePointer<UInt32>, count: Int, weights: UnsafePointer<Float>) {
    self.columns = columns
    self.count = count
    self.weights = weights
  }
}

/// A borrowed matrix of int8 weights, [outputs × inputs], under one scale an output, packed in panels of 32 outputs.
///
/// The packing is the same for every instruction. Matrices whose outputs are multiples of 32 and that follow each
/// other in memory are one matrix.
///
/// - Safety: the creator keeps `byteCount` bytes at `base` for the life of the value.
package struct Int8Matrix: @unchecked Sendable {
  /// Outputs of a panel.
  package static let panelOutputs = Int(HEARTH_INT8_PANEL)
  /// Most inputs: beyond, the 32-bit sums could overflow.
  package static let maximumInputs = Int(HEARTH_INT8_MAX_DEPTH)

  /// The first panel, aligned to 64 bytes.
  package let base: UnsafeRawPointer
  /// Number of outputs.
  package let outputs: Int
  /// Number of inputs.
  package let inputs: Int
  /// Inputs that are multiplied in float32; their integers are 0.
  package let outliers: OutlierColumns?

  /// A view of the panels at `base`.
  package init(_ base: UnsafeRawPointer, outputs: Int, inputs: Int, outliers: OutlierColumns? = nil) {
    precondition(
      outputs >= 0 && (0...Self.maximumInputs).contains(inputs) && UInt(bitPattern: base) % 64 == 0,
      "an int8 matrix of \(outputs) x \(inputs) at \(base)")
    self.base = base
    self.outputs = outputs
    self.inputs = inputs
    self.outliers = outliers
  }

  /// The matrix that this one and the next make together, or nil when they do not follow each other in memory.
  package func joined(_ next: Int8Matrix) -> Int8Matrix? {
    guard inputs == next.inputs, outputs % Self.panelOutputs == 0, base + byteCount == next.base else {
      return nil
    }
    switch (outliers, next.outliers) {
    case (nil, nil): break
    case (let first?, let second?):
      guard first.columns == second.columns, first.count == second.count,
        first.weights + outputs * first.count == second.weights
      else { return nil }
    default: return nil
    }
    return Int8Matrix(base, outputs: outputs + next.outputs, inputs: inputs, outliers: outliers)
  }

  /// Bytes of the panels of a matrix; a multiple of 64.
  package static func byteCount(outputs: Int, inputs: Int) -> Int { hearth_int8_bytes(outputs, inputs) }
  /// Bytes of the panels.
  package var byteCount: Int { Self.byteCount(outputs: outputs, inputs: inputs) }

  /// The scale of an output.
  package func scale(_ output: Int) -> Float {
    precondition((0..<outputs).contains(output), "output \(output) of \(outputs)")
    return panel(of: output).load(
      fromByteOffset: output % Self.panelOutputs * MemoryLayout<Float>.stride, as: Float.self)
  }

  /// The integer of a weight, in −127…127; for tests and cold code.
  package func integer(_ output: Int, _ input: Int) -> Int8 {
    precondition(
      (0..<outputs).contains(output) && (0..<inputs).contains(input),
      "weight \(output), \(input) of \(outputs) x \(inputs)")
    let group = Int(HEARTH_INT8_PANEL_HEADER) + input / 4 * 4 * Self.panelOutputs
    return panel(of: output).load(
      fromByteOffset: group + output % Self.panelOutputs * 4 + input % 4, as: Int8.self)
  }

  private func panel(of output: Int) -> UnsafeRawPointer {
    base + output / Self.panelOutputs * Self.byteCount(outputs: Self.panelOutputs, inputs: inputs)
  }

  /// Quantises float32 rows into the panels that begin at `target`.
  ///
  /// The scale of an output is its largest magnitude over 127; an integer is weight/scale, rounded to nearest even.
  /// The rows may be a part of a matrix, when they begin at a multiple of 32 outputs of it.
  package static func quantize(
    _ weight: Matrix, into target: UnsafeMutableRawPointer, using set: Int8KernelSet = .best
  ) {
    precondition(
      weight.columns <= maximumInputs,
      "\(weight.columns) inputs, at most \(maximumInputs) can be summed in 32 bits")
    let panelBytes = byteCount(outputs: panelOutputs, inputs: weight.columns)
    for first in stride(from: 0, to: weight.rows, by: panelOutputs) {
      set.kernels.pointee.pack_panel(
        weight.base + first * weight.stride, weight.stride, min(panelOutputs, weight.rows - first),
        weight.columns,
        target + first / panelOutputs * panelBytes)
    }
  }
}

/// A row as an int8 product reads it: x ≈ (integer − zero)·scale.
package struct QuantizedRow: Equatable {
  /// One a value, 0…255.
  package var integers: [UInt8]
  /// 0 for a row of zeros, NaN for a row with a value that is not finite.
  package var scale: Float
  /// The integer that stands for 0.
  package var zero: Int32

  /// Quantises a row.
  package init(_ x: UnsafePointer<Float>, count: Int, using set: Int8KernelSet = .best) {
    precondition((0...Int8Matrix.maximumInputs).contains(count), "a row of \(count) values")
    var integers = [UInt8](repeating: 0, count: count)
    var (scale, zero) = (Float(0), Int32(0))
    // An empty array has no address.
    withUnsafeTemporaryAllocation(of: UInt8.self, capacity: count + 1) { buffer in
      buffer.initialize(repeating: 0)
      if let base = buffer.baseAddress { set.kernels.pointee.quantize_row(x, count, base, &scale, &zero) }
      for index in 0..<count { integers[index] = buffer[index] }
    }
    self.integers = integers
    self.scale = scale
    self.zero = zero
  }
}

/// c = epilogue(x·wᵀ) for int8 weights; the rows of x are quantised on the way, each with its own range.
///
/// Only the products of integers are summed, exactly, so every kernel set gives the same bits (an activation apart).
package func matrixMultiply(
  _ x: Matrix, transposed w: Int8Matrix, into c: Matrix, epilogue: Epilogue = Epilogue(),
  using set: Int8KernelSet = .best, activations: KernelSet = .best
) {
  precondition(
    x.rows == c.rows && x.columns == w.inputs && w.outputs == c.columns,
    "product of \(x.rows) x \(x.columns) and (\(w.outputs) x \(w.inputs))ᵀ into \(c.rows) x \(c.columns)")
  if epilogue.activation != .none && epilogue.accumulate {
    var whole = epilogue
    whole.accumulate = false
    addThroughBlocks(of: c) { first, block in
      matrixMultiply(
        x.rowRange(first, count: block.rows), transposed: w, into: block, epilogue: whole, using: set,
        activations: activations)
    }
    return
  }
  guard let outliers = w.outliers else {
    multiplyIntegers(x, w, into: c, epilogue: epilogue, using: set, activations: activations)
    return
  }
  // The activation is of the sum of both parts.
  var rest = epilogue
  rest.activation = .none
  rest.accumulate = true
  withUnsafeTemporaryAllocation(of: Float.self, capacity: max(1, x.rows * outliers.count)) { buffer in
    guard let base = buffer.baseAddress else { return }
    for row in 0..<x.rows {
      for column in 0..<outliers.count {
        (base + row * outliers.count + column).initialize(
          to: x.base[row * x.stride + Int(outliers.columns[column])])
      }
    }
    matrixMultiply(
      Matrix(base, rows: x.rows, columns: outliers.count), .none,
      Matrix(reading: outliers.weights, rows: w.outputs, columns: outliers.count), .transposed, into: c,
      epilogue: Epilogue(scale: epilogue.scale, accumulate: epilogue.accumulate), using: activations)
  }
  multiplyIntegers(x, w, into: c, epilogue: rest, using: set, activations: activations)
  if epilogue.activation != .none { applyActivation(epilogue.activation, c, into: c, using: activations) }
}

private func multiplyIntegers(
  _ x: Matrix, _ w: Int8Matrix, into c: Matrix, epilogue: Epilogue, using set: Int8KernelSet,
  activations: KernelSet
) {
  var finish = hearth_epilogue()
  finish.bias = epilogue.bias
  finish.scale = epilogue.scale
  finish.accumulate = epilogue.accumulate ? 1 : 0
  if epilogue.activation != .none {
    finish.activate = activations.kernels.pointee.activate_tile
    finish.activation = epilogue.activation.kernelNumber
  }
  var rows = hearth_int8_rows(
    base: x.base, stride: x.stride, skipped: w.outliers?.columns, skipped_count: w.outliers?.count ?? 0)
  set.kernels.pointee.multiply(c.rows, c.columns, x.columns, &rows, w.base, c.base, c.stride, &finish)
}

/// Runs independent chains of byte products and returns the operations done, two a product.
///
/// Timing it gives the peak that an int8 product can reach.
package func runByteProductChains(iterations: Int, using set: Int8KernelSet = .best) -> Double {
  precondition(iterations >= 0, "\(iterations) iterations cannot be")
  var sink: Int32 = 1
  return set.kernels.pointee.dot_chains(iterations, &sink)
}
