import ArgumentParser
import FoundationEssentials
import HearthNode

/// The defaults that help texts show; the request itself owns them.
private let defaults = PlanRequest(model: "")

/// `hearth plan`.
struct PlanCommand: ReportingCommand {
  static let configuration = CommandConfiguration(
    commandName: "plan",
    abstract: "Show how devices would share a job, how long it would take, and why not otherwise.",
    discussion: """
      Looks for the fastest division of layers and samples over the devices that fits into their memory, and \
      shows it: stages, layers, devices with their shares and memory, one mini-batch as a chart, and predicted \
      times. Nothing is trained, and weights are not needed: --model also takes a built-in shape.

      --devices FILE plans for a household that is not here (docs/examples/households has some; what if I added \
      a laptop?). Without it, the plan is for this device alone, measured now.

      Example:
        hearth plan --model t5-base --devices docs/examples/households/eight-jetson-nanos.json
        hearth plan --model minilm --data reviews.tsv --epochs 5 --explain
        hearth plan --model t5-large --devices home.json --planner ecofl --technique lora --json
        hearth plan --model t5-base --devices home.json --svg plan.svg
      """)

  @Option(
    help: ArgumentHelp(
      "Directory of the model, or a built-in shape: \(PlanningModel.shapes.joined(separator: ", ")).",
      valueName: "dir|shape"))
  var model: String

  @Option(help: ArgumentHelp("File with the training rows; only their number counts.", valueName: "file"))
  var data: String?

  @Option(
    help: ArgumentHelp(
      "Training samples when there is no --data, 1 to 100000000. (default: \(defaults.samples), as MRPC)",
      valueName: "n"))
  var samples: Int?

  @Option(
    help: ArgumentHelp("Tokens of a text, 1 to 4096. (default: \(defaults.length))", valueName: "n"))
  var length: Int?

  @Option(
    help: ArgumentHelp("Passes over the samples, 1 to 10000. (default: \(defaults.epochs))", valueName: "n"))
  var epochs: Int?

  @Option(
    help: ArgumentHelp(
      "Samples of an optimizer step, 1 to 65536. (default: \(defaults.batch))", valueName: "n"))
  var batch: Int?

  @Option(
    help: ArgumentHelp(
      "Samples that a device computes as a unit; divides --batch into at most 1024 units. "
        + "(default: \(defaults.microBatch))",
      valueName: "n"))
  var microBatch: Int?

  @Option(
    help: ArgumentHelp("File that describes the household. (default: this device)", valueName: "file"))
  var devices: String?

  @Option(
    help: ArgumentHelp(
      "How the backbone is adapted: \(PlanRequest.techniques.joined(separator: ", ")).",
      valueName: "technique"))
  var technique = defaults.technique

  @Option(
    help: ArgumentHelp("The paper's k, 1 to 64. (default: \(defaults.reduction))", valueName: "k"))
  var reduction: Int?

  @OptionGroup var sharing: PlannerOptions

  @Flag(help: "Say of every other shape of plan why it was not chosen.")
  var explain = false

  @Option(help: ArgumentHelp("Write the chart of one mini-batch to this file as SVG.", valueName: "file"))
  var svg: String?

  @OptionGroup var reporting: ReportingOptions

  func validate() throws {
    try check("--samples", samples, in: 1...100_000_000)
    try check("--length", length, in: 1...4096)
    try check("--epochs", epochs, in: 1...10_000)
    try check("--batch", batch, in: 1...65_536)
    try check("--micro-batch", microBatch, in: 1...65_536)
    try check("--reduction", reduction, in: 1...64)
    try check("--technique", technique, among: PlanRequest.techniques)
    if data != nil && samples != nil {
      throw ValidationError("--data and --samples exclude each other; give one of them")
    }
  }

  func run() throws {
    var request = PlanRequest(model: model)
    request.dataFile = data
    request.householdFile = devices
    if let samples { request.samples = samples }
    if let length { request.length = length }
    if let epochs { request.epochs = epochs }
    if let batch { request.batch = batch }
    if let microBatch { request.microBatch = microBatch }
    if let reduction { request.reduction = reduction }
    request.technique = technique
    request.plannerName = sharing.wishes.planner
    request.firstEpochName = sharing.wishes.firstEpoch
    request.cachedEpochsName = sharing.wishes.cachedEpochs
    let report = try PreparedPlanning(request, environment: ProcessInfo.processInfo.environment).plan()
    if let svg { try report.writeDrawing(to: svg) }
    try OutputStream.standard.write(reporting.json ? jsonLine(report) + "\n" : report.text(explain: explain))
  }
}
