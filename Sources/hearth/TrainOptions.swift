import ArgumentParser
import HearthNode

/// The defaults that help texts show; the request itself owns them.
private let defaults = TrainRequest(modelDirectory: "", dataFile: "", task: .classify, output: "")

/// What a run reads and writes.
struct JobOptions: ParsableArguments {
  static let defaultOutput = "adapter"

  @Option(help: ArgumentHelp("Directory of the model. Required.", valueName: "dir"))
  var model: String?

  @Option(
    help: ArgumentHelp("File with the training rows: TSV, CSV or JSON lines. Required.", valueName: "file"))
  var data: String?

  @Option(
    help: ArgumentHelp(
      "What to predict: labels (classify) or a number (regress). Required.", valueName: "task"))
  var task: RunTask?

  @Option(
    help: ArgumentHelp(
      "New or empty directory for the adapter and, while the run lasts, its state. "
        + "(default: \(defaultOutput))",
      valueName: "dir"))
  var output: String?

  @Option(
    help: ArgumentHelp(
      "Go on with the interrupted run in this directory; only --threads, --memory-budget and --json may be "
        + "given with it.",
      valueName: "dir"))
  var resume: String?

  var given: [String] {
    (model == nil ? [] : ["--model"]) + (data == nil ? [] : ["--data"])
      + (task == nil ? [] : ["--task"]) + (output == nil ? [] : ["--output"])
  }
}

/// What a run or a prediction may take of the machine's memory.
struct MemoryOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "Most memory to plan with, for instance 2GiB. A backbone that needs more is read from the disk layer by "
        + "layer, with the same result; what does not fit even so is refused with its numbers before any work. "
        + "(default: what is available)",
      valueName: "size"))
  var memoryBudget: ByteCount?

  func validate() throws {
    if let memoryBudget, memoryBudget.bytes < 16 << 20 {
      throw ValidationError(
        "--memory-budget is \(memoryBudget); it must be at least 16 MiB, for instance --memory-budget 2GiB")
    }
  }
}

/// Which rows measure the adapter.
struct HeldOutOptions: ParsableArguments {
  @Option(help: ArgumentHelp("File with rows to measure on, never trained on.", valueName: "file"))
  var validation: String?

  @Option(
    help: ArgumentHelp(
      "Share of --data to hold out when there is no --validation, 0 to 0.9, chosen by a hash of the text. "
        + "(default: \(defaults.validationFraction))",
      valueName: "share"))
  var validationFraction: Double?

  func validate() throws {
    try check("--validation-fraction", validationFraction, in: 0...0.9)
    if validation != nil && validationFraction != nil {
      throw ValidationError("--validation and --validation-fraction exclude each other; give one of them")
    }
  }

  var given: [String] {
    (validation == nil ? [] : ["--validation"])
      + (validationFraction == nil ? [] : ["--validation-fraction"])
  }

  func apply(to request: inout TrainRequest) {
    request.validationFile = validation.map(absolutePath)
    if let validationFraction { request.validationFraction = validationFraction }
  }
}

/// What the adapter looks like.
struct AdapterOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "How the backbone is adapted: parallel. (default: \(defaults.technique.rawValue))",
      valueName: "technique"))
  var technique: RunTechnique?

  @Option(
    help: ArgumentHelp(
      "Settings of the side network: default (gates, output mixed with the backbone's), lst (Ladder "
        + "Side-Tuning) or timing (plain sums, as in the paper's time measurements). "
        + "(default: \(defaults.preset.rawValue))",
      valueName: "preset"))
  var preset: RunPreset?

  @Option(
    help: ArgumentHelp(
      "How many times narrower than the backbone the side network is, 1 to 64; the paper's k. "
        + "(default: \(defaults.reduction))",
      valueName: "k"))
  var reduction: Int?

  @Option(
    help: ArgumentHelp(
      "Backbone layers that feed the side network, counted from 0, for instance 0,2,5-7. "
        + "(default: the preset's)",
      valueName: "layers"))
  var taps: String?

  func validate() throws {
    try check("--reduction", reduction, in: 1...64)
    if let taps, TapSelection.parse(taps) == nil {
      throw ValidationError(
        "--taps is '\(taps)'; it must list different layers from 0 to \(TapSelection.highestLayer), "
          + "for instance 0,2,5-7")
    }
  }

  var given: [String] {
    (technique == nil ? [] : ["--technique"]) + (preset == nil ? [] : ["--preset"])
      + (reduction == nil ? [] : ["--reduction"]) + (taps == nil ? [] : ["--taps"])
  }

  func apply(to request: inout TrainRequest) {
    if let technique { request.technique = technique }
    if let preset { request.preset = preset }
    if let reduction { request.reduction = reduction }
    request.taps = taps.flatMap(TapSelection.parse)
  }
}

/// How long and how fast is learned.
struct TrainingOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "Passes over the training rows, 1 to 10000. (default: \(defaults.epochs))", valueName: "n"))
  var epochs: Int?

  @Option(
    help: ArgumentHelp("Rows of an optimizer step, 1 to 65536. (default: \(defaults.batch))", valueName: "n"))
  var batch: Int?

  @Option(
    help: ArgumentHelp(
      "Rows that one thread computes as a unit; divides --batch. (default: \(defaults.microBatch))",
      valueName: "n"))
  var microBatch: Int?

  @Option(
    help: ArgumentHelp(
      "Peak learning rate, above 0 and at most 1. (default: \(defaults.learningRate))", valueName: "x"))
  var learningRate: Double?

  @Option(
    help: ArgumentHelp(
      "Seed of shuffles and initial weights; equal seeds give equal adapters. (default: \(defaults.seed))",
      valueName: "n"))
  var seed: UInt64?

  @Option(
    help: ArgumentHelp(
      "Tokens of the longest text, 4 to 4096; longer texts are cut and counted. "
        + "(default: \(defaults.maxLength))",
      valueName: "n"))
  var maxLength: Int?

  func validate() throws {
    try check("--epochs", epochs, in: 1...10_000)
    try check("--batch", batch, in: 1...65_536)
    try check("--micro-batch", microBatch, in: 1...65_536)
    try check("--max-length", maxLength, in: 4...4_096)
    if let learningRate, !(learningRate > 0 && learningRate <= 1) {
      throw ValidationError("--learning-rate is \(learningRate); it must be above 0 and at most 1")
    }
  }

  /// Requires that a batch is a whole number of micro-batches.
  func checkMicroBatch() throws {
    let batch = batch ?? defaults.batch
    let microBatch = microBatch ?? min(defaults.microBatch, batch)
    guard microBatch <= batch, batch % microBatch == 0 else {
      throw ValidationError(
        "--micro-batch is \(microBatch) and --batch is \(batch); a batch is a whole number of micro-batches")
    }
  }

  var given: [String] {
    (epochs == nil ? [] : ["--epochs"]) + (batch == nil ? [] : ["--batch"])
      + (microBatch == nil ? [] : ["--micro-batch"]) + (learningRate == nil ? [] : ["--learning-rate"])
      + (seed == nil ? [] : ["--seed"]) + (maxLength == nil ? [] : ["--max-length"])
  }

  func apply(to request: inout TrainRequest) {
    if let epochs { request.epochs = epochs }
    if let batch { request.batch = batch }
    request.microBatch = microBatch ?? min(defaults.microBatch, request.batch)
    if let learningRate { request.learningRate = learningRate }
    if let seed { request.seed = seed }
    if let maxLength { request.maxLength = maxLength }
  }
}

/// How the backbone's activations are kept.
struct CacheOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "How a cached activation is stored: float16, float32 or int8. (default: \(Choices.defaultCacheElement))",
      valueName: "element"))
  var cache: String?

  @Flag(help: "Keep the activation cache after the run, for another run on the same texts.")
  var keepCache = false

  @Option(
    help: ArgumentHelp("Directory of the activation cache. (default: in --output)", valueName: "dir"))
  var cacheDirectory: String?

  func validate() throws {
    if let cache { try check("--cache", cache, among: Choices.cacheElements) }
  }

  var given: [String] {
    (cache == nil ? [] : ["--cache"]) + (keepCache ? ["--keep-cache"] : [])
      + (cacheDirectory == nil ? [] : ["--cache-directory"])
  }

  func apply(to request: inout TrainRequest) {
    if let element = cache.flatMap(Choices.cacheElement) { request.cache = element }
    request.keepCache = keepCache
    request.cacheDirectory = cacheDirectory.map(absolutePath)
  }
}
