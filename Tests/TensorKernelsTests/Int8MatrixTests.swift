import Determinism
import TensorKernels
import Testing

@Suite("Products of int8 weights")
struct Int8MatrixTests {
  /// Rows, outputs, inputs: edges of the register tiles of every instruction, of panels, of groups of four inputs and
  /// of blocks of rows.
  static let shapes: [(Int, Int, Int)] = [
    (1, 1, 1), (2, 31, 3), (3, 32, 4), (7, 33, 5), (14, 40, 63), (15, 64, 64), (29, 8, 65), (43, 100, 130),
    (260, 96, 96), (190, 16, 3072), (13, 24, 4096), (1, 768, 256),
  ]

  @Test("Every instruction gives the exact sums of the quantised integers, to the last bit of the result")
  func givesTheExactSums() {
    var random = SeededGenerator(seed: 8)
    for (m, n, k) in Self.shapes {
      let x = MatrixFixture(rows: m, columns: k, stride: k + 5, random: &random)
      let w = MatrixFixture(rows: n, columns: k, stride: k + 1, random: &random)
      let bias = MatrixFixture(rows: 1, columns: n, random: &random)
      let before = MatrixFixture(rows: m, columns: n, random: &random)
      let packed = PackedInt8(w.matrix)
      let rows = (0..<m).map { QuantizedRow(x.matrix.base + $0 * x.matrix.stride, count: k) }
      for (scale, hasBias, accumulate) in [(Float(1), false, false), (0.5, true, false), (1, true, true)] {
        var expected: [Float] = []
        for i in 0..<m {
          for j in 0..<n {
            var sum: Int64 = 0
            for t in 0..<k {
              sum += (Int64(rows[i].integers[t]) - Int64(rows[i].zero)) * Int64(packed.matrix.integer(j, t))
            }
            var y = Float(sum) * (packed.matrix.scale(j) * (rows[i].scale * scale))
            if hasBias { y += bias.matrix[0, j] }
            if accumulate { y += before.matrix[i, j] }
            expected.append(y)
          }
        }
        for set in Int8KernelSet.available {
          let c = MatrixFixture(rows: m, columns: n, stride: n + 3) { 0 }
          for i in 0..<m { for j in 0..<n { c.matrix[i, j] = before.matrix[i, j] } }
          matrixMultiply(
            x.matrix, transposed: packed.matrix, into: c.matrix,
            epilogue: Epilogue(bias: hasBias ? bias.matrix.base : nil, scale: scale, accumulate: accumulate),
            using: set)
          let isExact = c.values == expected
          #expect(isExact, "\(set.name) \(m) x \(n) x \(k), \(scale) \(hasBias) \(accumulate)")
          #expect(c.marginsAreUntouched, "\(set.name) \(m) x \(n) x \(k)")
        }
      }
    }
  }

  @Test("Rows and weights at their extremes saturate nothing, with as many inputs as are allowed")
  func saturatesNothing() {
    // 255 · 127 in every place: pairs of products are beyond 16 bits, and the sums just under 32.
    for inputs in [2, 4, 4096, Int8Matrix.maximumInputs] {
      for sign in [Float(1), -1] {
        let x = MatrixFixture(rows: 5, columns: inputs) { 1 }
        let w = MatrixFixture(rows: 33, columns: inputs) { sign }
        let packed = PackedInt8(w.matrix)
        for set in Int8KernelSet.available {
          let c = MatrixFixture(rows: 5, columns: 33)
          matrixMultiply(x.matrix, transposed: packed.matrix, into: c.matrix, using: set)
          let expected = sign * Float(inputs)
          #expect(
            c.values.allSatisfy { ($0 - expected).magnitude <= 1e-6 * Float(inputs) },
            "\(set.name) \(inputs): \(c.values[0]), not \(expected)")
        }
      }
    }
  }

  @Test("A weight's integer is its share of the row's largest magnitude, rounded to nearest even")
  func quantisesWeights() {
    let values: [Float] = [127, -127, 0.5, 1.5, -0.5, -2.5, 63.49, 0]
    var next = values.makeIterator()
    let w = MatrixFixture(rows: 2, columns: 4) { next.next() ?? 0 }
    let packed = PackedInt8(w.matrix)
    #expect((0..<4).map { packed.matrix.integer(0, $0) } == [127, -127, 0, 2])
    #expect(packed.matrix.scale(0) == 1)
    // 127/63.49 times −0.5, −2.5, 63.49 and 0: −1.0002, −5.0008, 127, 0.
    #expect((0..<4).map { packed.matrix.integer(1, $0) } == [-1, -5, 127, 0])
    #expect((packed.matrix.scale(1) - 63.49 / 127).magnitude < 1e-7)
  }

  @Test("A row's range reaches from its least to its largest value and holds 0 exactly")
  func quantisesRows() {
    for set in Int8KernelSet.available {
      #expect(row([0, 51, 255], set) == Row([0, 51, 255], 1, 0), "\(set.name)")
      #expect(row([-255, -51, 0], set) == Row([0, 204, 255], 1, 255), "\(set.name)")
      #expect(row([-55, 200, 0.4, -0.6], set) == Row([0, 255, 55, 54], 1, 55), "\(set.name)")
      // Both ends of the range round up: the larger is clamped.
      #expect(row([-127.5, 127.5], set) == Row([0, 255], 1, 128), "\(set.name)")
      // Positive alone: the range begins at 0.
      #expect(row([10, 20, 51], set) == Row([50, 100, 255], 51 * (1 / 255), 0), "\(set.name)")
      #expect(row([0, 0, 0], set) == Row([0, 0, 0], 0, 0), "\(set.name)")
    }
  }

  @Test(
    "A row with an infinity or NaN gives NaN, not a number", arguments: [Float.infinity, -.infinity, .nan])
  func showsNonFiniteValues(value: Float) {
    var random = SeededGenerator(seed: 3)
    let w = MatrixFixture(rows: 40, columns: 50, random: &random)
    let packed = PackedInt8(w.matrix)
    for place in [0, 17, 49] {
      let x = MatrixFixture(rows: 3, columns: 50, random: &random)
      x.matrix[1, place] = value
      for set in Int8KernelSet.available {
        let c = MatrixFixture(rows: 3, columns: 40)
        matrixMultiply(x.matrix, transposed: packed.matrix, into: c.matrix, using: set)
        #expect(c.values[40..<80].allSatisfy { $0.isNaN }, "\(set.name) at \(place)")
        #expect((c.values[0..<40] + c.values[80...]).allSatisfy { $0.isFinite })
      }
    }
  }

  @Test("A row's result does not depend on the rows beside it, so cuts and threads change no bit")
  func rowsAreIndependent() {
    var random = SeededGenerator(seed: 21)
    let x = MatrixFixture(rows: 300, columns: 200, random: &random)
    let w = MatrixFixture(rows: 64, columns: 200, random: &random)
    let packed = PackedInt8(w.matrix)
    for set in Int8KernelSet.available {
      let whole = MatrixFixture(rows: 300, columns: 64)
      matrixMultiply(
        x.matrix, transposed: packed.matrix, into: whole.matrix, epilogue: Epilogue(activation: .gelu),
        using: set)
      let parts = MatrixFixture(rows: 300, columns: 64)
      for (first, count) in [(0, 1), (1, 13), (14, 250), (264, 36)] {
        matrixMultiply(
          x.matrix.rowRange(first, count: count), transposed: packed.matrix,
          into: parts.matrix.rowRange(first, count: count), epilogue: Epilogue(activation: .gelu), using: set)
      }
      let isEqual = whole.values == parts.values
      #expect(isEqual, "\(set.name)")
    }
  }

  @Test("The product is near the float32 product: within 1.5 % of its norm for normal values")
  func isNearTheExactProduct() {
    var random = SeededGenerator(seed: 99)
    let x = MatrixFixture(rows: 33, columns: 768, random: &random)
    let w = MatrixFixture(rows: 100, columns: 768, random: &random)
    let packed = PackedInt8(w.matrix)
    let exact = Reference.product(x.matrix, .none, w.matrix, .transposed)
    let c = MatrixFixture(rows: 33, columns: 100)
    matrixMultiply(x.matrix, transposed: packed.matrix, into: c.matrix)
    let error = zip(c.values, exact).reduce(0.0) { $0 + Double(($1.0 - $1.1) * ($1.0 - $1.1)) }
    let norm = exact.reduce(0.0) { $0 + Double($1 * $1) }
    #expect(error > 0 && (error / norm).squareRoot() < 0.015, "\((error / norm).squareRoot())")
  }

  @Test("An activation, alone and onto what the result held, is that of the float32 product")
  func appliesActivations() {
    var random = SeededGenerator(seed: 4)
    let x = MatrixFixture(rows: 50, columns: 70, random: &random)
    let w = MatrixFixture(rows: 45, columns: 70, random: &random)
    let before = MatrixFixture(rows: 50, columns: 45, random: &random)
    let packed = PackedInt8(w.matrix)
    for activation in [Activation.relu, .gelu, .geluTanh] {
      let linear = MatrixFixture(rows: 50, columns: 45)
      matrixMultiply(x.matrix, transposed: packed.matrix, into: linear.matrix)
      let expected = MatrixFixture(rows: 50, columns: 45)
      applyActivation(activation, linear.matrix, into: expected.matrix)
      for set in Int8KernelSet.available {
        let c = MatrixFixture(rows: 50, columns: 45, stride: 47)
        matrixMultiply(
          x.matrix, transposed: packed.matrix, into: c.matrix, epilogue: Epilogue(activation: activation),
          using: set)
        let isEqual = c.values == expected.values
        #expect(isEqual, "\(set.name) \(activation)")
        for i in 0..<50 { for j in 0..<45 { c.matrix[i, j] = before.matrix[i, j] } }
        matrixMultiply(
          x.matrix, transposed: packed.matrix, into: c.matrix,
          epilogue: Epilogue(activation: activation, accumulate: true), using: set)
        let isSum = c.values == zip(expected.values, before.values).map { $0 + $1 }
        #expect(isSum, "\(set.name) \(activation)")
      }
    }
  }

  @Test("Outlier columns are multiplied in float32, and their values leave the others' scale alone")
  func multipliesOutliersApart() {
    var random = SeededGenerator(seed: 12)
    let (m, n, k) = (37, 70, 130)
    let columns: [UInt32] = [0, 63, 129]
    let x = MatrixFixture(rows: m, columns: k, stride: k + 2, random: &random)
    let w = MatrixFixture(rows: n, columns: k, random: &random)
    let bias = MatrixFixture(rows: 1, columns: n, random: &random)
    let without = MatrixFixture(rows: m, columns: k)
    let part = MatrixFixture(rows: m, columns: columns.count)
    let partWeights = MatrixFixture(rows: n, columns: columns.count)
    for i in 0..<m {
      for (place, column) in columns.enumerated() {
        x.matrix[i, Int(column)] *= 1_000
        part.matrix[i, place] = x.matrix[i, Int(column)]
      }
      for j in 0..<k { without.matrix[i, j] = columns.contains(UInt32(j)) ? 0 : x.matrix[i, j] }
    }
    for j in 0..<n {
      for (place, column) in columns.enumerated() { partWeights.matrix[j, place] = w.matrix[j, Int(column)] }
    }
    let packed = PackedInt8(w.matrix)
    let exact = Reference.product(part.matrix, .none, partWeights.matrix, .transposed)
    columns.withUnsafeBufferPointer { numbers in
      guard let base = numbers.baseAddress else { return }
      let outliers = OutlierColumns(
        columns: base, count: numbers.count, weights: UnsafePointer(partWeights.matrix.base))
      let matrix = Int8Matrix(packed.matrix.base, outputs: n, inputs: k, outliers: outliers)
      for set in Int8KernelSet.available {
        let rest = MatrixFixture(rows: m, columns: n)
        matrixMultiply(without.matrix, transposed: packed.matrix, into: rest.matrix, using: set)
        for (activation, accumulate) in [
          (Activation.none, false), (.none, true), (.relu, false), (.relu, true),
        ] {
          let c = MatrixFixture(rows: m, columns: n, stride: n + 1) { 3 }
          matrixMultiply(
            x.matrix, transposed: matrix, into: c.matrix,
            epilogue: Epilogue(bias: bias.matrix.base, activation: activation, accumulate: accumulate),
            using: set)
          let expected = (0..<m * n).map { index -> Float in
            let sum = exact[index] + rest.values[index] + bias.matrix[0, index % n]
            return (activation == .relu ? max(0, sum) : sum) + (accumulate ? 3 : 0)
          }
          #expect(largestError(c.values, expected) < 3e-5, "\(set.name) \(activation) \(accumulate)")
          #expect(c.marginsAreUntouched)
        }
      }
    }
  }

  private struct Row: Equatable {
    var integers: [UInt8]
    var scale: Float
    var zero: Int32

    init(_ integers: [UInt8], _ scale: Float, _ zero: Int32) {
      (self.integers, self.scale, self.zero) = (integers, scale, zero)
    }
  }

  private func row(_ values: [Float], _ set: Int8KernelSet) -> Row {
    let row = QuantizedRow(values, count: values.count, using: set)
    return Row(row.integers, row.scale, row.zero)
  }
}

/// An int8 matrix that owns its memory.
final class PackedInt8 {
  let matrix: Int8Matrix
  private let arena: Arena

  init(_ weight: Matrix) {
    arena = Arena(floatCount: Int8Matrix.byteCount(outputs: weight.rows, inputs: weight.columns) / 4)
    Int8Matrix.quantize(weight, into: arena.base)
    matrix = Int8Matrix(arena.base, outputs: weight.rows, inputs: weight.columns)
  }
}
