import ArgumentParser
import HearthNode

/// `hearth bench`.
struct BenchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "bench", abstract: "Measure this machine.",
    subcommands: [BenchTechniquesCommand.self, BenchWorkerCommand.self])
}

/// `hearth bench techniques`.
struct BenchTechniquesCommand: ReportingCommand {
  static let configuration = CommandConfiguration(
    commandName: "techniques",
    abstract: "Measure time and memory of full fine-tuning, adapters, LoRA and Parallel Adapters.",
    discussion: """
      Models of true shape with random weights are written below --directory once (T5-Large: 2.8 GiB). Each case runs in \
      processes of its own; with --python also PyTorch's, in turn. Results are kept as they come, so a run that was \
      interrupted goes on where it was.

      Example:
        hearth bench techniques --models t5-base --techniques lora,parallel,parallel-cached
        hearth bench techniques --python ~/venv/bin/python --plot techniques.svg --document docs/REPRODUCING-PAC.md
      """)

  @OptionGroup var reporting: ReportingOptions

  @Option(help: "Models, with commas between: \(TechniqueChoices.models.joined(separator: ", ")).")
  var models = "t5-base,bart-large,t5-large"

  @Option(help: "Techniques, with commas between: \(TechniqueChoices.techniques.joined(separator: ", ")).")
  var techniques = TechniqueChoices.techniques.joined(separator: ",")

  @Option(
    help: "Rates of dropout, with commas between; those above 0 are measured where Hearth offers dropout.")
  var dropout = "0,0.1"

  @Option(
    name: .customLong("dropout-models"), help: "Models that are measured with dropout, with commas between.")
  var dropoutModels = "t5-base"

  @Option(help: "Compute threads of both sides.")
  var threads = 2

  @Option(help: "Counted rounds of each case.")
  var rounds = 3

  @Option(help: "Directory of models, caches and results.")
  var directory = "/tmp/hearth-bench"

  @Option(help: "A Python with torch, transformers and peft; without it Hearth is measured alone.")
  var python: String?

  @Option(
    name: .customLong("peer"), help: "The worker that runs in it: scripts/benchmarks/pytorch_worker.py.")
  var peer: String?

  @Flag(help: "Forget the results of an earlier run.")
  var fresh = false

  @Option(help: "Writes a picture (SVG) to this file.")
  var plot: String?

  @Option(help: "Replaces the tables between the 'techniques' marks of this Markdown file.")
  var document: String?

  func validate() throws {
    try check("--threads", threads, in: 1...64)
    try check("--rounds", rounds, in: 1...100)
    guard (python == nil) == (peer == nil) else {
      throw ValidationError(
        "--python and --peer belong together: the worker needs a Python, and a Python the worker")
    }
    for (option, text, choices) in [
      ("--models", models, TechniqueChoices.models),
      ("--techniques", techniques, TechniqueChoices.techniques),
      ("--dropout-models", dropoutModels, TechniqueChoices.models),
    ] {
      for word in words(text) { try check(option, word, among: choices) }
    }
    for word in words(dropout) {
      guard let rate = Float(word), (0..<0.9).contains(rate) else {
        throw ValidationError("--dropout has '\(word)'; rates are from 0 to under 0.9")
      }
    }
  }

  func run() throws {
    var request = TechniqueBenchmarkRequest(directory: directory, executable: "/proc/self/exe")
    request.chooseModels(words(models), withDropout: words(dropoutModels))
    request.chooseTechniques(words(techniques))
    request.dropouts = words(dropout).compactMap { Float($0) }
    (request.threads, request.rounds) = (threads, rounds)
    (request.python, request.peerScript, request.resumes) = (python, peer, !fresh)
    let results = try TechniqueBenchmark(request) { line in
      try? OutputStream.diagnostics.write(line + "\n")
    }.run()
    let table = TechniqueTable(results).markdown
    if let plot { try TechniqueDocument.write(TechniquePlot(results).svg, to: plot) }
    if let document { try TechniqueDocument.replaceTables(in: document, by: table) }
    try OutputStream.standard.write(reporting.json ? jsonLine(results) + "\n" : table)
  }

  private func words(_ text: String) -> [String] {
    text.split(separator: ",").map { String($0.filter { $0 != " " }) }
  }
}

/// `hearth bench worker`: measures one case on request.
struct BenchWorkerCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "worker", abstract: "Measure one case on request.", shouldDisplay: false)

  @Option(help: "Directory of the model.")
  var model: String

  @Option(help: "Directory of the activation cache.")
  var cache: String

  @Option(name: .customLong("case"), help: "The case as JSON.")
  var measured: String

  func run() throws {
    try TechniqueWorkerService.run(try TechniqueCase(json: measured), model: model, cachePath: cache)
  }
}
