import Determinism
import TensorKernels
import Testing

@Suite("Normalisation")
struct NormalizationTests {
  @Test("forward and backward equal the reference for any width", arguments: [NormKind.rms, .layer])
  func matchesReference(kind: NormKind) {
    for (index, columns) in [1, 5, 16, 17, 96, 131, 768].enumerated() {
      var generator = SeededGenerator(seed: UInt64(41 + index))
      let rows = 4
      let x = OwnedMatrix(rows: rows, columns: columns, random: &generator)
      // A large mean shows whether the variance cancels.
      for row in 0..<rows { for column in 0..<columns { x.view[row, column] += 30 } }
      let dy = OwnedMatrix(rows: rows, columns: columns, gap: 1, random: &generator)
      let weight = (0..<columns).map { _ in generator.normalFloat() }
      let bias = (0..<columns).map { _ in generator.normalFloat() }
      for set in supportedSets {
        let y = OwnedMatrix(rows: rows, columns: columns)
        let dx = OwnedMatrix(rows: rows, columns: columns, filler: 0.5)
        var statistics = [Float](repeating: .nan, count: rows * 2)
        var dWeight = [Float](repeating: 1, count: columns)
        var dBias = [Float](repeating: 2, count: columns)
        do {
          normForward(
            kind, x.view, weight: weight, bias: kind == .layer ? bias : nil, epsilon: 1e-3, into: y.view,
            statistics: &statistics, using: set)
          normBackward(
            kind, input: x.view, weight: weight, statistics: statistics, gradient: dy.view, into: dx.view,
            accumulate: true, weightGradient: &dWeight, biasGradient: &dBias, using: set)
        }
        var expectedWeight = [Double](repeating: 1, count: columns)
        var expectedBias = [Double](repeating: 2, count: columns)
        for row in 0..<rows {
          let values = x.doubles(rows: row..<row + 1, columns: 0..<columns)[0]
          let normalized = Reference.normalized(kind, values, epsilon: 1e-3).row
          let g = (0..<columns).map { Double(dy.view[row, $0]) * Double(weight[$0]) }
          let gradient = Reference.normGradient(kind, values, g: g, epsilon: 1e-3)
          for column in 0..<columns {
            let shift = kind == .layer ? Double(bias[column]) : 0
            let value = normalized[column] * Double(weight[column]) + shift
            #expect(abs(Double(y.view[row, column]) - value) < 3e-5, "set \(set), \(columns) columns")
            #expect(
              abs(Double(dx.view[row, column]) - gradient[column] - 0.5) < 1e-4,
              "set \(set), \(columns) columns")
            expectedWeight[column] += Double(dy.view[row, column]) * normalized[column]
            expectedBias[column] += Double(dy.view[row, column])
          }
        }
        for column in 0..<columns {
          #expect(abs(Double(dWeight[column]) - expectedWeight[column]) < 1e-4)
          #expect(abs(Double(dBias[column]) - expectedBias[column]) < 1e-5)
        }
        #expect(y.gapIsUntouched() && dx.gapIsUntouched(filler: 0.5))
      }
    }
  }

  @Test("the reference's gradient is the slope of its output", arguments: [NormKind.rms, .layer])
  func referenceGradient(kind: NormKind) {
    var generator = SeededGenerator(seed: 47)
    let x = (0..<6).map { _ in Double(generator.normalFloat()) }
    let g = (0..<6).map { _ in Double(generator.normalFloat()) }
    func loss(_ x: [Double]) -> Double {
      zip(Reference.normalized(kind, x, epsilon: 0.01).row, g).map { $0 * $1 }.reduce(0, +)
    }
    let gradient = Reference.normGradient(kind, x, g: g, epsilon: 0.01)
    for index in x.indices {
      var up = x
      var down = x
      up[index] += 1e-5
      down[index] -= 1e-5
      #expect(abs((loss(up) - loss(down)) / 2e-5 - gradient[index]) < 1e-8)
    }
  }

  @Test(
    "adding a residual first, and working in place, give the same bits", arguments: [NormKind.rms, .layer])
  func residualAndAliasing(kind: NormKind) {
    var generator = SeededGenerator(seed: 53)
    let x = OwnedMatrix(rows: 3, columns: 77, random: &generator)
    let r = OwnedMatrix(rows: 3, columns: 77, random: &generator)
    let weight = (0..<77).map { _ in generator.normalFloat() }
    for set in supportedSets {
      do {
        let stream = OwnedMatrix(rows: 3, columns: 77, gap: 0)
        let sum = OwnedMatrix(rows: 3, columns: 77)
        for row in 0..<3 {
          for column in 0..<77 {
            stream.view[row, column] = x.view[row, column]
            sum.view[row, column] = x.view[row, column] + r.view[row, column]
          }
        }
        let y = OwnedMatrix(rows: 3, columns: 77)
        addNormForward(
          kind, residual: stream.view, r.view, weight: weight, bias: nil, epsilon: 1e-6, into: y.view,
          statistics: nil, using: set)
        #expect(stream.elements == sum.elements)
        normForward(
          kind, sum.view, weight: weight, bias: nil, epsilon: 1e-6, into: sum.view, statistics: nil,
          using: set)
        #expect(y.elements == sum.elements)
      }
    }
  }
}
