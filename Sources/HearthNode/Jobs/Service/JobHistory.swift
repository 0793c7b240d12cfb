import TrainingCoordination

/// What devices told of a job only once, as its owner keeps it for the adapter's description.
struct JobHistory: Codable, Equatable {
  /// A finished epoch.
  struct Epoch: Codable, Equatable {
    var index: UInt32
    var isCached: Bool
    var seconds: Double
    var samplesPerSecond: Double
    var loss: Double
  }

  /// A metric after a number of finished epochs.
  struct Metric: Codable, Equatable {
    var epoch: UInt32
    var name: String
    var value: Double
  }

  private(set) var finished: [Epoch] = []
  private(set) var measured: [Metric] = []

  /// Nothing yet.
  init() {}

  /// What is known of epochs and metrics, by number.
  init(_ epochs: [UInt32: FinishedEpoch], _ metrics: [UInt32: [NamedMetric]]) {
    func finite(_ value: Double) -> Double { value.isFinite ? value : 0 }
    finished = epochs.keys.sorted().compactMap { epochs[$0] }.map {
      Epoch(
        index: $0.index, isCached: $0.isCached, seconds: finite($0.seconds),
        samplesPerSecond: finite($0.samplesPerSecond), loss: finite($0.loss))
    }
    measured = metrics.keys.sorted().flatMap { epoch in
      (metrics[epoch] ?? []).map { Metric(epoch: epoch, name: $0.name, value: finite($0.value)) }
    }
  }

  /// The finished epochs by number.
  var epochs: [UInt32: FinishedEpoch] {
    Dictionary(
      finished.map { epoch in
        (
          epoch.index,
          FinishedEpoch(
            index: epoch.index, isCached: epoch.isCached, seconds: epoch.seconds,
            samplesPerSecond: epoch.samplesPerSecond, loss: epoch.loss)
        )
      }
    ) { first, _ in first }
  }

  /// The metrics by number of finished epochs.
  var metrics: [UInt32: [NamedMetric]] {
    Dictionary(grouping: measured, by: \.epoch).mapValues { metrics in
      metrics.map { NamedMetric(name: $0.name, value: $0.value) }
    }
  }
}
