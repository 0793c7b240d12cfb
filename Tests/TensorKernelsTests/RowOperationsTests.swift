import Determinism
import TensorKernels
import Testing

@Suite("Row operations")
struct RowOperationsTests {
  @Test("Sums, blends, look-ups and squared errors follow their definitions on strided rows")
  func followTheirDefinitions() {
    let seed: UInt64 = 555
    var random = SeededGenerator(seed: seed)
    let a = MatrixFixture(rows: 5, columns: 19, stride: 23, random: &random)
    let b = MatrixFixture(rows: 5, columns: 19, random: &random)
    let c = MatrixFixture(rows: 5, columns: 19, stride: 20)

    var sums = [Float](repeating: 1, count: 19)
    columnSums(a.matrix, into: &sums, accumulate: true)
    let expectedSums = (0..<19).map { column in (0..<5).reduce(Float(1)) { $0 + a.matrix[$1, column] } }
    #expect(sums == expectedSums)

    blendRows(a.matrix, b.matrix, weight: 0.25, into: c.matrix)
    #expect(largestError(c.values, zip(a.values, b.values).map { 0.25 * $0 + 0.75 * $1 }) < 1e-6)
    let before = c.values
    addRows(a.matrix, into: c.matrix, scale: -2)
    #expect(largestError(c.values, zip(before, a.values).map { $0 - 2 * $1 }) < 1e-6)
    #expect(c.marginsAreUntouched)

    let ids: [Int32] = [4, 0, 4]
    let y = MatrixFixture(rows: 3, columns: 19) { 1 }
    gatherRows(a.matrix, ids, count: 3, into: y.matrix, accumulate: true)
    #expect(y.values == ids.flatMap { id in (0..<19).map { a.matrix[Int(id), $0] + 1 } })

    let prediction = MatrixFixture(rows: 3, columns: 1, random: &random)
    let target: [Float] = [0.5, -1, 2]
    let gradient = MatrixFixture(rows: 3, columns: 1)
    let loss = squaredError(
      prediction: prediction.matrix, target: target, into: gradient.matrix, gradientScale: 0.5)
    let differences = zip(prediction.values, target).map { $0 - $1 }
    #expect(abs(loss - differences.reduce(0.0) { $0 + Double($1) * Double($1) }) < 1e-12)
    #expect(gradient.values == differences)
  }
}
