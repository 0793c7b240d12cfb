package import FineTuning
import HearthStorage
import LanguageModels

/// The rows of a file as training samples.
package struct PreparedRows {
  /// One sample a usable row.
  package var samples: [TrainingSample] = []
  /// Texts that were cut at the greatest length.
  package var truncatedTexts = 0
  /// Texts to write that were cut at their greatest length.
  package var truncatedTargets = 0
  /// The texts to write as the file has them; empty for other tasks.
  package var targetTexts: [String] = []
}

/// Reads files into samples: rows, labels, split, token ids.
package enum TrainingRows {
  /// Most bytes of a data file.
  package static let maximumFileBytes = 8 << 30

  /// What one file held.
  package struct File {
    /// The usable rows.
    package var examples: [LabelledText]
    /// Malformed rows that were left out.
    package var skippedRows: Int
    /// What a person should know about the file.
    package var warnings: [String]
  }

  /// Reads a file's rows; `labels` says what the label column holds.
  package static func read(_ path: String, options: DataOptions, labels: LabelKind) throws -> File {
    let bytes = try readWholeFile(path, limit: maximumFileBytes)
    let selection = ColumnSelection(
      text: options.textColumn.map(ColumnReference.init), pair: options.pairColumn.map(ColumnReference.init),
      label: options.labelColumn.map(ColumnReference.init))
    let result = try readExamples(
      bytes: bytes, name: path,
      options: DataReadOptions(
        format: options.format.flatMap { DataFormat(rawValue: $0.rawValue) }, columns: selection,
        hasHeader: options.header, labels: labels, strict: options.strict))
    var warnings: [String] = []
    if let first = result.skipped.first {
      warnings.append("'\(path)': \(result.skippedCount) malformed rows were skipped; the first: \(first)")
    }
    if result.repairedCount > 0 {
      warnings.append("'\(path)': \(result.repairedCount) rows were not valid UTF-8 and were repaired")
    }
    return File(examples: result.examples, skippedRows: result.skippedCount, warnings: warnings)
  }

  /// What the label column of a task holds.
  package static func labelKind(_ task: RunTask) -> LabelKind {
    switch task {
    case .classify: .name
    case .regress: .number
    case .seq2seq: .text
    }
  }

  /// What the label column of an adapter's task holds.
  package static func labelKind(_ task: AdapterTask) -> LabelKind {
    switch task {
    case .classify: .name
    case .regress: .number
    case .seq2seq: .text
    }
  }

  /// The task of an adapter, from its training rows.
  ///
  /// - Parameter targetLength: most tokens of a text that is written.
  package static func task(
    _ task: RunTask, training: [LabelledText], targetLength: Int
  ) throws -> AdapterTask {
    switch task {
    case .seq2seq: return .seq2seq(maximumTargetLength: targetLength)
    case .classify: return .classify(labels: try LabelMap(of: training).names)
    case .regress:
      let targets = regressionTargets(of: training).map(Double.init)
      let mean = targets.reduce(0, +) / Double(targets.count)
      let variance = targets.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(targets.count)
      // Constant targets have no scale of their own; 1 keeps them as they are.
      return .regress(mean: mean, deviation: variance > 0 ? variance.squareRoot() : 1)
    }
  }

  /// Token ids and standardised targets of labelled rows.
  package static func samples(
    _ examples: [LabelledText], task: AdapterTask, model: OpenedModel, maximumLength: Int
  ) throws -> PreparedRows {
    if case .seq2seq(let targetLength) = task {
      return try textSamples(
        examples, targetLength: targetLength, model: model, maximumLength: maximumLength)
    }
    var targets: [TrainingTarget]
    switch task {
    case .classify(let labels):
      targets = try LabelMap(names: labels).indices(of: examples).map { .label($0) }
    case .regress(let mean, let deviation):
      targets = regressionTargets(of: examples).map { .value(Float((Double($0) - mean) / deviation)) }
    case .seq2seq: preconditionFailure("texts to write have their own samples")
    }
    var rows = PreparedRows()
    rows.samples.reserveCapacity(examples.count)
    for (example, target) in zip(examples, targets) {
      let encoded = try model.tokenizer.encode(example.text, pair: example.pair, maxLength: maximumLength)
      if encoded.truncatedTokens > 0 { rows.truncatedTexts += 1 }
      rows.samples.append(
        TrainingSample(
          encoderIDs: encoded.ids, encoderTypes: encoded.types, decoderIDs: model.decoderIDs, target: target))
    }
    return rows
  }

  /// Token ids of inputs and targets, for teacher forcing.
  private static func textSamples(
    _ examples: [LabelledText], targetLength: Int, model: OpenedModel, maximumLength: Int
  ) throws -> PreparedRows {
    guard let startID = model.architecture.decoderStartID else {
      throw TechniqueFailure.noDecoder(family: model.architecture.name)
    }
    var rows = PreparedRows()
    rows.samples.reserveCapacity(examples.count)
    for example in examples {
      let encoded = try model.tokenizer.encode(example.text, pair: example.pair, maxLength: maximumLength)
      let text = example.label ?? ""
      let target = try model.tokenizer.encodeTarget(text, decoderStartID: startID, maxLength: targetLength)
      if encoded.truncatedTokens > 0 { rows.truncatedTexts += 1 }
      if target.truncatedTokens > 0 { rows.truncatedTargets += 1 }
      rows.targetTexts.append(text)
      rows.samples.append(
        TrainingSample(
          encoderIDs: encoded.ids, encoderTypes: encoded.types, decoderIDs: target.decoderIDs,
          target: .tokens(target.labels)))
    }
    return rows
  }

  /// Micro-batches of consecutive samples, for evaluation and prediction, numbered from `firstOrdinal` if given.
  package static func consecutive(
    _ samples: [TrainingSample], size: Int, firstOrdinal: Int? = nil
  ) -> [PackedMicroBatch] {
    stride(from: 0, to: samples.count, by: size).map { start in
      PackedMicroBatch(
        samples: Array(start..<min(start + size, samples.count)), of: samples,
        ordinal: firstOrdinal.map { $0 + start / size } ?? -1)
    }
  }
}
