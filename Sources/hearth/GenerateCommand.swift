import ArgumentParser
import HearthNode

/// The defaults that help texts show; the request itself owns them.
private let defaults = GenerationRequest(modelDirectory: "")

/// `hearth generate`.
struct GenerateCommand: ReportingCommand {
  static let configuration = CommandConfiguration(
    commandName: "generate",
    abstract: "Write a text for each text from a file or from standard input.",
    discussion: """
      The model is an encoder-decoder: T5 or BART, as it is or with an adapter of the task seq2seq. The adapter \
      may also be a LoRA adapter that PEFT wrote; then --model is required. Without a file, or with -, texts are read from standard \
      input, one a line, and each is answered as soon as it has arrived. A file's format follows its name and \
      first lines (tsv, csv, jsonl, or one text a line); --format says otherwise.

      Output is one line a text; line breaks that the model writes become spaces. With --json each line is an \
      object with row, text, tokens, cut (no end within --max-tokens) and truncated (input cut at \
      --max-length). With one beam the search is greedy; with more, texts are compared by their log-probability \
      over tokens^(length penalty). The search does not sample and does not read generation_config.json.

      Example:
        echo "some text" | hearth generate --adapter translate
        echo "translate English to German: The house is wonderful." | hearth generate --model t5-small
        hearth generate --model bart-large-cnn --beams 4 --max-tokens 142 --json articles.txt
      """)

  @Option(
    help: ArgumentHelp(
      "Directory of the model. Required without --adapter. (default: the one that the adapter names)",
      valueName: "dir"))
  var model: String?

  @Option(help: ArgumentHelp("Directory of a seq2seq adapter.", valueName: "dir"))
  var adapter: String?

  @Option(
    help: ArgumentHelp(
      "Hypotheses that are kept, 1 to \(GenerationRequest.beamLimit); 1 is greedy search. "
        + "(default: \(defaults.beams))",
      valueName: "n"))
  var beams: Int?

  @Option(
    help: ArgumentHelp(
      "Most tokens of an output, its end included, 1 to \(GenerationRequest.tokenLimit); no more than the "
        + "model has positions for. (default: the adapter's, or \(GenerationRequest.defaultMaximumTokens))",
      valueName: "n"))
  var maxTokens: Int?

  @Option(
    help: ArgumentHelp(
      "Exponent of the length by which log-probabilities are divided, -10 to 10; above 1 favours long texts. "
        + "(default: \(defaults.lengthPenalty))",
      valueName: "x"))
  var lengthPenalty: Double?

  @Option(
    help: ArgumentHelp(
      "Tokens of the longest input, 6 to 4096; longer ones are cut and counted. "
        + "(default: the adapter's, or \(GenerationRequest.defaultMaximumLength), or the model's positions if fewer)",
      valueName: "n"))
  var maxLength: Int?

  @Argument(help: ArgumentHelp("File with texts; - is standard input.", valueName: "file"))
  var file = "-"

  @OptionGroup(title: "Data file") var rows: DataFileOptions
  @OptionGroup(title: "Machine") var threads: ThreadOptions
  @OptionGroup var reporting: ReportingOptions

  func validate() throws {
    if model == nil && adapter == nil {
      throw ValidationError("--model or --adapter is missing; 'hearth generate --help' has examples")
    }
    try rows.checkFormat(among: Choices.textFormats)
    try check("--beams", beams, in: 1...GenerationRequest.beamLimit)
    try check("--max-tokens", maxTokens, in: 1...GenerationRequest.tokenLimit)
    try check("--length-penalty", lengthPenalty, in: -10...10)
    try check("--max-length", maxLength, in: 6...4_096)
  }

  func run() throws {
    if let model { try RunPreflight.checkModelDirectory(model) }
    if let adapter { try RunPreflight.checkInputDirectory(adapter, role: "adapter directory") }
    if file != "-" { try RunPreflight.checkInputFile(file, role: "input") }
    var request =
      adapter.map { GenerationRequest(adapterDirectory: $0, modelDirectory: model) }
      ?? GenerationRequest(modelDirectory: model ?? "")
    if let beams { request.beams = beams }
    if let maxTokens { request.maximumTokens = maxTokens }
    if let lengthPenalty { request.lengthPenalty = lengthPenalty }
    if let maxLength { request.maximumLength = maxLength }
    request.threads = threads.threads
    var output = GenerationOutput(writer: try TextWriter(request), json: reporting.json)
    let leftOut = try PredictionSource(file: file, options: rows.options).forEachChunk { chunk in
      try output.write(chunk)
    }
    try output.finish(leftOut)
  }
}

/// Writes chunk after chunk at once, and counts what a person should know.
private struct GenerationOutput {
  let writer: TextWriter
  let json: Bool
  private var truncated = 0
  private var cut = 0

  init(writer: TextWriter, json: Bool) {
    self.writer = writer
    self.json = json
  }

  mutating func write(_ chunk: PredictionSource.Chunk) throws {
    var lines = ""
    for (row, found) in zip(chunk.rows, try writer.write(chunk.inputs)) {
      lines += try found.line(row: row, json: json)
      if found.truncatedInput { truncated += 1 }
      if found.isCut { cut += 1 }
    }
    try OutputStream.standard.write(lines)
  }

  func finish(_ leftOut: PredictionSource.LeftOut) throws {
    if leftOut.count > 0 {
      let first = leftOut.reasons.first.map { "; the first: \($0)" } ?? ""
      try OutputStream.diagnostics.write("warning: \(leftOut.count) malformed rows got no text\(first)\n")
    }
    if truncated > 0 {
      try OutputStream.diagnostics.write("warning: \(truncated) inputs were cut at the greatest length\n")
    }
    guard cut > 0 else { return }
    try OutputStream.diagnostics.write(
      "warning: \(cut) outputs did not end within the most tokens; --max-tokens allows more\n")
  }
}
