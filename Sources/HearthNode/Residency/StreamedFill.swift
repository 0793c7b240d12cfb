import ActivationCache
import ComputeRuntime
import FineTuning

/// The fill of a run's cache with a clock, progress and a way to stop.
struct StreamedFill {
  let run: PreparedRun
  let model: OpenedModel
  let plan: StreamingPlan
  let cache: ActivationCacheStore
  let team: ComputeTeam

  /// Computes what the cache lacks; nil when it lacks nothing.
  ///
  /// - Returns: false when `cancellation` stopped it after its last whole chunk.
  func run(
    cancellation: CancellationFlag, report: (RunEvent) -> Void
  ) throws -> (summary: FillSummary, isFinished: Bool)? {
    let batches = run.batches.flatMap { $0 } + run.validation
    let missing = CacheFill.missing(batches, in: cache)
    guard !missing.isEmpty, let backbone = model.backbone, let weights = model.streamedWeights,
      let shape = run.technique.sideShape
    else { return nil }
    report(.phase(.fill))
    let start = MonotonicClock.seconds()
    let forward = LayerwiseForward(
      shape: shape, backbone: backbone, weights: weights, element: run.request.cache,
      capacity: run.capacity, chunkTokens: plan.chunkTokens, workers: team.width)
    let fill = CacheFill(cache: cache, forward: forward, chunkTokens: plan.chunkTokens)
    let finished = try fill.run(missing, loop: team) { progress in
      let seconds = max(MonotonicClock.seconds() - start, 1e-9)
      let rate = Double(progress.samples) / seconds
      report(
        .progress(
          RunProgress(
            phase: .fill, epoch: 0, step: progress.samples, steps: progress.totalSamples,
            samplesPerSecond: rate,
            etaSeconds: rate > 0 ? Double(progress.totalSamples - progress.samples) / rate : nil,
            layer: min(progress.layer + 1, progress.layers), layers: progress.layers)))
      return !cancellation.isCancelled
    }
    let samples = missing.reduce(0) { $0 + $1.samples.count }
    let seconds = MonotonicClock.seconds() - start
    let summary = FillSummary(samples: samples, seconds: seconds)
    if finished { report(.filled(summary)) }
    return (summary, finished)
  }
}
