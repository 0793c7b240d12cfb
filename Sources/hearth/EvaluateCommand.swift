import ArgumentParser
import FoundationEssentials
import HearthNode

/// `hearth evaluate`.
struct EvaluateCommand: ReportingCommand {
  static let configuration = CommandConfiguration(
    commandName: "evaluate",
    abstract: "Measure an adapter on labelled rows.",
    discussion: """
      Prints accuracy and F1 for labels, Pearson and Spearman correlation for scores, and for texts the share that \
      is written exactly (greedily), the mean loss of a token and its exponential, the perplexity. The model is the one \
      that the adapter was trained on; another one is refused.

      Example:
        hearth evaluate --adapter sentiment --data test.tsv
      """)

  @Option(help: ArgumentHelp("Directory of the adapter.", valueName: "dir"))
  var adapter: String

  @Option(help: ArgumentHelp("File with labelled rows: TSV, CSV or JSON lines.", valueName: "file"))
  var data: String

  @Option(
    help: ArgumentHelp("Directory of the model. (default: the one that the adapter names)", valueName: "dir"))
  var model: String?

  @OptionGroup(title: "Data file") var rows: DataFileOptions
  @OptionGroup(title: "Machine") var threads: ThreadOptions
  @OptionGroup(title: "Machine") var memory: MemoryOptions
  @OptionGroup var reporting: ReportingOptions

  func validate() throws { try rows.checkFormat(among: Choices.tableFormats) }

  func run() throws {
    try RunPreflight.checkInputDirectory(adapter, role: "adapter directory")
    try RunPreflight.checkInputFile(data, role: "data file")
    if let model { try RunPreflight.checkModelDirectory(model) }
    var request = EvaluateRequest(adapterDirectory: adapter, dataFile: data)
    request.modelDirectory = model
    request.data = rows.options
    request.threads = threads.threads
    request.memoryBudget = memory.memoryBudget?.bytes
    var console = RunConsole(json: reporting.json, environment: ProcessInfo.processInfo.environment)
    defer { console.close() }
    let summary = try evaluate(
      request, cancellation: CancellationFlag(), report: { console.show($0) })
    console.close()
    try OutputStream.standard.write(reporting.json ? jsonLine(summary) + "\n" : summary.text)
  }
}
