/// How well predicted classes agree with the true ones.
///
/// All values are in 0...1; of no rows at all they are 0.
package struct ClassificationScores: Sendable, Equatable {
  /// Share of rows whose class is right.
  package var accuracy: Double
  /// Harmonic mean of precision and recall.
  ///
  /// With two classes it is that of the positive class, which is the last one (label 1 of 0 and 1), as GLUE
  /// reports MRPC and QQP. With more classes it is the plain mean over the classes that occur (macro F1). A
  /// class that is never predicted, or never right, counts 0.
  package var f1: Double

  /// Scores predictions against the truth; both hold class indices below `classCount`.
  package init(predicted: [Int], actual: [Int], classCount: Int) {
    precondition(
      predicted.count == actual.count, "\(predicted.count) predictions for \(actual.count) rows")
    var hits = Array(repeating: 0, count: classCount)
    var predictions = hits
    var occurrences = hits
    for (guess, truth) in zip(predicted, actual) {
      precondition(
        (0..<classCount).contains(guess) && (0..<classCount).contains(truth),
        "class \(guess) or \(truth) is outside 0..<\(classCount)")
      predictions[guess] += 1
      occurrences[truth] += 1
      if guess == truth { hits[guess] += 1 }
    }
    accuracy = actual.isEmpty ? 0 : Double(hits.reduce(0, +)) / Double(actual.count)
    // 2·precision·recall / (precision + recall), with the fractions cleared.
    func classF1(_ label: Int) -> Double {
      let denominator = predictions[label] + occurrences[label]
      return denominator == 0 ? 0 : 2 * Double(hits[label]) / Double(denominator)
    }
    if classCount == 2 {
      f1 = classF1(1)
    } else {
      let present = (0..<classCount).filter { predictions[$0] + occurrences[$0] > 0 }
      f1 = present.isEmpty ? 0 : present.map(classF1).reduce(0, +) / Double(present.count)
    }
  }
}

/// Share of generated texts that equal the wanted ones, without white space at the ends; 0 of no texts.
package func exactMatch(predicted: [String], actual: [String]) -> Double {
  precondition(predicted.count == actual.count, "\(predicted.count) predictions for \(actual.count) rows")
  guard !actual.isEmpty else { return 0 }
  let matches = zip(predicted, actual).count { $0.trimmingSpaces() == $1.trimmingSpaces() }
  return Double(matches) / Double(actual.count)
}
