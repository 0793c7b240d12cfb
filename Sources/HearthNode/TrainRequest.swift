package import FineTuning
package import NeuralNetworks
package import TensorKernels

/// What a run teaches the adapter to predict.
package enum RunTask: String, Sendable, Codable, CaseIterable {
  /// One of a fixed set of labels.
  case classify
  /// A number.
  case regress
  /// A text.
  case seq2seq
}

/// How the backbone is adapted.
package enum RunTechnique: String, Sendable, Codable, CaseIterable {
  /// Parallel Adapters (PAC §4.1): a side network over the frozen backbone's activations.
  case parallel
  /// Low-rank pairs beside the backbone's linear layers (LoRA).
  case lora
  /// Bottlenecks behind the backbone's sub-layers (Houlsby et al.).
  case houlsby
  /// Every weight of the backbone.
  case full

  /// Peak learning rate unless a person says otherwise: the fewer parameters start from nothing, the larger.
  package var defaultLearningRate: Double {
    switch self {
    case .parallel: 1e-3
    case .lora, .houlsby: 5e-4
    case .full: 5e-5
    }
  }

  /// Rows of a unit of work unless a person says otherwise: full fine-tuning sums all weights' gradients for each.
  package var defaultMicroBatch: Int { self == .full ? 8 : 2 }

  /// The largest such number that divides a batch.
  package func microBatch(of batch: Int) -> Int {
    (1...min(defaultMicroBatch, batch)).last { batch % $0 == 0 } ?? 1
  }

  /// Whether its gradients can be rounded to half precision: full fine-tuning's sums know one precision only.
  package var hasCoarseGradients: Bool { self != .full }

  /// The reduction unless a person says otherwise: 8 in all of PAC's side networks, 16 in its bottlenecks.
  package var defaultReduction: Int { self == .houlsby ? 16 : 8 }
}

/// A named set of side-network settings; its cases mirror the adapter configuration's presets.
package enum RunPreset: String, Sendable, Codable, CaseIterable {
  /// Gates, 9 of 12 layers, side-only output (Ladder Side-Tuning's recipe).
  case lst
  /// All layers, plain sums, backbone output added: the network behind the paper's time and memory figures.
  case timing
  /// Gates, all layers, pruned weights, output mixed with the backbone's final state by a learned gate.
  case `default`
}

/// How the rows of a data file are read.
///
/// Columns are names, or 1-based positions written as digits.
package struct DataOptions: Sendable, Codable, Equatable {
  /// The format; nil decides by the file's name.
  package var format: DataFormat?
  /// Column of the text; nil looks for a usual name.
  package var textColumn: String?
  /// Column of the second text of a pair; nil looks for a usual name.
  package var pairColumn: String?
  /// Column of the label or score; nil looks for a usual name.
  package var labelColumn: String?
  /// Whether the first row names the columns; nil decides by its content.
  package var header: Bool?
  /// Whether the first malformed row ends the run; otherwise such rows are skipped and counted.
  package var strict: Bool

  /// Options that leave everything to the file.
  package init(
    format: DataFormat? = nil, textColumn: String? = nil, pairColumn: String? = nil,
    labelColumn: String? = nil, header: Bool? = nil, strict: Bool = false
  ) {
    self.format = format
    self.textColumn = textColumn
    self.pairColumn = pairColumn
    self.labelColumn = labelColumn
    self.header = header
    self.strict = strict
  }

  /// The same wishes as the reader of data files takes them.
  package func readOptions(labels: LabelKind) -> DataReadOptions {
    DataReadOptions(
      format: format,
      columns: ColumnSelection(
        text: textColumn.map { ColumnReference($0) }, pair: pairColumn.map { ColumnReference($0) },
        label: labelColumn.map { ColumnReference($0) }),
      hasHeader: header, labels: labels, strict: strict)
  }
}

extension DataFormat: Codable {}

/// Everything that decides a training run.
///
/// The run directory keeps it, so that a resumed run needs nothing else.
package struct TrainRequest: Sendable, Codable, Equatable {
  /// Directory with config.json, the tokenizer and the safetensors weights.
  package var modelDirectory: String
  /// File with the training rows.
  package var dataFile: String
  /// File with held-out rows; nil holds out `validationFraction` of `dataFile` by a stable hash of the text.
  package var validationFile: String?
  /// Share of `dataFile` that is held out when there is no `validationFile`, 0 ..< 1; 0 holds out nothing.
  package var validationFraction: Double
  /// How rows are read.
  package var data: DataOptions
  /// What is predicted.
  package var task: RunTask
  /// How the backbone is adapted.
  package var technique: RunTechnique
  /// How the frozen backbone's matrices are kept; nil is float32.
  package var precision: WeightPrecision?
  /// Side-network settings to start from.
  package var preset: RunPreset
  /// The paper's k: the side network, or Houlsby's bottleneck, is this much narrower than the backbone.
  package var reduction: Int
  /// Rank of LoRA's pairs; nil takes the technique's own default, as in all optional settings.
  package var rank: Int?
  /// LoRA multiplies a pair's product by alpha / rank.
  package var alpha: Double?
  /// Kinds of layers that LoRA adds a pair to, by name.
  package var loraTargets: [String]?
  /// Share of values that full fine-tuning, Houlsby's adapters and LoRA drop while training.
  package var dropout: Double?
  /// True computes activations again in the backward in place of keeping them (full, houlsby, lora).
  package var checkpointsActivations: Bool?
  /// How finely gradients are rounded before they are added up (all techniques but full); nil is full precision.
  package var gradientPrecision: GradientPrecision?
  /// Tokens of the longest text that a seq2seq adapter learns to write; longer ones are cut and counted.
  package var maximumTargetLength: Int?
  /// Most training rows, the first in a fixed order by hash; nil takes all.
  package var rowLimit: Int?
  /// 0-based backbone layers that feed a side block; nil leaves it to the preset.
  package var taps: [Int]?
  /// What an encoder's prediction is made from; nil leaves it to the preset and the rows.
  package var pooling: ParallelAdapterConfiguration.Pooling?
  /// Whether preset and rows choose the pooling where none is given; nil in a record of an earlier build, which took the mean
  /// of all tokens.
  package var choosesPooling: Bool?
  /// Passes over the training rows.
  package var epochs: Int
  /// How a cached activation element is stored.
  package var cache: ActivationElement
  /// True keeps the activation cache after the run.
  package var keepCache: Bool
  /// Where the activation cache lives; nil puts it into the run directory.
  package var cacheDirectory: String?
  /// Samples of one optimizer step.
  package var batch: Int
  /// Samples that one thread computes as a unit; divides `batch`.
  package var microBatch: Int
  /// Peak learning rate of AdamW.
  package var learningRate: Double
  /// Seed of the split of work, the shuffles and the initial weights.
  package var seed: UInt64
  /// Tokens of the longest text; longer ones are cut and counted.
  package var maxLength: Int
  /// Compute threads; nil uses the cores that this process may use.
  package var threads: Int?
  /// Most bytes that the plan may take; nil uses the memory that is available.
  package var memoryBudget: Int?
  /// Directory that receives the adapter and, while the run lasts, its checkpoints.
  package var output: String

  /// Tokens of the longest input of an adapter that does not say what it was trained with.
  package static let defaultForeignLength = 512
  /// Tokens of the longest text that is written, when nothing else is asked.
  package static let defaultTargetLength = 64

  /// A request with the documented defaults.
  package init(modelDirectory: String, dataFile: String, task: RunTask, output: String) {
    self.modelDirectory = modelDirectory
    self.dataFile = dataFile
    self.task = task
    self.output = output
    validationFile = nil
    validationFraction = 0.1
    data = DataOptions()
    technique = .parallel
    precision = nil
    preset = .default
    reduction = 8
    rank = nil
    alpha = nil
    loraTargets = nil
    dropout = nil
    checkpointsActivations = nil
    gradientPrecision = nil
    maximumTargetLength = nil
    rowLimit = nil
    taps = nil
    pooling = nil
    choosesPooling = true
    epochs = 3
    cache = .float16
    keepCache = false
    cacheDirectory = nil
    batch = 16
    microBatch = 2
    learningRate = 1e-3
    seed = 42
    maxLength = 128
    threads = nil
    memoryBudget = nil
  }

  /// The request as a run's record keeps it: what preset and rows chose is written down, so that the run can be resumed
  /// by a build that would choose otherwise.
  package func recorded(_ technique: TechniqueConfiguration) -> TrainRequest {
    guard case .parallel(let side) = technique else { return self }
    var request = self
    request.pooling = side.pooling ?? .tokens
    return request
  }
}

/// A run to go on with.
///
/// What it learns is in the run's own record; only what changes no bit may differ.
package struct ResumeRequest: Sendable, Equatable {
  /// The output directory of the interrupted run.
  package var runDirectory: String
  /// Compute threads; nil uses the cores that this process may use.
  package var threads: Int?
  /// Most bytes that the plan may take; nil uses the memory that is available.
  package var memoryBudget: Int?

  /// A resumption of the run in `runDirectory`.
  package init(runDirectory: String, threads: Int? = nil, memoryBudget: Int? = nil) {
    self.runDirectory = runDirectory
    self.threads = threads
    self.memoryBudget = memoryBudget
  }
}

/// Rows to measure an adapter on.
package struct EvaluateRequest: Sendable, Equatable {
  /// Directory of the adapter.
  package var adapterDirectory: String
  /// Directory of the backbone; nil uses the one that the adapter names.
  package var modelDirectory: String?
  /// File with labelled rows.
  package var dataFile: String
  /// How rows are read.
  package var data: DataOptions
  /// Compute threads; nil uses the cores that this process may use.
  package var threads: Int?
  /// Most bytes that the plan may take; nil uses the memory that is available.
  package var memoryBudget: Int?

  /// An evaluation of an adapter on a file.
  package init(adapterDirectory: String, dataFile: String) {
    self.adapterDirectory = adapterDirectory
    self.dataFile = dataFile
    modelDirectory = nil
    data = DataOptions()
    threads = nil
    memoryBudget = nil
  }
}

/// What prediction needs before the first text arrives.
package struct PredictRequest: Sendable, Equatable {
  /// Directory of the adapter.
  package var adapterDirectory: String
  /// Directory of the backbone; nil uses the one that the adapter names.
  package var modelDirectory: String?
  /// Compute threads; nil uses the cores that this process may use.
  package var threads: Int?
  /// Most bytes that the plan may take; nil uses the memory that is available.
  package var memoryBudget: Int?

  /// Predictions of an adapter.
  package init(adapterDirectory: String) {
    self.adapterDirectory = adapterDirectory
    modelDirectory = nil
    threads = nil
    memoryBudget = nil
  }
}
