import ArgumentParser
import HearthNode

/// `hearth predict`.
struct PredictCommand: ReportingCommand {
  static let configuration = CommandConfiguration(
    commandName: "predict",
    abstract: "Predict labels or scores for texts from a file or from standard input.",
    discussion: """
      Without a file, or with -, texts are read from standard input, one a line, and each is answered as \
      soon as it has arrived. A file's format follows its name and first lines (tsv, csv, jsonl, or one text a \
      line); --format says otherwise.

      Output is one line a text: the label and the probability of each label in the adapter's order, \
      separated by tabs; for a regression, the number; for a seq2seq adapter the text, written greedily \
      ('hearth generate' has beams). --print-header names the columns. With --json each \
      line is an object with row, label and scores (or score, or text).

      Example:
        echo "what a film" | hearth predict --adapter sentiment
        hearth predict --adapter sentiment --text-column review --json reviews.csv
      """)

  @Option(help: ArgumentHelp("Directory of the adapter.", valueName: "dir"))
  var adapter: String

  @Option(
    help: ArgumentHelp("Directory of the model. (default: the one that the adapter names)", valueName: "dir"))
  var model: String?

  @Argument(help: ArgumentHelp("File with texts; - is standard input.", valueName: "file"))
  var file = "-"

  @Flag(help: "Write a first line with the names of the columns.")
  var printHeader = false

  @OptionGroup(title: "Data file") var rows: DataFileOptions
  @OptionGroup(title: "Machine") var threads: ThreadOptions
  @OptionGroup(title: "Machine") var memory: MemoryOptions
  @OptionGroup var reporting: ReportingOptions

  func validate() throws { try rows.checkFormat(among: Choices.textFormats) }

  func run() throws {
    try RunPreflight.checkInputDirectory(adapter, role: "adapter directory")
    if let model { try RunPreflight.checkModelDirectory(model) }
    if file != "-" { try RunPreflight.checkInputFile(file, role: "input") }
    var request = PredictRequest(adapterDirectory: adapter)
    request.modelDirectory = model
    request.threads = threads.threads
    request.memoryBudget = memory.memoryBudget?.bytes
    let predictor = try Predictor(request)
    let text = PredictionText(task: predictor.task, labels: predictor.labels, json: reporting.json)
    if printHeader && !reporting.json { try OutputStream.standard.write(text.header) }
    var writer = PredictionWriter(predictor: predictor, text: text)
    let leftOut = try PredictionSource(file: file, options: rows.options).forEachChunk { chunk in
      try writer.write(chunk)
    }
    try writer.finish(leftOut)
  }
}

/// Predicts chunk after chunk and writes each at once.
private struct PredictionWriter {
  let predictor: Predictor
  let text: PredictionText
  private var truncated = 0

  init(predictor: Predictor, text: PredictionText) {
    self.predictor = predictor
    self.text = text
  }

  mutating func write(_ chunk: PredictionSource.Chunk) throws {
    let predictions = try predictor.predict(chunk.inputs)
    var lines = ""
    for (row, prediction) in zip(chunk.rows, predictions) {
      lines += try text.line(prediction, row: row)
      if prediction.truncated { truncated += 1 }
    }
    try OutputStream.standard.write(lines)
  }

  func finish(_ leftOut: PredictionSource.LeftOut) throws {
    if leftOut.count > 0 {
      let first = leftOut.reasons.first.map { "; the first: \($0)" } ?? ""
      try OutputStream.diagnostics.write(
        "warning: \(leftOut.count) malformed rows got no prediction\(first)\n")
    }
    guard truncated > 0 else { return }
    try OutputStream.diagnostics.write(
      "warning: \(truncated) texts were cut at the greatest length that the adapter was trained with\n")
  }
}
