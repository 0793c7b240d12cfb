/// How well predicted numbers agree with the true ones.
///
/// Correlations lie in -1...1. They are undefined when either side is constant or holds fewer than two rows; the
/// value is then 0, for such predictions tell nothing about the order of the rows. One non-finite prediction
/// makes all scores NaN rather than hide a diverged run.
package struct RegressionScores: Sendable, Equatable {
  /// Linear correlation.
  package var pearson: Double
  /// Correlation of the ranks, equal values sharing the mean of their ranks.
  package var spearman: Double
  /// Mean of the squared differences, in squared units of the target; 0 of no rows.
  package var meanSquaredError: Double

  /// Scores predictions against the truth.
  package init(predicted: [Double], actual: [Double]) {
    precondition(
      predicted.count == actual.count, "\(predicted.count) predictions for \(actual.count) rows")
    guard (predicted + actual).allSatisfy(\.isFinite) else {
      (pearson, spearman, meanSquaredError) = (.nan, .nan, .nan)
      return
    }
    pearson = correlation(predicted, actual)
    spearman = correlation(averagedRanks(predicted), averagedRanks(actual))
    let squares = zip(predicted, actual).reduce(0.0) { $0 + ($1.0 - $1.1) * ($1.0 - $1.1) }
    meanSquaredError = actual.isEmpty ? 0 : squares / Double(actual.count)
  }
}

/// Pearson's correlation by deviations from the means; 0 when a side is constant.
private func correlation(_ x: [Double], _ y: [Double]) -> Double {
  guard x.count > 1, x.contains(where: { $0 != x[0] }), y.contains(where: { $0 != y[0] }) else { return 0 }
  let count = Double(x.count)
  let meanX = x.reduce(0, +) / count
  let meanY = y.reduce(0, +) / count
  var (xx, yy, xy) = (0.0, 0.0, 0.0)
  for (a, b) in zip(x, y) {
    xx += (a - meanX) * (a - meanX)
    yy += (b - meanY) * (b - meanY)
    xy += (a - meanX) * (b - meanY)
  }
  // Rounding may carry a perfect correlation past 1, or a deviation too small to square down to 0.
  let scale = xx.squareRoot() * yy.squareRoot()
  return scale > 0 ? min(1, max(-1, xy / scale)) : 0
}

/// Ranks from 1; equal values get the mean of the ranks that they span.
private func averagedRanks(_ values: [Double]) -> [Double] {
  let order = values.indices.sorted { (values[$0], $0) < (values[$1], $1) }
  var ranks = Array(repeating: 0.0, count: values.count)
  var first = 0
  while first < order.count {
    var last = first
    while last + 1 < order.count, values[order[last + 1]] == values[order[first]] { last += 1 }
    for place in first...last { ranks[order[place]] = Double(first + last) / 2 + 1 }
    first = last + 1
  }
  return ranks
}
