import Determinism
import TensorKernels
import Testing

@Suite("Row encoding")
struct RowEncodingTests {
  private func encode(_ values: [Float], _ element: ActivationElement, _ set: KernelSet) -> (
    bytes: [UInt8], misfits: Int
  ) {
    var source = values.makeIterator()
    let x = MatrixFixture(rows: 1, columns: values.count) { source.next() ?? .nan }
    var bytes = [UInt8](repeating: 0xAA, count: element.rowBytes(width: values.count))
    let misfits = bytes.withUnsafeMutableBytes {
      encodeRows(
        x.matrix, into: EncodedRows($0.baseAddress!, rows: 1, width: values.count, element: element),
        using: set)
    }
    return (bytes, misfits)
  }

  private func decode(_ bytes: [UInt8], width: Int, _ element: ActivationElement, _ set: KernelSet) -> [Float]
  {
    var bytes = bytes
    let y = MatrixFixture(rows: 1, columns: width)
    bytes.withUnsafeMutableBytes {
      decodeRows(
        EncodedRows($0.baseAddress!, rows: 1, width: width, element: element), into: y.matrix, using: set)
    }
    return y.values
  }

  @Test("All 65,536 half-precision values decode exactly, subnormals too")
  func decodesEveryHalf() {
    let patterns = (0...UInt16.max).map { $0 }
    let bytes = patterns.flatMap { [UInt8(truncatingIfNeeded: $0), UInt8($0 >> 8)] }
    for set in KernelSet.available {
      let values = decode(bytes, width: patterns.count, .float16, set)
      for (pattern, value) in zip(patterns, values) {
        let expected = Float(Float16(bitPattern: pattern))
        #expect(
          value.bitPattern == expected.bitPattern || (value.isNaN && expected.isNaN),
          "\(set.name) 0x\(String(pattern, radix: 16)): \(value)")
      }
    }
  }

  @Test("Float16 rounds to nearest even: ties, subnormals, the largest value and random values")
  func roundsToNearestEven() {
    let seed: UInt64 = 404
    var random = SeededGenerator(seed: seed)
    var values: [Float] = [
      0, -0.0, 1, 1 + 0x1p-11, 1 + 0x1.8p-10, 0x1p-24, 0x1p-25, 0x1.8p-25, 0x1.000002p-25, -0x1p-14,
      0x1.ffcp-15,
      0x1.ffep-15, 0x1.fffp-15, 65504, -65504, 2049, 2050, 2051, 6.1e-5, 1e-10,
    ]
    for _ in 0..<5000 {
      values.append(
        random.normalFloat() * Float(sign: .plus, exponent: random.uniform(below: 40) - 28, significand: 1))
    }
    values.removeAll { $0.magnitude > 65504 }
    for set in KernelSet.available {
      let (bytes, misfits) = encode(values, .float16, set)
      #expect(misfits == 0)
      for (index, value) in values.enumerated() {
        let stored = UInt16(bytes[2 * index]) | UInt16(bytes[2 * index + 1]) << 8
        #expect(stored == Float16(value).bitPattern, "\(set.name) \(value), seed \(seed)")
      }
    }
  }

  @Test(
    "Values that do not fit are counted: above 65504 and not finite for float16, not finite for the others")
  func countsMisfits() {
    let values: [Float] =
      (0..<45).map { Float($0) } + [65505, -70_000, .infinity, -.infinity, .nan, 3, 65504]
    for set in KernelSet.available {
      #expect(encode(values, .float16, set).misfits == 5, "\(set.name)")
      #expect(encode(values, .int8, set).misfits == 3, "\(set.name)")
      #expect(encode(values, .float32, set).misfits == 3, "\(set.name)")
    }
  }

  @Test("An int8 row is off by at most half a step of max|x| / 127, and a row of zeros stays zero")
  func int8StaysWithinHalfAStep() {
    let seed: UInt64 = 8
    var random = SeededGenerator(seed: seed)
    for set in KernelSet.available {
      for width in [1, 3, 16, 33, 768] {
        let values = (0..<width).map { _ in random.normalFloat() * 30 }
        let step = (values.map(\.magnitude).max() ?? 0) / 127
        let decoded = decode(encode(values, .int8, set).bytes, width: width, .int8, set)
        for (value, back) in zip(values, decoded) {
          #expect((value - back).magnitude <= step * 0.50001, "\(set.name) width \(width), seed \(seed)")
        }
        let zeros = [Float](repeating: 0, count: width)
        #expect(decode(encode(zeros, .int8, set).bytes, width: width, .int8, set) == zeros)
      }
    }
  }

  @Test("Float32 rows come back bit for bit")
  func float32IsExact() {
    var random = SeededGenerator(seed: 12)
    let values = (0..<77).map { _ in random.normalFloat() }
    let bytes = encode(values, .float32, .best).bytes
    #expect(decode(bytes, width: 77, .float32, .best) == values)
  }
}
