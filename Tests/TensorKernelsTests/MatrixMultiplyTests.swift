import Determinism
import TensorKernels
import Testing

@Suite("Matrix products")
struct MatrixMultiplyTests {
  /// Rows, columns, depth: edges of the register tile, of panels and of blocks, and both back ends.
  static let shapes: [(Int, Int, Int)] = [
    (1, 1, 1), (1, 33, 5), (14, 32, 16), (15, 31, 17), (29, 8, 40), (13, 40, 385), (128, 96, 96),
    (257, 9, 33), (3, 1600, 7), (240, 48, 3), (260, 270, 280), (5, 16, 800), (40, 2, 64),
  ]

  @Test("Every kernel set agrees with the definition for all transpositions, strides and shapes")
  func agreesWithTheDefinition() {
    let seed: UInt64 = 20_241
    var random = SeededGenerator(seed: seed)
    for set in KernelSet.available {
      for (m, n, k) in Self.shapes {
        for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
          let a = MatrixFixture(
            rows: ta ? k : m, columns: ta ? m : k, stride: (ta ? m : k) + random.uniform(below: 5),
            random: &random)
          let b = MatrixFixture(
            rows: tb ? n : k, columns: tb ? k : n, stride: (tb ? k : n) + random.uniform(below: 5),
            random: &random)
          let c = MatrixFixture(rows: m, columns: n, stride: n + 3)
          let (left, right): (Transposition, Transposition) = (
            ta ? .transposed : .none, tb ? .transposed : .none
          )
          matrixMultiply(a.matrix, left, b.matrix, right, into: c.matrix, using: set)
          let expected = Reference.product(a.matrix, left, b.matrix, right)
          let error = largestError(c.values, expected) / Float(k).squareRoot()
          #expect(error < 2e-6, "\(set.name) \(m) x \(n) x \(k) \(left) \(right), seed \(seed)")
          #expect(c.marginsAreUntouched, "\(set.name) \(m) x \(n) x \(k)")
        }
      }
    }
  }

  @Test("The epilogue scales, adds the bias, applies the activation and accumulates")
  func appliesTheEpilogue() {
    let seed: UInt64 = 77
    var random = SeededGenerator(seed: seed)
    for set in KernelSet.available {
      for (m, n, k) in [(37, 45, 400), (3, 8, 2), (257, 256, 256)] {
        for activation in [Activation.none, .relu, .gelu, .geluTanh] {
          for accumulate in [false, true] {
            let a = MatrixFixture(rows: m, columns: k, random: &random)
            let b = MatrixFixture(rows: n, columns: k, random: &random)
            let bias = MatrixFixture(rows: 1, columns: n, random: &random)
            let c = MatrixFixture(rows: m, columns: n, stride: n + 1, random: &random)
            let before = c.values
            let scale: Float = 0.125
            matrixMultiply(
              a.matrix, .none, b.matrix, .transposed, into: c.matrix,
              epilogue: Epilogue(
                bias: bias.matrix.base, activation: activation, scale: scale, accumulate: accumulate),
              using: set)
            let linear = Reference.product(
              a.matrix, .none, b.matrix, .transposed, bias: bias.matrix.base, scale: scale)
            var values = linear.makeIterator()
            let activated = MatrixFixture(rows: m, columns: n) { values.next() ?? .nan }
            applyActivation(activation, activated.matrix, into: activated.matrix)
            let expected = zip(activated.values, before).map { accumulate ? $0 + $1 : $0 }
            #expect(
              largestError(c.values, expected) < 1e-5,
              "\(set.name) \(m) x \(n) x \(k) \(activation) accumulate \(accumulate), seed \(seed)")
            #expect(c.marginsAreUntouched)
          }
        }
      }
    }
  }

  @Test("An activation in the epilogue gives the same bits as a separate pass")
  func fusedActivationIsTheSeparatePass() {
    var random = SeededGenerator(seed: 5)
    let a = MatrixFixture(rows: 61, columns: 70, random: &random)
    let b = MatrixFixture(rows: 45, columns: 70, random: &random)
    for activation in [Activation.relu, .gelu, .geluTanh] {
      let fused = MatrixFixture(rows: 61, columns: 45)
      let apart = MatrixFixture(rows: 61, columns: 45)
      matrixMultiply(
        a.matrix, .none, b.matrix, .transposed, into: fused.matrix, epilogue: Epilogue(activation: activation)
      )
      matrixMultiply(a.matrix, .none, b.matrix, .transposed, into: apart.matrix)
      applyActivation(activation, apart.matrix, into: apart.matrix)
      #expect(fused.values == apart.values, "\(activation)")
    }
  }

  @Test(
    "A product depends on operands and shape only: neither alignment, rows around it nor repetition change a bit"
  )
  func isDeterministic() {
    var random = SeededGenerator(seed: 9)
    for (m, n, k) in [(61, 96, 768), (128, 40, 500), (300, 300, 300)] {
      let a = MatrixFixture(rows: m, columns: k, random: &random)
      let b = MatrixFixture(rows: n, columns: k, random: &random)
      let first = MatrixFixture(rows: m, columns: n)
      matrixMultiply(a.matrix, .none, b.matrix, .transposed, into: first.matrix)
      for offset in [1, 3, 7] {
        var source = a.values.makeIterator()
        let moved = MatrixFixture(rows: m, columns: k, stride: k + offset, offset: offset) {
          source.next() ?? .nan
        }
        let again = MatrixFixture(rows: m, columns: n, stride: n + offset, offset: offset)
        matrixMultiply(moved.matrix, .none, b.matrix, .transposed, into: again.matrix)
        #expect(again.values == first.values, "\(m) x \(n) x \(k) offset \(offset)")
      }
    }
  }

  @Test("A few rows, which meet a large matrix where it lies, give the same bits as among many rows")
  func fewRowsAreRowsOfMany() {
    var random = SeededGenerator(seed: 83)
    let bias = MatrixFixture(rows: 1, columns: 131, random: &random)
    // 1,024 columns put rows a multiple of 4 KiB apart, 900 make more than one block of the depth.
    for depth in [1, 37, 900, 1_024] {
      let many = MatrixFixture(rows: 200, columns: depth, random: &random)
      let weight = MatrixFixture(rows: 131, columns: depth, random: &random)
      for set in KernelSet.available where set != .best || set.index != 0 {
        for activation in [Activation.none, .gelu] {
          for accumulate in [false, true] where activation == .none || !accumulate {
            let epilogue = Epilogue(
              bias: UnsafePointer(bias.matrix.base), activation: activation, scale: 0.7,
              accumulate: accumulate)
            let all = MatrixFixture(rows: 200, columns: 131) { 0.25 }
            matrixMultiply(
              many.matrix, .none, weight.matrix, .transposed, into: all.matrix, epilogue: epilogue, using: set
            )
            for rows in [1, 5, 16, 33, 64] {
              let few = MatrixFixture(rows: rows, columns: 131, stride: 133) { 0.25 }
              matrixMultiply(
                many.matrix.rowRange(3, count: rows), .none, weight.matrix, .transposed, into: few.matrix,
                epilogue: epilogue, using: set)
              #expect(
                few.values == Array(all.values[3 * 131..<(3 + rows) * 131]),
                "set \(set.name), \(rows) rows of depth \(depth), \(activation), accumulate \(accumulate)")
              #expect(few.marginsAreUntouched)
            }
          }
        }
      }
    }
  }

  @Test("A product from encoded rows is the product of the decoded rows")
  func decodesWhileItMultiplies() {
    let seed: UInt64 = 31
    var random = SeededGenerator(seed: seed)
    for set in KernelSet.available {
      for element in ActivationElement.allCases {
        for (rows, width, out) in [(33, 96, 24), (1, 7, 3), (130, 768, 96), (257, 65, 8)] {
          let x = MatrixFixture(rows: rows, columns: width, random: &random)
          let bytes = UnsafeMutableRawPointer.allocate(
            byteCount: rows * element.rowBytes(width: width), alignment: 64)
          defer { bytes.deallocate() }
          let encoded = EncodedRows(bytes, rows: rows, width: width, element: element)
          #expect(encodeRows(x.matrix, into: encoded, using: set) == 0)
          let decoded = MatrixFixture(rows: rows, columns: width)
          decodeRows(encoded, into: decoded.matrix, using: set)

          let weight = MatrixFixture(rows: out, columns: width, random: &random)
          let y = MatrixFixture(rows: rows, columns: out)
          decodeMultiply(encoded, weight: weight.matrix, into: y.matrix, using: set)
          let product = Reference.product(decoded.matrix, .none, weight.matrix, .transposed)
          #expect(
            largestError(y.values, product) < 2e-6 * Float(width).squareRoot(),
            "\(set.name) \(element) \(rows) x \(width), seed \(seed)")

          let dy = MatrixFixture(rows: rows, columns: out, random: &random)
          let dW = MatrixFixture(rows: out, columns: width) { 0.5 }
          decodeWeightGradient(dy.matrix, encoded, into: dW.matrix, accumulate: true, using: set)
          let gradient = Reference.product(dy.matrix, .transposed, decoded.matrix, .none).map { $0 + 0.5 }
          #expect(
            largestError(dW.values, gradient) < 2e-6 * Float(rows).squareRoot(),
            "\(set.name) \(element) \(rows) x \(width), seed \(seed)")
        }
      }
    }
  }
}
