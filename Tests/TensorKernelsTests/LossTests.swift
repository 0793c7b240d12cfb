import Determinism
import TensorKernels
import Testing

@Suite("Losses")
struct LossTests {
  @Test("cross-entropy and its gradient equal the reference, and negative labels count for nothing")
  func crossEntropy() {
    for (index, columns) in [2, 3, 16, 33, 1000].enumerated() {
      var generator = SeededGenerator(seed: UInt64(61 + index))
      let logits = OwnedMatrix(rows: 5, columns: columns, random: &generator, scale: 3)
      logits.view[0, 1] = 1e4
      let labels: [Int32] = [1, 0, -1, Int32(columns - 1), 0]
      for set in supportedSets {
        let gradient = OwnedMatrix(rows: 5, columns: columns)
        let loss = softmaxCrossEntropy(
          logits: logits.view, labels: labels, into: gradient.view, gradientScale: 0.25, using: set)
        var expected = 0.0
        for row in 0..<5 {
          let scores = logits.doubles(rows: row..<row + 1, columns: 0..<columns)[0]
          let (probabilities, logSumExp) = Reference.softmax(scores)
          let label = Int(labels[row])
          if label >= 0 { expected += logSumExp - scores[label] }
          for column in 0..<columns {
            let slope = label < 0 ? 0 : 0.25 * (probabilities[column] - (column == label ? 1 : 0))
            #expect(abs(Double(gradient.view[row, column]) - slope) < 2e-7, "set \(set), \(columns) classes")
          }
        }
        #expect(abs(loss - expected) < 5e-6 * Double(5), "set \(set), \(columns) classes")
        #expect(gradient.gapIsUntouched())
      }
    }
  }

  @Test("softmax rows sum to one whatever their size")
  func softmax() {
    var generator = SeededGenerator(seed: 67)
    for columns in [1, 4, 15, 16, 17, 300] {
      let x = OwnedMatrix(rows: 2, columns: columns, random: &generator, scale: 5)
      let expected = (0..<2).map { row in
        Reference.softmax(x.doubles(rows: row..<row + 1, columns: 0..<columns)[0]).probabilities
      }
      softmaxRows(x.view)
      for row in 0..<2 {
        for column in 0..<columns {
          #expect(abs(Double(x.view[row, column]) - expected[row][column]) < 2e-7)
        }
      }
      #expect(x.gapIsUntouched())
    }
  }

  @Test("the exponential is within 2 units in the last place, exactly 0 at −∞ and NaN at NaN")
  func exponential() {
    // softmax of (0, x) times its denominator is exp(x) relative to exp(0).
    for set in supportedSets {
      do {
        var worst = 0.0
        for step in 0...8700 {
          let x = -Float(step) / 100
          let row = OwnedMatrix(rows: 1, columns: 2)
          row.view[0, 0] = 0
          row.view[0, 1] = x
          softmaxRows(row.view, using: set)
          let ratio = Double(row.view[0, 1]) / Double(row.view[0, 0])
          let exact = Reference.softmax([0, Double(x)]).probabilities
          worst = max(worst, abs(ratio / (exact[1] / exact[0]) - 1))
        }
        #expect(worst < 3e-7, "set \(set)")
        let row = OwnedMatrix(rows: 1, columns: 3)
        row.view[0, 0] = 0
        row.view[0, 1] = -.infinity
        row.view[0, 2] = -1e30
        softmaxRows(row.view, using: set)
        #expect(row.elements == [1, 0, 0], "set \(set)")
        row.view[0, 1] = .nan
        softmaxRows(row.view, using: set)
        #expect(row.view[0, 1].isNaN, "set \(set)")
      }
    }
  }

  @Test(
    "a streamed head gives the loss and gradient of the whole logits, block by block",
    arguments: [
      (rows: 9, words: 41, width: 4), (rows: 70, words: 1_003, width: 67), (rows: 64, words: 500, width: 40),
      (rows: 3, words: 20_001, width: 16), (rows: 1, words: 1, width: 1),
    ], [false, true])
  func streamedHead(size: (rows: Int, words: Int, width: Int), biased: Bool) {
    let (rows, words, width) = size
    var generator = SeededGenerator(seed: 71)
    let x = OwnedMatrix(rows: rows, columns: width, random: &generator)
    let embedding = OwnedMatrix(rows: words, columns: width, random: &generator)
    // Late words with large scores: what was summed before them has to shrink.
    for word in [words / 2, words - 1] {
      for column in 0..<width { embedding.view[word, column] *= 6 }
    }
    let labels = (0..<rows).map { $0 == 2 ? -1 : Int32(($0 * 7919) % words) }
    let biases = (0..<words).map { _ in biased ? 2 * generator.normalFloat() : 0 }
    var expected = 0.0
    var slopes: [[Double]] = []
    let table = embedding.doubles(rows: 0..<words, columns: 0..<width)
    for row in 0..<rows {
      let state = x.doubles(rows: row..<row + 1, columns: 0..<width)[0]
      let (probabilities, logSumExp) = Reference.softmax(
        zip(table, biases).map { word, bias in
          0.5 * zip(state, word).reduce(0) { $0 + $1.0 * $1.1 } + Double(bias)
        })
      var slope = [Double](repeating: 0, count: width)
      if labels[row] >= 0 {
        let label = Int(labels[row])
        expected +=
          logSumExp - 0.5 * zip(state, table[label]).reduce(0) { $0 + $1.0 * $1.1 } - Double(biases[label])
        for (word, values) in table.enumerated() {
          let share = probabilities[word] - (word == label ? 1 : 0)
          for column in 0..<width { slope[column] += 0.5 * share * values[column] }
        }
      }
      slopes.append(slope)
    }
    for set in supportedSets {
      let dX = OwnedMatrix(rows: rows, columns: width)
      let loss = streamedHeadCrossEntropy(
        x.view, embedding: embedding.view, scale: 0.5, bias: biased ? biases : nil, labels: labels,
        into: dX.view, using: set)
      #expect(
        loss
          == streamedHeadCrossEntropy(
            x.view, embedding: embedding.view, scale: 0.5, bias: biases, labels: labels, into: nil, using: set
          ),
        "set \(set.name)")
      #expect(abs(loss - expected) < 1e-5 * Double(rows), "set \(set.name)")
      for row in 0..<rows {
        for column in 0..<width {
          #expect(
            abs(Double(dX.view[row, column]) - slopes[row][column]) < 1e-5, "set \(set.name), row \(row)")
        }
      }
      #expect(dX.gapIsUntouched())
    }
  }

  @Test("scores of a streamed head that are not finite give a loss that is not finite")
  func streamedHeadNotFinite() {
    var generator = SeededGenerator(seed: 73)
    let x = OwnedMatrix(rows: 2, columns: 8, random: &generator)
    let embedding = OwnedMatrix(rows: 300, columns: 8, random: &generator)
    x.view[1, 3] = .nan
    for set in supportedSets {
      let loss = streamedHeadCrossEntropy(
        x.view, embedding: embedding.view, scale: 1, labels: [5, 250], into: nil, using: set)
      #expect(!loss.isFinite, "set \(set.name)")
    }
  }
}
