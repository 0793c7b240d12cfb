import Determinism
import TensorKernels
import Testing

@Suite("Optimizer and exact sums")
struct OptimizerKernelTests {
  @Test("Twenty AdamW steps follow the published update in double precision")
  func adamWFollowsThePaper() {
    let seed: UInt64 = 1_711
    for set in KernelSet.available {
      var random = SeededGenerator(seed: seed)
      let count = 37
      var parameters = (0..<count).map { _ in random.normalFloat() }
      var (m, v) = ([Float](repeating: 0, count: count), [Float](repeating: 0, count: count))
      var expected = parameters.map { (parameter: Double($0), m: 0.0, v: 0.0) }
      for step in 1...20 {
        let gradients = (0..<count).map { _ in random.normalFloat() }
        let s = AdamWStep(
          learningRate: 0.01, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.1, step: step,
          gradientScale: 0.25)
        adamW(s, parameters: &parameters, gradients: gradients, m: &m, v: &v, count: count, using: set)
        for i in 0..<count {
          expected[i] = Reference.adamW(
            s, parameter: expected[i].parameter, gradient: Double(gradients[i]), m: expected[i].m,
            v: expected[i].v)
        }
      }
      #expect(
        largestError(parameters, expected.map { Float($0.parameter) }) < 2e-6, "\(set.name), seed \(seed)")
      #expect(largestError(m, expected.map { Float($0.m) }) < 1e-6)
      #expect(largestError(v, expected.map { Float($0.v) }) < 1e-6)
    }
  }

  @Test("Fixed-point sums are the exact integers of the definition in every kernel set")
  func fixedPointMatchesTheDefinition() {
    let seed: UInt64 = 640
    var random = SeededGenerator(seed: seed)
    let exponent: Int32 = 44
    var values: [Float] = [
      0, 0x1p-45, 0x1.8p-44, -0x1p-45, 0x1.4p-43, 1, -1, 0x1.fffffep16, -0x1.fffffep16, 1e-30,
    ]
    for _ in 0..<3000 {
      values.append(
        random.normalFloat() * Float(sign: .plus, exponent: random.uniform(below: 60) - 46, significand: 1))
    }
    for set in KernelSet.available {
      var sums = [Int64](repeating: 7, count: values.count)
      let fits = accumulateFixedPoint(
        values, count: values.count, exponent: exponent, limitBits: 61, into: &sums, using: set)
      #expect(fits)
      #expect(
        sums == values.map { Reference.fixedPoint($0, exponent: exponent) + 7 }, "\(set.name), seed \(seed)")
    }
  }

  @Test(
    "Scaled sums are the rounded integers of the definition in every kernel set, with the largest magnitude")
  func scaledSumsMatchTheDefinition() {
    let seed: UInt64 = 641
    var random = SeededGenerator(seed: seed)
    var values: [Float] = [
      0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0x1p28, -0x1p28, 0x1.fffffep27, 4194303.5, -4194304.5,
    ]
    for _ in 0..<3001 {
      let size = Float(sign: .plus, exponent: random.uniform(below: 56) - 30, significand: 1)
      values.append(max(-0x1p28, min(0x1p28, random.normalFloat() * size)))
    }
    for exponent in [-3, 0, 20] as [Int32] {
      let scale = Float(sign: .plus, exponent: -Int(exponent), significand: 1)
      let scaled = values.map { $0 * scale }
      for set in KernelSet.available {
        for count in [values.count, 3, 16, 33] {
          var sums = [Int32](repeating: 7, count: count)
          let largest = accumulateScaled(scaled, count: count, exponent: exponent, into: &sums, using: set)
          #expect(
            sums == values.prefix(count).map { Int32($0.rounded(.toNearestOrEven)) + 7 },
            "\(set.name), exponent \(exponent), seed \(seed)")
          #expect(largest == scaled.prefix(count).map(\.magnitude).max())
          #expect(largestMagnitude(scaled, count: count, using: set) == largest)
          var floats = [Float](repeating: .nan, count: count)
          scaledToFloat(sums, count: count, exponent: exponent, into: &floats, using: set)
          #expect(floats == sums.map { Float($0) * scale })
        }
      }
    }
  }

  @Test(
    "The largest magnitude tells infinities and values that are no numbers",
    arguments: [Float.nan, .infinity])
  func largestMagnitudeOfNoNumber(value: Float) {
    for set in KernelSet.available {
      for place in [0, 15, 16, 18] {
        var values = [Float](repeating: 1, count: 19)
        values[place] = -value
        var sums = [Int32](repeating: 0, count: 19)
        let largest = accumulateScaled(values, count: 19, exponent: 3, into: &sums, using: set)
        #expect(largest.bitPattern == value.magnitude.bitPattern, "\(set.name)")
        #expect(largestMagnitude(values, count: 19, using: set).bitPattern == value.magnitude.bitPattern)
      }
    }
  }

  @Test("No order of addition changes a fixed-point sum")
  func orderIsFree() {
    let seed: UInt64 = 3
    var random = SeededGenerator(seed: seed)
    let count = 50
    var parts = (0..<9).map { _ in (0..<count).map { _ in random.normalFloat() * 1000 } }
    func sum(_ parts: [[Float]]) -> [Int64] {
      var sums = [Int64](repeating: 0, count: count)
      for part in parts {
        #expect(accumulateFixedPoint(part, count: count, exponent: 40, limitBits: 58, into: &sums))
      }
      return sums
    }
    let first = sum(parts)
    for _ in 0..<5 {
      random.shuffle(&parts)
      #expect(sum(parts) == first, "seed \(seed)")
      var merged = sum(Array(parts[0..<4]))
      let rest = sum(Array(parts[4...]))
      addFixedPoint(rest, count: count, into: &merged)
      #expect(merged == first, "seed \(seed)")
    }
  }

  @Test("A value at the limit, an infinity or a NaN anywhere is flagged")
  func overflowIsFlagged() {
    for set in KernelSet.available {
      for bad in [Float(0x1p10), -0x1p10, .infinity, -.infinity, .nan] {
        for place in [0, 15, 16, 40] {
          var values = [Float](repeating: 0x1.fffffep9, count: 41)
          var sums = [Int64](repeating: 0, count: 41)
          #expect(
            accumulateFixedPoint(values, count: 41, exponent: 48, limitBits: 58, into: &sums, using: set))
          values[place] = bad
          let fits = accumulateFixedPoint(
            values, count: 41, exponent: 48, limitBits: 58, into: &sums, using: set)
          #expect(!fits, "\(set.name) \(bad) at \(place)")
        }
      }
    }
  }

  @Test("A float32 that fixed point holds exactly comes back unchanged")
  func fixedPointRoundTrip() {
    var random = SeededGenerator(seed: 21)
    let values = (0..<100).map { _ in random.normalFloat() }
    var sums = [Int64](repeating: 0, count: 100)
    var back = [Float](repeating: 0, count: 100)
    #expect(accumulateFixedPoint(values, count: 100, exponent: 50, limitBits: 60, into: &sums))
    fixedPointToFloat(sums, count: 100, exponent: 50, into: &back)
    #expect(back == values)
  }

  @Test("Sums of squares and dot products have the same bits in every kernel set")
  func dotProductIsTheSameEverywhere() {
    let seed: UInt64 = 14
    var random = SeededGenerator(seed: seed)
    for columns in [1, 15, 16, 100, 769] {
      let a = MatrixFixture(rows: 3, columns: columns, stride: columns + 2, random: &random)
      let b = MatrixFixture(rows: 3, columns: columns, random: &random)
      let exact = zip(a.values, b.values).reduce(0.0) { $0 + Double($1.0) * Double($1.1) }
      let results = KernelSet.available.map { dotProduct(a.matrix, b.matrix, using: $0) }
      #expect(results.allSatisfy { $0 == results[0] }, "\(columns) columns, seed \(seed)")
      #expect((Double(results[0]) - exact).magnitude <= 1e-6 * (1 + exact.magnitude))
      let squares = KernelSet.available.map {
        sumOfSquares(b.matrix.base, count: b.matrix.columns, using: $0)
      }
      #expect(squares.allSatisfy { $0 == squares[0] }, "\(columns) columns, seed \(seed)")
    }
  }

  @Test("A block that one kernel set packs is unpacked by every other")
  func packedBlocksAreTheSameInEverySet() {
    var random = SeededGenerator(seed: 642)
    for width in 0...64 {
      let values = (0..<packedBlockCount).map { _ in
        width == 0 ? 0 : Int64(bitPattern: random.next()) >> Int64(64 - width)
      }
      var first: [UInt8]?
      for set in KernelSet.available {
        var widths: [UInt8] = [255]
        packedWidths(values, blocks: 1, into: &widths, using: set)
        #expect(widths == [UInt8(width)], "\(set.name)")
        var bytes = [UInt8](repeating: 0, count: packedBlockBytes(width: widths[0]))
        packBlock(values, width: widths[0], into: &bytes, using: set)
        #expect(bytes == first ?? bytes, "\(set.name)")
        first = bytes
        for other in KernelSet.available {
          var back = [Int64](repeating: 7, count: packedBlockCount)
          unpackBlock(bytes, width: widths[0], into: &back, using: other)
          #expect(back == values, "\(set.name), \(other.name)")
        }
      }
    }
  }
}
