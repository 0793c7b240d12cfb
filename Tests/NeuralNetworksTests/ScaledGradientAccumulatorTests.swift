import Determinism
import NeuralNetworks
import TensorKernels
import Testing

@Suite("A scaled gradient accumulator")
struct ScaledGradientAccumulatorTests {
  private static let seed: UInt64 = 811
  private static let shapes = [
    ParameterShape("a", rows: 7, columns: 9, kind: .weight),
    ParameterShape("b", rows: 1, columns: 33, kind: .bias),
    ParameterShape("c", rows: 300, columns: 500, kind: .weight),
  ]
  private let tree = ParameterTree(trainable: shapes) { _, _ in }
  private static let contributions = 8

  /// Gradients whose leaves differ by many powers of two.
  private func gradients(scale: Float = 1, seed: UInt64 = seed) -> [[[Float]]] {
    var generator = SeededGenerator(seed: seed)
    return (0..<Self.contributions).map { _ in
      zip(Self.shapes, [Float(0x1p-20), 300, 0x1p-3]).map { shape, size in
        (0..<shape.count).map { _ in generator.normalFloat() * size * scale }
      }
    }
  }

  private func accumulator() -> ScaledGradientAccumulator {
    ScaledGradientAccumulator(tree, maximumContributions: Self.contributions)
  }

  private func add(_ gradient: [[Float]], to accumulator: any GradientSums) {
    for (leaf, values) in zip(tree.parameters, gradient) { accumulator.add(values, of: leaf) }
  }

  /// One step in the order given: the outcome of each attempt.
  @discardableResult
  private func step(
    _ accumulator: any GradientSums, _ gradients: [[[Float]]], order: [Int]? = nil
  ) -> [GradientSumOutcome] {
    var outcomes: [GradientSumOutcome] = []
    repeat {
      accumulator.zero(0..<accumulator.count)
      accumulator.begin()
      for index in order ?? Array(gradients.indices) { add(gradients[index], to: accumulator) }
      outcomes.append(accumulator.conclude())
    } while outcomes.last == .redo && outcomes.count < 5
    return outcomes
  }

  private func read(_ accumulator: any GradientSums) -> [Float] {
    var result = [Float](repeating: .nan, count: accumulator.count)
    accumulator.read(0..<accumulator.count, into: &result)
    return result
  }

  @Test("computes the first step twice, and later ones of the same size once")
  func firstStep() {
    let accumulator = accumulator()
    #expect(step(accumulator, gradients()) == [.redo, .complete])
    for seed in 1..<20 as Range<UInt64> {
      #expect(step(accumulator, gradients(seed: seed)) == [.complete], "seed \(seed)")
    }
  }

  @Test("gives the same bits for every order of micro-batches")
  func orderFree() {
    let (first, other) = (accumulator(), accumulator())
    var generator = SeededGenerator(seed: 5)
    for seed in 1..<5 as Range<UInt64> {
      // The third step overflows.
      let gradients = gradients(scale: seed == 3 ? 1000 : 1, seed: seed)
      var order = Array(gradients.indices)
      generator.shuffle(&order)
      #expect(step(first, gradients) == step(other, gradients, order: order))
      #expect(first.withSums { Array($0) } == other.withSums { Array($0) }, "step \(seed), order \(order)")
      #expect(first.exponents == other.exponents)
    }
  }

  @Test("takes gradients, whole or by rows, from several threads at once and gives the bits of one thread")
  func concurrentAdds() async {
    let gradients = gradients()
    let (serial, shared) = (accumulator(), accumulator())
    step(serial, gradients)
    step(shared, gradients)
    for _ in 0..<20 {
      shared.zero(0..<shared.count)
      shared.begin()
      await withTaskGroup(of: Void.self) { group in
        for gradient in gradients { group.addTask { add(gradient, to: shared) } }
      }
      #expect(shared.conclude() == .complete)
      #expect(shared.withSums { Array($0) } == serial.withSums { Array($0) })
    }
  }

  @Test("is within the bound of its headroom of the exact sum, in each leaf by the leaf's own size")
  func accuracy() {
    let (gradients, accumulator) = (gradients(), accumulator())
    step(accumulator, gradients)
    let actual = read(accumulator)
    for (leaf, parameter) in tree.parameters.enumerated() {
      let largest = gradients.reduce(0) { max($0, $1[leaf].reduce(0) { max($0, $1.magnitude) }) }
      // 30 bits less three for eight values and four of headroom: 2^23 units are at least half the largest value.
      let unit = Double(largest) * 2 * 0x1p-23
      for index in 0..<parameter.count {
        let exact = gradients.reduce(0.0) { $0 + Double($1[leaf][index]) }
        let value = Double(actual[(parameter.gradientOffset ?? 0) + index])
        #expect(abs(value - exact) <= 8 * unit / 2 + abs(exact) * 0x1p-24)
      }
    }
  }

  @Test(
    "a step that has outgrown its exponents is computed again once, and then exact to the new size",
    arguments: [Float(20), 1e6, 1e30])
  func overflow(growth: Float) {
    let accumulator = accumulator()
    step(accumulator, gradients())
    let large = gradients(scale: growth)
    #expect(step(accumulator, large) == [.redo, .complete])
    // The exponents follow the size alone: a fresh accumulator ends with the same bits.
    let fresh = self.accumulator()
    step(fresh, large)
    #expect(accumulator.withSums { Array($0) } == fresh.withSums { Array($0) })
  }

  @Test("a value may grow by the headroom without a second computation")
  func headroom() {
    let accumulator = accumulator()
    step(accumulator, gradients())
    let growth = Float(1 << (ScaledGradientAccumulator.headroomBits - 1))
    #expect(step(accumulator, gradients(scale: growth)) == [.complete])
  }

  @Test("holds as many of the largest values as it was made for")
  func largestValues() {
    let accumulator = accumulator()
    let ones = [[[Float]]](
      repeating: Self.shapes.map { [Float](repeating: 1, count: $0.count) }, count: Self.contributions)
    step(accumulator, ones)
    let largest = Float(0x1p4).nextDown
    let large = ones.map { $0.map { $0.map { $0 * largest } } }
    #expect(step(accumulator, large) == [.complete])
    #expect(read(accumulator)[0] == 8 * largest)
  }

  @Test("exponents rise slowly when gradients shrink, and the sums stay exact to the old size")
  func shrinking() {
    let accumulator = accumulator()
    step(accumulator, gradients())
    let before = accumulator.exponents
    for count in 1...6 as ClosedRange<Int32> {
      #expect(step(accumulator, gradients(scale: 0x1p-12)) == [.complete])
      #expect(accumulator.exponents == before.map { $0 + count })
    }
  }

  @Test("a leaf without any gradient reads as zero and has its exponent found when one comes")
  func silentLeaf() {
    let accumulator = accumulator()
    var quiet = gradients()
    for index in quiet.indices { quiet[index][1] = [Float](repeating: 0, count: 33) }
    #expect(step(accumulator, quiet) == [.redo, .complete])
    #expect(accumulator.exponents[1] == ScaledGradientAccumulator.unknownExponent)
    let offset = tree.parameters[1].gradientOffset ?? 0
    #expect(read(accumulator)[offset..<offset + 33].allSatisfy { $0 == 0 })
    #expect(step(accumulator, gradients()) == [.redo, .complete])
    #expect(accumulator.exponents[1] < 100)
  }

  @Test("parts of the sums read as the whole does, and a part that is zeroed leaves the rest")
  func ranges() {
    let accumulator = accumulator()
    step(accumulator, gradients())
    let whole = read(accumulator)
    for range in [0..<1, 17..<57, 60..<80, 63..<64, 64..<97, 90..<150_000, 149_000..<accumulator.count] {
      var part = [Float](repeating: .nan, count: range.count)
      accumulator.read(range, into: &part)
      #expect(part == Array(whole[range]), "\(range)")
    }
    accumulator.zero(17..<70)
    let after = read(accumulator)
    #expect(after[17..<70].allSatisfy { $0 == 0 })
    #expect(after[..<17] == whole[..<17] && after[70...] == whole[70...])
  }

  @Test("a value that is not finite is a divergence", arguments: [Float.nan, .infinity, -.infinity])
  func notFinite(value: Float) {
    var gradients = gradients()
    let accumulator = accumulator()
    #expect(step(accumulator, gradients).last == .complete)
    gradients[3][2][149_999] = value
    #expect(step(accumulator, gradients) == [.diverged])
    #expect(step(self.accumulator(), gradients) == [.diverged])
  }

  @Test("restored exponents go on with the same bits; those of other parameters are refused")
  func restored() {
    let (first, second) = (accumulator(), accumulator())
    for seed in 1..<4 as Range<UInt64> { step(first, gradients(scale: Float(seed), seed: seed)) }
    #expect(second.restore(exponents: first.exponents))
    let next = gradients(scale: 0.01, seed: 9)
    #expect(step(first, next) == [.complete])
    #expect(step(second, next) == [.complete])
    #expect(first.withSums { Array($0) } == second.withSums { Array($0) })
    #expect(first.exponents == second.exponents)
    #expect(!second.restore(exponents: [1, 2]))
    #expect(!second.restore(exponents: [1, 2, 4000]))
  }
}
