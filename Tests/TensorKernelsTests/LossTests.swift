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
        let loss = set.force {
          softmaxCrossEntropy(logits: logits.view, labels: labels, into: gradient.view, gradientScale: 0.25)
        }
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
      set.force {
        var worst = 0.0
        for step in 0...8700 {
          let x = -Float(step) / 100
          let row = OwnedMatrix(rows: 1, columns: 2)
          row.view[0, 0] = 0
          row.view[0, 1] = x
          softmaxRows(row.view)
          let ratio = Double(row.view[0, 1]) / Double(row.view[0, 0])
          let exact = Reference.softmax([0, Double(x)]).probabilities
          worst = max(worst, abs(ratio / (exact[1] / exact[0]) - 1))
        }
        #expect(worst < 3e-7, "set \(set)")
        let row = OwnedMatrix(rows: 1, columns: 3)
        row.view[0, 0] = 0
        row.view[0, 1] = -.infinity
        row.view[0, 2] = -1e30
        softmaxRows(row.view)
        #expect(row.elements == [1, 0, 0], "set \(set)")
        row.view[0, 1] = .nan
        softmaxRows(row.view)
        #expect(row.view[0, 1].isNaN, "set \(set)")
      }
    }
  }

  @Test("a streamed head gives the loss and gradient of the whole logits, group by group")
  func streamedHead() {
    var generator = SeededGenerator(seed: 71)
    // 70 rows of 70 001 words are more logits than the head holds at a time.
    for (rows, words) in [(9, 41), (70, 70_001)] {
      let x = OwnedMatrix(rows: rows, columns: 4, random: &generator)
      let embedding = OwnedMatrix(rows: words, columns: 4, random: &generator)
      let labels = (0..<rows).map { $0 == 3 ? -1 : Int32(($0 * 7919) % words) }
      let dX = OwnedMatrix(rows: rows, columns: 4)
      let loss = streamedHeadCrossEntropy(
        x.view, embedding: embedding.view, scale: 0.5, labels: labels, into: dX.view)
      #expect(
        loss
          == streamedHeadCrossEntropy(
            x.view, embedding: embedding.view, scale: 0.5, labels: labels, into: nil))
      var expected = 0.0
      for row in 0..<rows where labels[row] >= 0 {
        let state = x.doubles(rows: row..<row + 1, columns: 0..<4)[0]
        let table = embedding.doubles(rows: 0..<words, columns: 0..<4)
        let scores = table.map { word in
          0.5 * (state[0] * word[0] + state[1] * word[1] + state[2] * word[2] + state[3] * word[3])
        }
        let (probabilities, logSumExp) = Reference.softmax(scores)
        let label = Int(labels[row])
        expected += logSumExp - scores[label]
        guard row < 5 || row == rows - 1 else { continue }
        for column in 0..<4 {
          var slope = -table[label][column]
          for word in 0..<words { slope += probabilities[word] * table[word][column] }
          #expect(abs(Double(dX.view[row, column]) - 0.5 * slope) < 5e-6, "\(rows) x \(words), row \(row)")
        }
      }
      #expect(abs(loss - expected) < 1e-5 * Double(rows), "\(rows) x \(words)")
      #expect(dX.view[3, 0] == 0 && dX.gapIsUntouched())
    }
  }
}
