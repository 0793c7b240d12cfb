import FineTuning
import FoundationEssentials
import HearthStorage
import LanguageModels
package import NeuralNetworks

/// Where a run is and what it has measured so far: everything beside the numbers that makes a checkpoint.
package struct RunPosition: Codable, Equatable, Sendable {
  /// Version of the format and of how samples are dealt to lanes: steps mean something only under one deal.
  package static let currentVersion = 2
  /// The version that wrote it.
  package var version = currentVersion
  /// Finished epochs.
  package var epoch: Int
  /// Finished steps of the epoch in progress.
  package var step: Int
  /// Finished optimizer steps.
  package var optimizerStep: Int
  /// Exponents of the gradient sums: one, or one a leaf.
  package var exponents: [Int32]
  /// How finely gradients were rounded; nil in full precision.
  package var gradientPrecision: GradientPrecision?
  /// Loss sum and units of the epoch in progress.
  package var lossSum: Double
  /// Units of the epoch in progress.
  package var units: Int
  /// Seconds spent in the epoch in progress.
  package var seconds: Double
  /// True when the epoch in progress has run the backbone.
  package var ranLive: Bool
  /// Finished epochs.
  package var epochs: [EpochSummary]
  /// Metrics before training.
  package var before: [MetricValue]
  /// Latest metrics.
  package var after: [MetricValue]
  /// Number of finished epochs at the latest evaluation; −1 before the first.
  package var evaluatedEpoch: Int
  /// What the cache was filled with before the first epoch of a job; nil in a run on one device, which counts its own.
  package var fill: FillSummary?
  /// Digest of the backbone that the state belongs to.
  package var backboneDigest: String
  /// Digest of the rows that the state belongs to.
  package var rowsDigest: String

  /// The start of a run.
  package init(backboneDigest: String, rowsDigest: String) {
    epoch = 0
    step = 0
    optimizerStep = 0
    exponents = []
    lossSum = 0
    units = 0
    seconds = 0
    ranLive = false
    epochs = []
    before = []
    after = []
    evaluatedEpoch = -1
    self.backboneDigest = backboneDigest
    self.rowsDigest = rowsDigest
  }
}

/// Saved numbers of a run, borrowed from the mapped file: a resumption needs no second copy of them.
///
/// The file may be replaced meanwhile; the mapping keeps what it was.
package struct RunState {
  /// Where the run is.
  package let position: RunPosition
  /// The flat parameter vector.
  package let parameters: UnsafeBufferPointer<Float>
  /// AdamW's first moments.
  package let firstMoments: UnsafeBufferPointer<Float>
  /// AdamW's second moments.
  package let secondMoments: UnsafeBufferPointer<Float>
  /// Keeps the borrowed numbers alive.
  fileprivate let checkpoint: Checkpoint
}

/// The files of a run: its record, its checkpoint, its cache, and at the end the adapter.
package struct RunDirectory: Sendable {
  /// Path of the directory.
  package let path: String

  private static let recordLimit = 1 << 20
  private static let positionKey = "position"

  /// A run directory at `path`; nothing is touched yet.
  package init(_ path: String) { self.path = path }

  /// Name of the record of what was asked.
  package static let recordName = "run.json"

  private var recordPath: String { path + "/" + Self.recordName }
  private var statePath: String { path + "/state.safetensors" }
  /// Where the activation cache is unless the request says otherwise.
  package var cachePath: String { path + "/cache" }

  /// Makes the directory and writes the record of what was asked.
  package func create(_ request: TrainRequest) throws {
    try createDirectory(path)
    try AtomicFile.write(try Self.encode(request), to: recordPath)
  }

  /// The request of an interrupted run.
  package func record() throws -> TrainRequest {
    guard let bytes = try readFileIfPresent(recordPath, limit: Self.recordLimit) else {
      throw RunFailure.notResumable(
        path: path, detail: "it has no run.json; start it with hearth train --output")
    }
    do {
      return try JSONDecoder().decode(TrainRequest.self, from: Data(bytes))
    } catch {
      throw RunFailure.notResumable(path: path, detail: "run.json is damaged (\(error))")
    }
  }

  /// Writes a checkpoint in one atomic step, straight from the run's own vectors.
  package func save(
    _ position: RunPosition, parameters: UnsafeBufferPointer<Float>,
    firstMoments: UnsafeBufferPointer<Float>, secondMoments: UnsafeBufferPointer<Float>
  ) throws {
    let text = String(decoding: try Self.encode(position), as: UTF8.self)
    let vectors = [
      "parameters": parameters, "first_moments": firstMoments, "second_moments": secondMoments,
    ]
    let layout = SafetensorsLayout(
      vectors.map { ($0.key, [$0.value.count]) }, metadata: [Self.positionKey: text])
    // Piece by piece: a copy of everything would be most of a small device's memory.
    var file = try AtomicFile(statePath)
    try streamSafetensors(layout) { entry, range, part in
      guard let values = vectors[entry.name] else { preconditionFailure("no vector \(entry.name)") }
      _ = part.update(from: UnsafeBufferPointer(rebasing: values[range]))
    } sink: { (piece: UnsafeRawBufferPointer) throws in
      try file.append(piece)
    }
    try file.commit()
  }

  /// The last checkpoint, or nil when the run never reached one.
  package func state() throws -> RunState? {
    guard let region = try mapFileIfPresent(statePath) else { return nil }
    do {
      return try Self.state(in: region)
    } catch {
      throw RunFailure.notResumable(path: path, detail: "state.safetensors is damaged (\(error))")
    }
  }

  private static func state(in region: MappedFile) throws -> RunState {
    let file = try SafetensorsFile(region: region)
    let text = file.metadata[positionKey] ?? ""
    let checkpoint = try Checkpoint(region: region)
    func vector(_ name: String) throws -> UnsafeBufferPointer<Float> {
      let count = checkpoint.entry(name)?.elementCount ?? 0
      return UnsafeBufferPointer(
        start: try checkpoint.float32(named: name, shape: [count]), count: count)
    }
    return RunState(
      position: try JSONDecoder().decode(RunPosition.self, from: Data(text.utf8)),
      parameters: try vector("parameters"), firstMoments: try vector("first_moments"),
      secondMoments: try vector("second_moments"), checkpoint: checkpoint)
  }

  /// Takes the directory away again when a run failed before it had anything to go on from.
  package func removeIfUnused() {
    // Best effort: the failure that brought us here is what the person has to hear about.
    guard (try? removeEmptyDirectory(cachePath)) == true,
      let names = try? directoryNames(path), names == [Self.recordName]
    else { return }
    _ = try? removeFile(recordPath)
    _ = try? removeEmptyDirectory(path)
  }

  /// Removes what only a resumption needs.
  package func removeState() throws {
    _ = try removeFile(statePath)
  }

  private static func encode(_ value: some Encodable) throws -> [UInt8] {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .prettyPrinted, .withoutEscapingSlashes]
    return Array(try encoder.encode(value))
  }
}

/// The bytes of a file, or nil when there is none.
func readFileIfPresent(_ path: String, limit: Int) throws(FileFailure) -> [UInt8]? {
  do throws(FileFailure) {
    return try readWholeFile(path, limit: limit)
  } catch {
    if error.isMissing { return nil }
    throw error
  }
}

/// A mapping of a file, or nil when there is none.
func mapFileIfPresent(_ path: String) throws(FileFailure) -> MappedFile? {
  do throws(FileFailure) {
    return try MappedFile(path)
  } catch {
    if error.isMissing { return nil }
    throw error
  }
}
