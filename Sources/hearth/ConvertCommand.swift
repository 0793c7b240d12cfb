import ArgumentParser
import HearthNode

/// `hearth convert`.
struct ConvertCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "convert",
    abstract: "Turn a model into one of another family, or fold an adapter into its model.",
    discussion: """
      Example:
        hearth convert bert-to-bart --model minilm --output minilm-bart
        hearth convert merge --adapter sentiment-lora --output minilm-sentiment
      """,
    subcommands: [ConvertBERTToBARTCommand.self, ConvertMergeCommand.self])
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

/// `hearth convert merge`.
struct ConvertMergeCommand: ReportingCommand {
  static let configuration = CommandConfiguration(
    commandName: "merge",
    abstract: "Fold a full or lora adapter into its model's weights.",
    discussion: """
      The result is a Hugging Face directory that needs no adapter: its tensors have the model's own names, in \
      float32, and its tokenizer and config.json are copied. A LoRA adapter may also be one that PEFT wrote; then \
      --model is required. The head of a classify or regress adapter has no place in a model and is left out. \
      Adapters of the techniques parallel and houlsby are networks of their own and cannot be folded in.

      Example:
        hearth convert merge --adapter translate-lora --output t5-translate
        hearth convert merge --adapter from-peft --model t5-small --output t5-merged
      """)

  @Option(help: ArgumentHelp("Directory of the adapter.", valueName: "dir"))
  var adapter: String

  @Option(
    help: ArgumentHelp("Directory of the model. (default: the one that the adapter names)", valueName: "dir"))
  var model: String?

  @Option(help: ArgumentHelp("New or empty directory for the merged model.", valueName: "dir"))
  var output: String

  @OptionGroup var reporting: ReportingOptions

  func run() throws {
    var request = MergeRequest(adapterDirectory: adapter, output: output)
    request.modelDirectory = model
    let summary = try mergeAdapter(request)
    for warning in summary.warnings { try OutputStream.diagnostics.write("warning: \(warning)\n") }
    try OutputStream.standard.write(reporting.json ? jsonLine(summary) + "\n" : summary.text)
  }
}
