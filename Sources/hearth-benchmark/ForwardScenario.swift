import ComputeRuntime
import FineTuning
import LanguageModels
import NeuralNetworks
import TensorKernels

/// The whole frozen model, from token ids to the logits of its head.
///
/// Micro-batches run in parallel, each whole on one thread; the head, whose weights are read once for all
/// decoder tokens, is split by rows of the vocabulary.
final class ForwardScenario: Scenario {
  private(set) var workload: WorkloadFile
  let trainableParameters = 0
  private let options: WorkerOptions
  private let team: ComputeTeam
  private let backbone: T5Backbone
  private var miniBatches: [[BackboneBatch]] = []
  private var workspaces: [Arena] = []
  private var states = Arena(floatCount: 16)
  private var logits = Arena(floatCount: 16)
  private var next = 0

  init(_ options: WorkerOptions, workload: WorkloadFile, team: ComputeTeam) throws {
    self.options = options
    self.workload = workload
    self.team = team
    backbone = try BenchmarkModel(directory: options.model).backbone
    try use(workload)
  }

  var products: ForwardProducts { ForwardProducts(backbone.architecture, microBatches: miniBatches[0]) }

  func use(_ workload: WorkloadFile) throws {
    self.workload = workload
    next = 0
    miniBatches = workload.microBatches(
      of: options, architecture: backbone.architecture, draw: 0
    ).map { $0.map(\.backboneBatch) }
    let all = Array(miniBatches.joined())
    let capacity = BackboneCapacity(covering: all)
    let floats = backbone.workspaceFloats(capacity: capacity)
    workspaces = (0..<team.width).map { _ in Arena(floatCount: floats) }
    let rows = miniBatches.map { $0.reduce(0) { $0 + ($1.decoder?.tokens ?? 0) } }.max() ?? 0
    states = Arena(floatCount: rows * backbone.architecture.width)
    logits = Arena(floatCount: rows * backbone.architecture.vocabulary)
  }

  func prepareStep() {}

  func step() -> Int {
    let batches = miniBatches[next % miniBatches.count]
    next += 1
    let width = backbone.architecture.width
    var firstRows = [0]
    for batch in batches { firstRows.append(firstRows[firstRows.count - 1] + (batch.decoder?.tokens ?? 0)) }
    let states = Matrix(self.states.base, rows: firstRows[batches.count], columns: width)
    let last = backbone.architecture.stacks.count - 1
    let lastTap = backbone.architecture.stacks[last].tapCount - 1
    team.forEach(batches.count) { [backbone, workspaces, firstRows] piece, worker in
      backbone.forward(batches[piece], workspace: workspaces[worker]) { stack, index, rows in
        guard stack == last, index == lastTap, let norm = backbone.finalNorm(stack: last) else { return }
        let place = states.rowRange(firstRows[piece], count: rows.rows)
        norm.forward(rows, into: place, statistics: nil)
      }
    }
    let head = backbone.headWeight.matrix
    let logits = Matrix(self.logits.base, rows: states.rows, columns: head.rows)
    team.forEach(team.width) { [team, backbone] piece, _ in
      let first = piece * head.rows / team.width
      let count = (piece + 1) * head.rows / team.width - first
      matrixMultiply(
        states, .none, head.rowRange(first, count: count), .transposed,
        into: logits.columnRange(first, count: count), epilogue: Epilogue(scale: backbone.headScale))
    }
    return batches.reduce(0) { $0 + $1.encoder.count }
  }
}

extension BackboneCapacity {
  /// What the largest of each measure needs.
  init(covering batches: [BackboneBatch]) {
    self.init(
      encoderTokens: batches.map(\.encoder.tokens).max() ?? 1,
      longestEncoder: batches.map(\.encoder.longest).max() ?? 1,
      decoderTokens: batches.map { $0.decoder?.tokens ?? 0 }.max() ?? 0,
      longestDecoder: batches.map { $0.decoder?.longest ?? 0 }.max() ?? 0)
  }
}

extension PackedMicroBatch {
  /// The ids as the backbone reads them.
  var backboneBatch: BackboneBatch {
    BackboneBatch(
      encoderIDs: encoderIDs, encoderTypes: encoderTypes, encoder: encoder, decoderIDs: decoderIDs,
      decoder: decoder)
  }
}

extension WorkloadFile {
  /// The packed micro-batches of every mini-batch, with token ids of draw `draw`.
  func microBatches(
    of options: WorkerOptions, architecture: BackboneArchitecture, draw: Int
  ) -> [[PackedMicroBatch]] {
    batches.indices.map { microBatches(ofBatch: $0, options, architecture: architecture, draw: draw) }
  }

  /// The packed micro-batches of one mini-batch, long ones first, as a training run has them.
  func microBatches(
    ofBatch batch: Int, _ options: WorkerOptions, architecture: BackboneArchitecture, draw: Int
  ) -> [PackedMicroBatch] {
    let samples = samples(
      of: batch, draw: draw, vocabulary: architecture.vocabulary,
      decoderStart: architecture.decoderStartID ?? 0, seed: options.seed)
    let size = options.microBatch
    let before = batches[..<batch].reduce(0) { $0 + ($1.count + size - 1) / size }
    return stride(from: 0, to: samples.count, by: size).map { first in
      PackedMicroBatch(
        samples: Array(first..<min(first + size, samples.count)), of: samples,
        ordinal: before + first / size)
    }.sorted { ($0.tokens, $1.ordinal) > ($1.tokens, $0.ordinal) }
  }
}
