/// How predictions are written: tab-separated columns, or JSON lines.
package struct PredictionText: Sendable {
  private let task: RunTask
  private let labels: [String]
  private let json: Bool

  /// A form for the predictions of an adapter with `labels` (none for a regression).
  package init(task: RunTask, labels: [String], json: Bool) {
    self.task = task
    self.labels = labels
    self.json = json
  }

  /// The names of the columns, as a line.
  package var header: String {
    switch task {
    case .classify: (["label"] + labels).map(Self.cell).joined(separator: "\t") + "\n"
    case .regress: "score\n"
    case .seq2seq: "text\n"
    }
  }

  /// One prediction as a line; `row` counts the input's texts from 1.
  package func line(_ prediction: Prediction, row: Int) throws -> String {
    if json {
      return try jsonLine(
        Line(
          row: row, label: task == .seq2seq ? nil : prediction.label,
          text: task == .seq2seq ? prediction.label : nil,
          score: task == .regress ? prediction.scores.first : nil,
          scores: task == .classify
            ? Dictionary(uniqueKeysWithValues: zip(labels, prediction.scores)) : nil,
          truncated: prediction.truncated)) + "\n"
    }
    let scores = prediction.scores.map { decimal($0, 6) }
    return ((prediction.label.map { [Self.cell($0)] } ?? []) + scores).joined(separator: "\t") + "\n"
  }

  /// The keys of `scores` are the adapter's labels and are written in sorted order.
  private struct Line: Encodable {
    var row: Int
    var label: String?
    var text: String?
    var score: Double?
    var scores: [String: Double]?
    var truncated: Bool
  }

  /// A label may hold anything that a data file can; a cell may hold neither tabs nor line breaks.
  private static func cell(_ text: String) -> String {
    String(text.map { $0 == "\t" || $0.isNewline ? " " : $0 })
  }
}
