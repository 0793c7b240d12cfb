import ComputeRuntime
import FineTuning
import LanguageModels
import TensorKernels

/// Measures an adapter on the labelled rows of a file.
package func evaluate(
  _ request: EvaluateRequest, cancellation: CancellationFlag, report: (RunEvent) -> Void
) throws -> EvaluationSummary {
  report(.phase(.preparation))
  try RunPreflight.checkInputFile(request.dataFile, role: "data file")
  let adapted = try AdaptedModel(
    adapter: request.adapterDirectory, modelDirectory: request.modelDirectory, threads: request.threads,
    memoryBudget: request.memoryBudget)
  let task = adapted.description.task
  let file = try TrainingRows.read(
    request.dataFile, options: request.data, labels: TrainingRows.labelKind(task))
  for warning in file.warnings + adapted.adapter.warnings { report(.warning(warning)) }
  if case .parallel(let side) = adapted.description.technique, side.pooling?.readsPairs == true,
    !file.examples.contains(where: { $0.pair != nil })
  {
    report(
      .warning(
        "'\(request.dataFile)': no row has a second text, and the adapter was trained to compare two; name its column "
          + "with --pair-column"))
  }
  let rows = try TrainingRows.samples(
    file.examples, task: task, model: adapted.model, maximumLength: adapted.description.maximumLength)
  report(.phase(.evaluation))
  let start = MonotonicClock.seconds()
  let total = rows.samples.count
  func watch(_ samples: Int) -> Bool {
    let seconds = max(MonotonicClock.seconds() - start, 1e-9)
    report(
      .progress(
        RunProgress(
          phase: .evaluation, epoch: 0, step: samples, steps: total,
          samplesPerSecond: Double(samples) / seconds,
          etaSeconds: seconds * Double(total - samples) / Double(max(1, samples)))))
    return !cancellation.isCancelled
  }
  guard let metrics = try metrics(of: adapted, rows, finished: watch) else {
    throw RunFailure.interrupted(runDirectory: request.adapterDirectory, step: 0, steps: total)
  }
  return EvaluationSummary(
    samples: total, skippedRows: file.skippedRows, truncatedTexts: rows.truncatedTexts,
    metrics: metrics,
    seconds: MonotonicClock.seconds() - start, adapterDigest: adapted.description.adapterDigest)
}

/// The metrics of an adapted model; nil when `finished` returned false.
private func metrics(
  of adapted: AdaptedModel, _ rows: PreparedRows, finished: (Int) -> Bool
) throws -> [MetricValue]? {
  guard case .seq2seq = adapted.description.task else {
    return try adapted.predict(rows.samples, finished: finished).map {
      Measurement.metrics($0, samples: rows.samples, task: adapted.description.task)
    }
  }
  guard let loss = try adapted.tokenLoss(rows.samples, finished: finished),
    let written = try adapted.write(
      rows.samples.map { ($0.encoderIDs, $0.encoderTypes) }, finished: finished)
  else { return nil }
  return Measurement.textMetrics(
    tokenLoss: loss,
    exactMatch: exactMatch(
      predicted: written.map { adapted.model.tokenizer.decode($0.ids) }, actual: rows.targetTexts))
}

/// Predicts texts with an adapter; made once, used for any number of chunks.
package final class Predictor {
  /// What is predicted.
  package let task: RunTask
  /// Labels in the order of the scores; empty for a regression.
  package let labels: [String]
  private let adapted: AdaptedModel

  /// Opens the adapter and its backbone.
  package init(_ request: PredictRequest) throws {
    adapted = try AdaptedModel(
      adapter: request.adapterDirectory, modelDirectory: request.modelDirectory, threads: request.threads,
      memoryBudget: request.memoryBudget)
    switch adapted.description.task {
    case .classify(let names): (task, labels) = (.classify, names)
    case .regress: (task, labels) = (.regress, [])
    case .seq2seq: (task, labels) = (.seq2seq, [])
    }
  }

  /// Predicts a chunk of texts, in order.
  package func predict(_ texts: [PredictionInput]) throws -> [Prediction] {
    guard !texts.isEmpty else { return [] }
    var truncated: [Bool] = []
    var samples: [TrainingSample] = []
    for input in texts {
      let encoded = try adapted.model.tokenizer.encode(
        input.text, pair: input.pair, maxLength: adapted.description.maximumLength)
      truncated.append(encoded.truncatedTokens > 0)
      samples.append(
        TrainingSample(
          encoderIDs: encoded.ids, encoderTypes: encoded.types, decoderIDs: adapted.model.decoderIDs,
          target: .none))
    }
    if task == .seq2seq {
      let written = try adapted.write(samples.map { ($0.encoderIDs, $0.encoderTypes) }) ?? []
      return zip(written, truncated).map { found, isTruncated in
        Prediction(label: adapted.model.tokenizer.decode(found.ids), scores: [], truncated: isTruncated)
      }
    }
    let values = try adapted.predict(samples) ?? []
    return texts.indices.map { prediction(values, row: $0, truncated: truncated[$0]) }
  }

  private func prediction(_ values: [Float], row: Int, truncated: Bool) -> Prediction {
    if case .regress(let mean, let deviation) = adapted.description.task {
      return Prediction(label: nil, scores: [mean + deviation * Double(values[row])], truncated: truncated)
    }
    var scores = Array(values[row * labels.count..<(row + 1) * labels.count])
    let best = Measurement.best(values, row: row, columns: labels.count)
    scores.withUnsafeMutableBufferPointer { buffer in
      guard let base = buffer.baseAddress else { return }
      softmaxRows(Matrix(base, rows: 1, columns: buffer.count))
    }
    return Prediction(label: labels[best], scores: scores.map(Double.init), truncated: truncated)
  }
}
