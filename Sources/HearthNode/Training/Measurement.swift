package import FineTuning
import Glibc

/// Metrics of predictions against targets; the task's main metric comes first.
package enum Measurement {
  /// The metrics of `predictions`, one row of scores (or one value) a sample.
  package static func metrics(
    _ predictions: [Float], samples: [TrainingSample], task: AdapterTask
  ) -> [MetricValue] {
    switch task {
    case .classify(let labels):
      let actual = samples.map { sample in
        if case .label(let label) = sample.target { Int(label) } else { 0 }
      }
      let predicted = samples.indices.map { best(predictions, row: $0, columns: labels.count) }
      let scores = ClassificationScores(predicted: predicted, actual: actual, classCount: labels.count)
      return [
        MetricValue(name: "accuracy", value: scores.accuracy), MetricValue(name: "f1", value: scores.f1),
      ]
    case .regress(let mean, let deviation):
      let actual = samples.map { sample in
        if case .value(let value) = sample.target { mean + deviation * Double(value) } else { 0.0 }
      }
      let predicted = samples.indices.map { mean + deviation * Double(predictions[$0]) }
      let scores = RegressionScores(predicted: predicted, actual: actual)
      return [
        MetricValue(name: "spearman", value: scores.spearman),
        MetricValue(name: "pearson", value: scores.pearson),
        MetricValue(name: "mean_squared_error", value: scores.meanSquaredError),
      ]
    case .seq2seq: preconditionFailure("written texts have their own metrics")
    }
  }

  /// The metrics of written texts; `exactMatch` is nil when none were written.
  ///
  /// - Parameter tokenLoss: mean cross-entropy of a target's token.
  package static func textMetrics(tokenLoss: Double, exactMatch: Double?) -> [MetricValue] {
    (exactMatch.map { [MetricValue(name: "exact_match", value: $0)] } ?? []) + [
      MetricValue(name: "token_loss", value: tokenLoss),
      MetricValue(name: "perplexity", value: exp(tokenLoss)),
    ]
  }

  /// Name of a task's main metric.
  package static func mainMetric(_ task: AdapterTask) -> String {
    switch task {
    case .classify: "accuracy"
    case .regress: "spearman"
    case .seq2seq: "exact_match"
    }
  }

  /// Index of the highest score of a row; the first one wins a tie.
  package static func best(_ predictions: [Float], row: Int, columns: Int) -> Int {
    var best = 0
    for column in 1..<max(1, columns)
    where predictions[row * columns + column] > predictions[row * columns + best] {
      best = column
    }
    return best
  }
}
