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
      "What to predict: labels (classify), a number (regress) or a text (seq2seq; T5 and BART). Required.",
      valueName: "task"))
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
      "How the backbone is adapted: parallel (a side network that learns from cached activations: fastest, "
        + "least memory), lora (low-rank pairs beside its layers), houlsby (bottlenecks behind its layers) or "
        + "full (all its weights: most memory, an adapter as large as the model). Only parallel has a cache: "
        + "the others run the backbone forward and backward in every epoch. "
        + "(default: \(defaults.technique.rawValue))",
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
      "How many times narrower than the backbone the side network (the paper's k) or Houlsby's bottleneck is, "
        + "1 to 64. (default: \(RunTechnique.parallel.defaultReduction), "
        + "houlsby \(RunTechnique.houlsby.defaultReduction))",
      valueName: "k"))
  var reduction: Int?

  @Option(
    help: ArgumentHelp(
      "Rank of LoRA's pairs, 1 to 1024; more learns more and costs more. "
        + "(default: \(Choices.defaultRank))",
      valueName: "r"))
  var rank: Int?

  @Option(
    help: ArgumentHelp(
      "LoRA's pairs are multiplied by alpha / rank; above 0 and at most 10000. (default: the rank)",
      valueName: "x"))
  var alpha: Double?

  @Option(
    help: ArgumentHelp(
      "Layers that get a pair, in every block and every attention: any of \(Choices.loraTargets.joined(separator: ", ")), "
        + "separated by commas. (default: \(Choices.defaultLoRATargets.joined(separator: ",")))",
      valueName: "layers"))
  var loraTargets: String?

  @Option(
    help: ArgumentHelp(
      "Share of values that full, houlsby and lora drop while training, 0 to 0.9: at the model's own places, "
        + "for lora at the pairs' inputs. The backbone of parallel never drops any. (default: 0)",
      valueName: "share"))
  var dropout: Double?

  @Flag(
    help: """
      Keep only what enters each block and compute the rest again in the backward: less memory for full, houlsby \
      and lora, about a third more work.
      """)
  var checkpointActivations = false

  @Option(
    help: ArgumentHelp(
      "How the frozen backbone of parallel is kept in memory: float32, float16, bfloat16 or int8 (a quarter of the "
        + "memory, integer products; matrices and inputs that int8 does not suit stay float32). What is decided is "
        + "recorded in the adapter. (default: float32)",
      valueName: "precision"))
  var precision: String?

  @Option(
    help: ArgumentHelp(
      "Backbone layers that feed the side network, counted from 0, for instance 0,2,5-7. "
        + "(default: the preset's)",
      valueName: "layers"))
  var taps: String?

  @Option(
    help: ArgumentHelp(
      "What the side network of an encoder (BERT) is asked for: tokens (the mean of all states), attention (also, of every "
        + "tap, the tokens that a learned query picks), segments (the states of the two texts of a pair apart, and what "
        + "they differ in) or aligned (also, each token beside what it is aligned with in the other text). (default: under "
        + "the preset default aligned for pairs and attention else; tokens under others)",
      valueName: "pooling"))
  var pooling: String?

  func validate() throws {
    try check("--reduction", reduction, in: 1...64)
    try check("--rank", rank, in: 1...1_024)
    try check("--dropout", dropout, in: 0...0.9)
    if let alpha, !(alpha > 0 && alpha <= 10_000) {
      throw ValidationError("--alpha is \(alpha); it must be above 0 and at most 10000")
    }
    for target in targets ?? [] { try check("--lora-targets", target, among: Choices.loraTargets) }
    if let targets, Set(targets).count != targets.count || targets.isEmpty {
      throw ValidationError("--lora-targets is '\(loraTargets ?? "")'; name each layer once")
    }
    if let precision { try check("--precision", precision, among: Choices.weightPrecisions) }
    if let pooling { try check("--pooling", pooling, among: Choices.poolings) }
    try checkTechnique()
    if let taps, TapSelection.parse(taps) == nil {
      throw ValidationError(
        "--taps is '\(taps)'; it must list different layers from 0 to \(TapSelection.highestLayer), "
          + "for instance 0,2,5-7")
    }
  }

  private var targets: [String]? {
    loraTargets.map { $0.split(separator: ",", omittingEmptySubsequences: false).map(String.init) }
  }

  /// Refuses options that the chosen technique would not read.
  private func checkTechnique() throws {
    let chosen = technique ?? defaults.technique
    let options: [(name: String, isGiven: Bool, techniques: [RunTechnique])] = [
      ("--preset", preset != nil, [.parallel]), ("--taps", taps != nil, [.parallel]),
      ("--pooling", pooling != nil, [.parallel]),
      ("--precision \(precision ?? "")", precision.map { $0 != "float32" } ?? false, [.parallel]),
      ("--reduction", reduction != nil, [.parallel, .houlsby]), ("--rank", rank != nil, [.lora]),
      ("--alpha", alpha != nil, [.lora]), ("--lora-targets", loraTargets != nil, [.lora]),
      ("--dropout", dropout != nil, [.full, .houlsby, .lora]),
      ("--checkpoint-activations", checkpointActivations, [.full, .houlsby, .lora]),
    ]
    for option in options where option.isGiven && !option.techniques.contains(chosen) {
      throw ValidationError(
        "\(option.name) belongs to the technique \(option.techniques.map(\.rawValue).joined(separator: ", ")) "
          + "and --technique is \(chosen.rawValue)")
    }
  }

  var given: [String] {
    (technique == nil ? [] : ["--technique"]) + (preset == nil ? [] : ["--preset"])
      + (reduction == nil ? [] : ["--reduction"]) + (taps == nil ? [] : ["--taps"])
      + (rank == nil ? [] : ["--rank"]) + (alpha == nil ? [] : ["--alpha"])
      + (loraTargets == nil ? [] : ["--lora-targets"]) + (dropout == nil ? [] : ["--dropout"])
      + (checkpointActivations ? ["--checkpoint-activations"] : [])
      + (precision == nil ? [] : ["--precision"]) + (pooling == nil ? [] : ["--pooling"])
  }

  func apply(to request: inout TrainRequest) {
    if let technique { request.technique = technique }
    if let preset { request.preset = preset }
    request.reduction = reduction ?? request.technique.defaultReduction
    request.rank = rank
    request.alpha = alpha
    request.loraTargets = targets
    request.dropout = dropout
    request.checkpointsActivations = checkpointActivations ? true : nil
    request.precision = precision.flatMap(Choices.weightPrecision)
    request.taps = taps.flatMap(TapSelection.parse)
    request.pooling = pooling.flatMap(Choices.pooling)
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
      "Rows that one thread computes as a unit; divides --batch. Large ones suit full, whose every unit sums a "
        + "gradient of the whole model. (default: \(RunTechnique.parallel.defaultMicroBatch), "
        + "full \(RunTechnique.full.defaultMicroBatch), or the largest divisor below)",
      valueName: "n"))
  var microBatch: Int?

  @Option(
    help: ArgumentHelp(
      "Peak learning rate, above 0 and at most 1. (default: \(Choices.learningRates))", valueName: "x"))
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

  @Option(
    help: ArgumentHelp(
      "Tokens of the longest text that a seq2seq adapter learns to write, 2 to 4096; longer ones are cut and "
        + "counted. (default: \(TrainRequest.defaultTargetLength), or the model's positions if fewer)",
      valueName: "n"))
  var maxTargetLength: Int?

  @Option(
    help: ArgumentHelp(
      "Most training rows, 2 or more: the first in a fixed order by hash, to try something on a part. "
        + "(default: all)",
      valueName: "n"))
  var rows: Int?

  @Option(
    help: ArgumentHelp(
      "How finely gradients are rounded before they are added up: full, or half (multiples of 2^-24), with which "
        + "the devices of a household send each other about half as much in every step. Either gives the same "
        + "adapter on any number of devices. Not for --technique full, whose sums have 32 bits and an exponent a "
        + "layer. (default: \(Choices.defaultGradientPrecision))",
      valueName: "precision"))
  var gradientPrecision: String?

  func validate() throws {
    if let gradientPrecision {
      try check("--gradient-precision", gradientPrecision, among: Choices.gradientPrecisions)
    }
    try check("--max-target-length", maxTargetLength, in: 2...4_096)
    try check("--rows", rows, in: 2...Choices.rowLimit)
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
    guard let microBatch else { return }
    guard microBatch <= batch, batch % microBatch == 0 else {
      throw ValidationError(
        "--micro-batch is \(microBatch) and --batch is \(batch); a batch is a whole number of micro-batches")
    }
  }

  var given: [String] {
    (epochs == nil ? [] : ["--epochs"]) + (batch == nil ? [] : ["--batch"])
      + (microBatch == nil ? [] : ["--micro-batch"]) + (learningRate == nil ? [] : ["--learning-rate"])
      + (seed == nil ? [] : ["--seed"]) + (maxLength == nil ? [] : ["--max-length"])
      + (maxTargetLength == nil ? [] : ["--max-target-length"]) + (rows == nil ? [] : ["--rows"])
      + (gradientPrecision == nil ? [] : ["--gradient-precision"])
  }

  func apply(to request: inout TrainRequest) {
    if let epochs { request.epochs = epochs }
    if let batch { request.batch = batch }
    request.microBatch = microBatch ?? request.technique.microBatch(of: request.batch)
    request.learningRate = learningRate ?? request.technique.defaultLearningRate
    request.maximumTargetLength = maxTargetLength
    request.rowLimit = rows
    request.gradientPrecision = gradientPrecision.flatMap(Choices.gradientPrecision)
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

/// How the household's devices may share the work of a job.
struct PlannerOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "Which plans are looked at: pac (stages of groups), eddl (one stage, data parallel) or ecofl (one device a "
        + "stage). (default: \(JobWishes().planner))",
      valueName: "planner"))
  var planner: String?

  @Option(
    help: ArgumentHelp(
      "The first epoch on several devices: hybrid (trains and fills the cache), fill (fills it first) or auto (the "
        + "faster). (default: \(JobWishes().firstEpoch))",
      valueName: "mode"))
  var firstEpoch: String?

  @Option(
    help: ArgumentHelp(
      "Devices of the epochs from the cache: auto (as many as make them fastest) or all (each that holds a share of "
        + "the cache). (default: \(JobWishes().cachedEpochs))",
      valueName: "devices"))
  var cachedEpochs: String?

  func validate() throws {
    if let planner { try check("--planner", planner, among: PlanRequest.planners) }
    if let firstEpoch { try check("--first-epoch", firstEpoch, among: PlanRequest.firstEpochs) }
    if let cachedEpochs { try check("--cached-epochs", cachedEpochs, among: PlanRequest.cachedEpochs) }
  }

  var given: [String] {
    (planner == nil ? [] : ["--planner"]) + (firstEpoch == nil ? [] : ["--first-epoch"])
      + (cachedEpochs == nil ? [] : ["--cached-epochs"])
  }

  var wishes: JobWishes {
    var wishes = JobWishes()
    if let planner { wishes.planner = planner }
    if let firstEpoch { wishes.firstEpoch = firstEpoch }
    if let cachedEpochs { wishes.cachedEpochs = cachedEpochs }
    return wishes
  }
}

/// Who trains.
struct HouseholdTrainingOptions: ParsableArguments {
  @Flag(
    help:
      "Train on this device alone, also while other devices of the household are here. The adapter is the same."
  )
  var alone = false

  var given: [String] { alone ? ["--alone"] : [] }
}
