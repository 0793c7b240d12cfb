package import FineTuning
import LanguageModels

/// The samples of a run and what they decide: all that laying it out needs beside the request.
package struct RunContent: Sendable {
  /// What is predicted, with labels or scale.
  package var task: AdapterTask
  /// How the backbone is adapted.
  package var technique: TechniqueConfiguration
  /// Tokens of the longest text that is kept.
  package var maximumLength: Int
  /// Samples that are trained on.
  package var training: [TrainingSample]
  /// Samples that measure the adapter.
  package var heldOut: [TrainingSample]
  /// The texts that a seq2seq adapter has to write for them; empty for other tasks and where the rows are not.
  package var heldOutTexts: [String] = []
  /// Malformed rows that were left out.
  package var skippedRows = 0
  /// Texts that were cut at the greatest length.
  package var truncatedTexts = 0
  /// What a person should know before the first step.
  package var warnings: [String] = []

  /// The content of a run whose rows were read on another device.
  package init(
    task: AdapterTask, technique: TechniqueConfiguration, maximumLength: Int, training: [TrainingSample],
    heldOut: [TrainingSample]
  ) {
    self.task = task
    self.technique = technique
    self.maximumLength = maximumLength
    self.training = training
    self.heldOut = heldOut
  }

  /// Reads, splits and tokenises the rows that a request names.
  package init(_ request: TrainRequest, model: OpenedModel) throws {
    let kind = TrainingRows.labelKind(request.task)
    let file = try TrainingRows.read(request.dataFile, options: request.data, labels: kind)
    var warnings = file.warnings
    var skipped = file.skippedRows
    var training = file.examples
    var heldOut: [LabelledText] = []
    if let path = request.validationFile {
      let validation = try TrainingRows.read(path, options: request.data, labels: kind)
      heldOut = validation.examples
      skipped += validation.skippedRows
      warnings += validation.warnings
    } else if request.validationFraction > 0 {
      if let split = try Self.holdOut(training, fraction: request.validationFraction) {
        (training, heldOut) = (split.training, split.validation)
      } else {
        warnings.append("\(training.count) rows are too few to hold any out; no metric is measured")
      }
    }
    if let most = request.rowLimit { training = firstByHash(training, count: most) }
    let task = try TrainingRows.task(
      request.task, training: training, targetLength: Self.targetLength(request, model: model))
    let length = Self.maximumLength(request, model: model, warnings: &warnings)
    let rows = try TrainingRows.samples(training, task: task, model: model, maximumLength: length)
    let held = try TrainingRows.samples(heldOut, task: task, model: model, maximumLength: length)
    let cut = rows.truncatedTargets + held.truncatedTargets
    if cut > 0 { warnings.append("\(cut) texts to write were cut at --max-target-length") }
    let technique = try Self.configuration(
      request, architecture: model.architecture, hasPairs: training.contains { $0.pair != nil })
    self.init(
      task: task, technique: technique,
      maximumLength: length, training: rows.samples, heldOut: held.samples)
    heldOutTexts = held.targetTexts
    skippedRows = skipped
    truncatedTexts = rows.truncatedTexts + held.truncatedTexts
    self.warnings = warnings
  }

  /// Training and held-out rows, or nil when one side would be empty.
  private static func holdOut(_ rows: [LabelledText], fraction: Double) throws -> DataSplit? {
    do throws(DataFailure) {
      return try splitByHash(rows, validationFraction: fraction)
    } catch {
      if case .emptySplit = error { return nil }
      throw error
    }
  }

  /// The longest text that is kept: what was asked, or what the backbone has positions for.
  private static func maximumLength(
    _ request: TrainRequest, model: OpenedModel, warnings: inout [String]
  ) -> Int {
    guard let most = model.architecture.maximumLength, most < request.maxLength else {
      return request.maxLength
    }
    warnings.append(
      "--max-length \(request.maxLength) is more than the backbone's \(most) positions; using \(most)")
    return most
  }

  /// Most tokens of a text that is written: what was asked, or what the backbone has positions for.
  private static func targetLength(_ request: TrainRequest, model: OpenedModel) -> Int {
    min(
      request.maximumTargetLength ?? TrainRequest.defaultTargetLength,
      model.architecture.maximumLength ?? .max)
  }

  private static func configuration(
    _ request: TrainRequest, architecture: BackboneArchitecture, hasPairs: Bool
  ) throws -> TechniqueConfiguration {
    let dropout = Float(request.dropout ?? 0)
    switch request.technique {
    case .parallel: return .parallel(try sideNetwork(request, architecture: architecture, hasPairs: hasPairs))
    case .full: return .full(FullConfiguration(dropout: dropout))
    case .houlsby: return .houlsby(HoulsbyConfiguration(reduction: request.reduction, dropout: dropout))
    case .lora:
      var configuration = LoRAConfiguration(dropout: dropout)
      if let rank = request.rank { configuration.rank = rank }
      // PEFT's scale of 1 at every rank, unless somebody asks for another.
      configuration.alpha = request.alpha.map { Float($0) } ?? Float(configuration.rank)
      if let targets = request.loraTargets {
        configuration.targets = LoRATarget.allCases.filter { targets.contains($0.rawValue) }
      }
      return .lora(configuration)
    }
  }

  private static func sideNetwork(
    _ request: TrainRequest, architecture: BackboneArchitecture, hasPairs: Bool
  ) throws -> ParallelAdapterConfiguration {
    let preset = ParallelAdapterConfiguration.Preset(rawValue: request.preset.rawValue) ?? .default
    var configuration = ParallelAdapterConfiguration(
      preset: preset, reduction: request.reduction,
      layersPerStack: architecture.stacks.map(\.layers).min() ?? 0)
    if let taps = request.taps { configuration.layers = taps }
    if request.pooling?.readsPairs == true, !hasPairs {
      throw RunFailure.badInput(
        role: "data file", path: request.dataFile,
        detail:
          "no row has a second text to compare; name its column with --pair-column, or choose --pooling tokens"
      )
    }
    if let pooling = request.pooling {
      // `tokens` is what adapters have that say nothing.
      configuration.pooling = pooling == .tokens ? nil : pooling
    } else if request.choosesPooling == true {
      configuration.pooling = configuration.preferredPooling(of: architecture, hasPairs: hasPairs)
    }
    return configuration
  }
}
