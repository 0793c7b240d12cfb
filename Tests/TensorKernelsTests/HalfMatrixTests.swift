import Determinism
import TensorKernels
import Testing

@Suite("Products of 16-bit weights")
struct HalfMatrixTests {
  static let shapes: [(Int, Int, Int)] = [
    (1, 1, 1), (3, 33, 5), (64, 130, 17), (65, 130, 48), (128, 96, 96), (20, 48, 2048), (257, 40, 1030),
  ]

  @Test("bfloat16 rounds to nearest even, keeps infinities and does not make NaN finite")
  func roundsToBfloat16() {
    // Bit patterns by hand: the upper half, plus one when the lower half is above a half, or equal and odd above.
    let cases: [(UInt32, UInt16)] = [
      (0x3F80_0000, 0x3F80), (0x3F80_8000, 0x3F80), (0x3F81_8000, 0x3F82), (0x3F80_8001, 0x3F81),
      (0x3F80_7FFF, 0x3F80), (0xBF80_8001, 0xBF81), (0x7F80_0000, 0x7F80), (0xFF80_0000, 0xFF80),
      (0x7F7F_FFFF, 0x7F80), (0x0000_0000, 0x0000), (0x8000_0000, 0x8000), (0x7F80_0001, 0x7FC0),
      (0x7FC0_0000, 0x7FC0),
    ]
    for set in KernelSet.available {
      var next = cases.makeIterator()
      let x = MatrixFixture(rows: 1, columns: cases.count) { Float(bitPattern: next.next()?.0 ?? 0) }
      var y = [UInt16](repeating: 0, count: cases.count)
      #expect(encodeHalf(x.matrix, .bfloat16, into: &y, using: set) == 0)
      #expect(y == cases.map(\.1), "\(set.name)")
    }
  }

  @Test("Decoding gives what the bit patterns mean", arguments: [HalfFormat.float16, .bfloat16])
  func decodes(format: HalfFormat) {
    let patterns = (0..<UInt16(65_000)).filter { format == .bfloat16 || $0 & 0x7C00 != 0x7C00 }
    for set in KernelSet.available {
      let y = MatrixFixture(rows: 1, columns: patterns.count)
      let half = OwnedHalfMatrix(patterns, rows: 1, format: format)
      half.matrix.decode(into: y.matrix, using: set)
      let isExpected = y.values.map(\.bitPattern) == patterns.map { meaning($0, format).bitPattern }
      #expect(isExpected, "\(set.name)")
      #expect(y.marginsAreUntouched)
    }
  }

  @Test(
    "A product has the bits of the packed float32 product of the expanded weights",
    arguments: [HalfFormat.float16, .bfloat16])
  func equalsTheExpandedProduct(format: HalfFormat) {
    var random = SeededGenerator(seed: 16)
    for set in KernelSet.available {
      for (m, n, k) in Self.shapes {
        let x = MatrixFixture(rows: m, columns: k, stride: k + 3, random: &random)
        let bias = MatrixFixture(rows: 1, columns: n, random: &random)
        let weights = (0..<n * k).map { _ in bits(random.normalFloat(), format) }
        let half = OwnedHalfMatrix(weights, rows: n, format: format)
        let whole = MatrixFixture(rows: n, columns: k)
        half.matrix.decode(into: whole.matrix)
        // A relu keeps the float32 product away from OpenBLAS, whose chains are others; with one row or the portable
        // set's few columns both go the packed way already.
        let epilogue = Epilogue(bias: bias.matrix.base, activation: .relu, scale: 0.5)
        let c = MatrixFixture(rows: m, columns: n, stride: n + 2)
        let expected = MatrixFixture(rows: m, columns: n, stride: n + 2)
        matrixMultiply(x.matrix, transposed: half.matrix, into: c.matrix, epilogue: epilogue, using: set)
        matrixMultiply(
          x.matrix, .none, whole.matrix, .transposed, into: expected.matrix, epilogue: epilogue, using: set)
        if set.index > 0 {
          let isEqual = c.values == expected.values
          #expect(isEqual, "\(set.name) \(m) x \(n) x \(k)")
        } else {
          #expect(largestError(c.values, expected.values) < 1e-5, "\(set.name) \(m) x \(n) x \(k)")
        }
        #expect(c.marginsAreUntouched)
      }
    }
  }

  private func bits(_ value: Float, _ format: HalfFormat) -> UInt16 {
    format == .float16 ? Float16(value).bitPattern : UInt16(value.bitPattern >> 16)
  }

  private func meaning(_ pattern: UInt16, _ format: HalfFormat) -> Float {
    format == .float16 ? Float(Float16(bitPattern: pattern)) : Float(bitPattern: UInt32(pattern) << 16)
  }
}

/// A 16-bit matrix that owns its memory.
private final class OwnedHalfMatrix {
  let matrix: HalfMatrix
  private let storage: UnsafeMutableBufferPointer<UInt16>

  init(_ elements: [UInt16], rows: Int, format: HalfFormat) {
    storage = .allocate(capacity: elements.count)
    _ = storage.initialize(from: elements)
    matrix = HalfMatrix(storage.baseAddress!, rows: rows, columns: elements.count / rows, format: format)
  }

  deinit { storage.deallocate() }
}
