import Determinism
import TensorKernels
import Testing

private let kinds: [Activation] = [.none, .relu, .gelu, .geluTanh]

@Suite("Activations")
struct ActivationTests {
  @Test("values are within 2e-7 and slopes within 5e-7 of the exact function over −12 … 12", arguments: kinds)
  func accuracy(kind: Activation) {
    let count = 24_001
    let x = OwnedMatrix(rows: 1, columns: count)
    let y = OwnedMatrix(rows: 1, columns: count)
    let slope = OwnedMatrix(rows: 1, columns: count)
    let ones = OwnedMatrix(rows: 1, columns: count)
    for index in 0..<count {
      x.view[0, index] = Float(index - 12_000) / 1000
      ones.view[0, index] = 1
    }
    for set in supportedSets {
      do {
        applyActivation(kind, x.view, into: y.view, using: set)
        activationBackward(kind, input: x.view, gradient: ones.view, into: slope.view, using: set)
      }
      var worst = 0.0
      var worstSlope = 0.0
      for index in 0..<count {
        let input = Double(x.view[0, index])
        let error = abs(Double(y.view[0, index]) - Reference.activation(kind, input))
        worst = max(worst, error / max(1, abs(input)))
        worstSlope = max(
          worstSlope, abs(Double(slope.view[0, index]) - Reference.activationSlope(kind, input)))
      }
      #expect(worst <= 2e-7, "set \(set)")
      #expect(worstSlope <= 5e-7, "set \(set)")
    }
  }

  @Test("the reference's slopes are the slopes of its values", arguments: kinds)
  func referenceSlopes(kind: Activation) {
    for index in -40...40 {
      let x = Double(index) / 8 + 0.01
      let step = 1e-5
      let rise = Reference.activation(kind, x + step) - Reference.activation(kind, x - step)
      #expect(abs(rise / (2 * step) - Reference.activationSlope(kind, x)) < 1e-8, "at \(x)")
    }
  }

  @Test("huge inputs stay finite and approach their limits", arguments: kinds)
  func extremes(kind: Activation) {
    let x = OwnedMatrix(rows: 1, columns: 5)
    let dx = OwnedMatrix(rows: 1, columns: 5)
    for (index, value) in [Float(-1e15), 1e15, -30, 30, 0].enumerated() { x.view[0, index] = value }
    for set in supportedSets {
      let y = OwnedMatrix(rows: 1, columns: 5)
      let ones = OwnedMatrix(rows: 1, columns: 5, filler: 1)
      do {
        applyActivation(kind, x.view, into: y.view, using: set)
        activationBackward(kind, input: x.view, gradient: ones.view, into: dx.view, using: set)
      }
      let lower: Float = kind == .none ? -1e15 : 0
      #expect(abs(y.view[0, 0] - lower) < 1e-6 && y.view[0, 1] == 1e15, "set \(set)")
      #expect(y.view[0, 4] == 0 && dx.view[0, 3] == 1 && dx.view[0, 1] == 1, "set \(set)")
    }
  }

  @Test("gated units multiply, and their gradients follow the product rule", arguments: kinds)
  func gated(kind: Activation) {
    var generator = SeededGenerator(seed: 31)
    for columns in [1, 7, 16, 67, 130] {
      let g = OwnedMatrix(rows: 3, columns: columns, random: &generator, scale: 2)
      let u = OwnedMatrix(rows: 3, columns: columns, gap: 0, random: &generator)
      let dy = OwnedMatrix(rows: 3, columns: columns, random: &generator)
      for set in supportedSets {
        let y = OwnedMatrix(rows: 3, columns: columns)
        let dg = OwnedMatrix(rows: 3, columns: columns)
        let du = OwnedMatrix(rows: 3, columns: columns)
        do {
          gatedActivation(kind, gate: g.view, linear: u.view, into: y.view, using: set)
          gatedActivationBackward(
            kind, gate: g.view, linear: u.view, gradient: dy.view, gateGradient: dg.view,
            linearGradient: du.view, using: set)
        }
        for row in 0..<3 {
          for column in 0..<columns {
            let gate = Double(g.view[row, column])
            let linear = Double(u.view[row, column])
            let gradient = Double(dy.view[row, column])
            let value = Reference.activation(kind, gate)
            let slope = Reference.activationSlope(kind, gate)
            #expect(abs(Double(y.view[row, column]) - value * linear) < 1e-5)
            #expect(abs(Double(du.view[row, column]) - value * gradient) < 1e-5)
            #expect(abs(Double(dg.view[row, column]) - slope * linear * gradient) < 1e-5)
          }
        }
        #expect(y.gapIsUntouched() && dg.gapIsUntouched() && du.gapIsUntouched())
      }
    }
  }

  @Test("an element's bits do not depend on its place in the row, and results may overwrite operands")
  func placeAndAliasing() {
    var generator = SeededGenerator(seed: 37)
    let x = OwnedMatrix(rows: 1, columns: 70, random: &generator)
    for set in supportedSets {
      do {
        let whole = OwnedMatrix(rows: 1, columns: 70)
        applyActivation(.gelu, x.view, into: whole.view, using: set)
        let part = OwnedMatrix(rows: 1, columns: 41)
        applyActivation(.gelu, x.view.columnRange(29, count: 41), into: part.view, using: set)
        #expect(Array(whole.elements[29...]) == part.elements)
        let inPlace = OwnedMatrix(rows: 1, columns: 70)
        for column in 0..<70 { inPlace.view[0, column] = x.view[0, column] }
        applyActivation(.gelu, inPlace.view, into: inPlace.view, using: set)
        #expect(inPlace.elements == whole.elements)
      }
    }
  }
}
