import Determinism
import NeuralNetworks
import TensorKernels
import Testing

@Suite("A gradient accumulator")
struct GradientAccumulatorTests {
  private static let seed: UInt64 = 4_711
  private static let shapes = [
    ParameterShape("a", rows: 7, columns: 9, kind: .weight),
    ParameterShape("b", rows: 1, columns: 33, kind: .bias),
  ]
  private let tree = ParameterTree(trainable: shapes) { _, _ in }

  /// Gradients of many magnitudes for each leaf and micro-batch.
  private func gradients(microBatches: Int) -> [[[Float]]] {
    var generator = SeededGenerator(seed: Self.seed)
    return (0..<microBatches).map { _ in
      Self.shapes.map { shape in
        (0..<shape.count).map { _ in
          let magnitude = Float(sign: .plus, exponent: -generator.uniform(below: 30), significand: 1)
          return generator.normalFloat() * magnitude
        }
      }
    }
  }

  private func add(_ gradient: [[Float]], to accumulator: GradientAccumulator) {
    for (leaf, values) in zip(tree.parameters, gradient) {
      precondition(values.count == leaf.count, "\(values.count) values for \(leaf.name)")
      values.withUnsafeBufferPointer { buffer in
        if let base = buffer.baseAddress { accumulator.add(base, of: leaf) }
      }
    }
  }

  private func read(_ accumulator: GradientAccumulator) -> [Float] {
    let result = OwnedMatrix(rows: 1, columns: tree.vectorCount) { .nan }
    accumulator.read(into: result.matrix.base)
    return result.values
  }

  @Test("gives the same bits for every order of micro-batches and every split over threads")
  func orderFree() {
    let gradients = gradients(microBatches: 8)
    let inOrder = GradientAccumulator(count: tree.vectorCount, maximumContributions: 8)
    for gradient in gradients { add(gradient, to: inOrder) }
    let expected = read(inOrder)

    var generator = SeededGenerator(seed: Self.seed + 1)
    for workers in 1...4 {
      var order = Array(gradients.indices)
      generator.shuffle(&order)
      let parts = (0..<workers).map { _ in
        GradientAccumulator(count: tree.vectorCount, maximumContributions: 8)
      }
      for (turn, index) in order.enumerated() { add(gradients[index], to: parts[turn % workers]) }
      for part in parts.dropFirst().reversed() { parts[0].merge(part) }
      #expect(read(parts[0]) == expected, "\(workers) workers, order \(order), seed \(Self.seed)")
      #expect(parts[0].withSums { Array($0) } == inOrder.withSums { Array($0) })
    }
  }

  @Test("takes gradients from several threads at once and gives the bits of one thread")
  func concurrentAdds() async {
    let gradients = gradients(microBatches: 8)
    let serial = GradientAccumulator(count: tree.vectorCount, maximumContributions: 8)
    for gradient in gradients { add(gradient, to: serial) }
    for _ in 0..<50 {
      let shared = GradientAccumulator(count: tree.vectorCount, maximumContributions: 8)
      await withTaskGroup(of: Void.self) { group in
        for gradient in gradients { group.addTask { add(gradient, to: shared) } }
      }
      #expect(shared.withSums { Array($0) } == serial.withSums { Array($0) })
    }
  }

  @Test("parts of the sums read as the whole does, and a part that is zeroed leaves the rest")
  func ranges() {
    let accumulator = GradientAccumulator(count: tree.vectorCount, maximumContributions: 8)
    for gradient in gradients(microBatches: 3) { add(gradient, to: accumulator) }
    let whole = read(accumulator)
    let part = OwnedMatrix(rows: 1, columns: 40) { .nan }
    accumulator.read(17..<57, into: part.matrix.base)
    #expect(part.values == Array(whole[17..<57]))
    accumulator.zero(17..<57)
    let after = read(accumulator)
    for index in whole.indices {
      #expect(after[index] == ((17..<57).contains(index) ? 0 : whole[index]), "sum \(index)")
    }
  }

  @Test(
    "is within half a unit of the fixed point, and a float's rounding, of the exact sum",
    arguments: [Int32(44), 36, 34, 24])
  func accuracy(exponent: Int32) {
    let gradients = gradients(microBatches: 8)
    let accumulator = GradientAccumulator(
      count: tree.vectorCount, maximumContributions: 8, exponent: exponent)
    for gradient in gradients { add(gradient, to: accumulator) }
    let actual = read(accumulator)
    let unit = Double(sign: .plus, exponent: -Int(exponent), significand: 1)
    for (leaf, parameter) in tree.parameters.enumerated() {
      for index in 0..<parameter.count {
        let exact = gradients.reduce(0.0) { $0 + Double($1[leaf][index]) }
        let value = Double(actual[(parameter.gradientOffset ?? 0) + index])
        #expect(abs(value - exact) <= 4 * unit + abs(exact) * 0x1p-24)
      }
    }
  }

  @Test(
    "reports a value beyond its range, and takes it at a smaller exponent", arguments: [Float(4e7), -1e9])
  func overflow(value: Float) {
    let accumulator = GradientAccumulator(count: tree.vectorCount, maximumContributions: 8)
    let gradient = [[Float](repeating: value, count: 63), [Float](repeating: 1, count: 33)]
    add(gradient, to: accumulator)
    #expect(accumulator.overflowed)
    accumulator.reset(exponent: 24)
    #expect(!accumulator.overflowed)
    for _ in 0..<8 { add(gradient, to: accumulator) }
    #expect(!accumulator.overflowed)
    #expect(read(accumulator)[0] == 8 * value)
  }

  @Test("holds as many contributions of the largest value as it was made for")
  func headroom() {
    let accumulator = GradientAccumulator(count: tree.vectorCount, maximumContributions: 8)
    let largest = Float(0x1p25).nextDown
    for _ in 0..<8 {
      add([[Float](repeating: largest, count: 63), [Float](repeating: 0, count: 33)], to: accumulator)
    }
    #expect(!accumulator.overflowed)
    #expect(read(accumulator)[0] == 8 * largest)
  }

  @Test("the two precisions round to 2^-34 and to 2^-24, the smallest float16")
  func precisions() {
    for (precision, unit) in [
      (GradientPrecision.full, 0x1p-34), (.half, Double(Float16.leastNonzeroMagnitude)),
    ] {
      let sums = GradientSumFormat(precision).makeSums(of: tree, maximumContributions: 8)
      var gradient = [[Float](repeating: 0, count: 63), [Float](repeating: 0, count: 33)]
      gradient[1] = (0..<33).map { Float(Double($0) * unit / 4) }
      for (leaf, values) in zip(tree.parameters, gradient) { sums.add(values, of: leaf) }
      let rounded = OwnedMatrix(rows: 1, columns: tree.vectorCount) { .nan }
      sums.read(0..<tree.vectorCount, into: rounded.matrix.base)
      for index in 0..<33 {
        // Halves go to the even neighbour.
        let expected = Float((Double(index) / 4).rounded(.toNearestOrEven) * unit)
        #expect(rounded.values[(tree.parameters[1].gradientOffset ?? 0) + index] == expected)
      }
    }
  }

  @Test("coarse sums that overflow go on eight binary digits lower, once, and then call it divergence")
  func coarseOverflow() {
    let sums = GradientSumFormat.coarse64.makeSums(of: tree, maximumContributions: 8)
    sums.begin()
    let zeros = [Float](repeating: 0, count: 33)
    sums.add([Float](repeating: 0x1p34, count: 63), of: tree.parameters[0])
    #expect(sums.conclude() == .complete && sums.exponents == [24])
    sums.begin()
    sums.add([Float](repeating: 0x1p36, count: 63), of: tree.parameters[0])
    #expect(sums.conclude() == .redo && sums.exponents == [16])
    sums.zero(0..<sums.count)
    sums.begin()
    sums.add([Float](repeating: 0x1p36, count: 63), of: tree.parameters[0])
    sums.add(zeros, of: tree.parameters[1])
    #expect(sums.conclude() == .complete)
    let rounded = OwnedMatrix(rows: 1, columns: tree.vectorCount) { .nan }
    sums.read(0..<tree.vectorCount, into: rounded.matrix.base)
    #expect(rounded.values[0] == 0x1p36)
    sums.begin()
    sums.add([Float](repeating: 0x1p50, count: 63), of: tree.parameters[0])
    #expect(sums.conclude() == .diverged)
  }

  @Test("goes on with an exponent that overflows can have led to, and with no other")
  func restoredExponents() {
    func takes(_ format: GradientSumFormat, _ exponents: [Int32]) -> Bool {
      format.makeSums(of: tree, maximumContributions: 8).restore(exponents: exponents)
    }
    // 44 and 36 are where runs of earlier builds began.
    for exponent: Int32 in [34, 26, 18, 44, 36, 28, 20] {
      #expect(takes(.fixed64, [exponent]))
      #expect(!takes(.coarse64, [exponent]))
    }
    for exponent: Int32 in [24, 16] {
      #expect(takes(.coarse64, [exponent]))
      #expect(!takes(.fixed64, [exponent]))
    }
    for wrong: [Int32] in [[], [8], [52], [100], [-4], [43], [44, 44], [.min], [.max]] {
      #expect(!takes(.fixed64, wrong) && !takes(.coarse64, wrong), "\(wrong)")
    }
  }

  @Test("reports a value that is not finite", arguments: [Float.nan, .infinity, -.infinity])
  func notFinite(value: Float) {
    let accumulator = GradientAccumulator(count: tree.vectorCount, maximumContributions: 1)
    var gradient = [[Float](repeating: 0, count: 63), [Float](repeating: 0, count: 33)]
    gradient[1][32] = value
    add(gradient, to: accumulator)
    #expect(accumulator.overflowed)
  }

  @Test("passes an overflow on when merged")
  func mergedOverflow() {
    let first = GradientAccumulator(count: tree.vectorCount, maximumContributions: 2)
    let second = GradientAccumulator(count: tree.vectorCount, maximumContributions: 2)
    add([[Float](repeating: 1e10, count: 63), [Float](repeating: 0, count: 33)], to: second)
    first.merge(second)
    #expect(first.overflowed)
  }
}
