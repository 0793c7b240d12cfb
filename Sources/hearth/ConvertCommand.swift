import ArgumentParser
import HearthNode

/// `hearth convert`.
struct ConvertCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "convert",
    abstract: "Turn a model into one of another family.",
    discussion: """
      Example:
        hearth convert bert-to-bart --model minilm --output minilm-bart
      """,
    subcommands: [ConvertBERTToBARTCommand.self])
}

/// `hearth convert bert-to-bart`.
struct ConvertBERTToBARTCommand: ReportingCommand {
  static let configuration = CommandConfiguration(
    commandName: "bert-to-bart",
    abstract: "Write BERT's weights as a BART encoder-decoder.",
    discussion: """
      For people without BART weights. The encoder computes what BERT computes on one text. The decoder begins \
      from BERT's layers too, its cross-attention as a copy of their self-attention, and has to be trained \
      before it writes anything sensible. The segment of a second text is lost; pairs are told apart by [SEP] \
      alone. The tokenizer is kept. BERT's layer_norm_eps is kept in config.json; other programs ignore it for \
      BART and use 1e-5.

      Example:
        hearth convert bert-to-bart --model minilm --output minilm-bart
        hearth convert bert-to-bart --model minilm --output minilm-bart --decoder-layers 6
      """)

  @Option(help: ArgumentHelp("Directory of the BERT model.", valueName: "dir"))
  var model: String

  @Option(help: ArgumentHelp("New or empty directory for the BART model.", valueName: "dir"))
  var output: String

  @Option(
    help: ArgumentHelp(
      "Layers of the decoder, 1 to those of the model: its first and last ones and others as far apart as can "
        + "be. (default: \(ConversionRequest.defaultDecoderLayers))",
      valueName: "n"))
  var decoderLayers: Int?

  @OptionGroup var reporting: ReportingOptions

  func validate() throws { try check("--decoder-layers", decoderLayers, in: 1...256) }

  func run() throws {
    var request = ConversionRequest(modelDirectory: model, output: output)
    if let decoderLayers { request.decoderLayers = decoderLayers }
    let summary = try convertBERTToBART(request)
    try OutputStream.standard.write(reporting.json ? jsonLine(summary) + "\n" : summary.text)
  }
}
