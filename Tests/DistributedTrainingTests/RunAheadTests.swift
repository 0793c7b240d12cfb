import DistributedTraining
import FineTuning
import Foundation
import NeuralNetworks
import ParallelPlanner
import TensorKernels
import Testing

@Suite("What devices of whole units run ahead")
struct RunAheadTests {
  @Test(
    "while a ring is under way, the backbone runs for the next mini-batch, and the adapter is that of one device",
    arguments: [TinyJob.parallel(), .parallel("tiny-bert", .value)], [1, 2])
  func ahead(job: TinyJob, workers: Int) throws {
    var job = job
    job.workers = workers
    job.samples = 37
    let reference = try job.reference()
    let gate = AheadGate()
    job.aheadGate = gate
    // Units of the second mini-batch, of the second and the third, and so on.
    let miniBatches = try job.distributed(job.backbone()).lanePlan.miniBatches(epoch: 0)
    var expected = [0]
    for ids in miniBatches.dropFirst() { expected.append(expected[expected.count - 1] + ids.count) }
    // No ring of a step is over before all devices have run the next one's units.
    let channels = InMemoryJobChannels(devices: 3) { [expected] _, _, tag, _ in
      if tag.kind == .reduceScatter { gate.wait(for: expected[min(Int(tag.step), expected.count - 1)]) }
      return nil
    }
    let shares = [(0, 2), (1, 1), (2, 1)]
    let outcomes = try job.run(
      .test(.hybrid, stages: [shares], cached: shares), devices: 3, channels: channels)
    expectSame(outcomes, reference, complete: [0, 1, 2], "run ahead")
    #expect(gate.prepared == expected.last)
  }

  @Test("without a cache nothing is run ahead, as there is no place for it")
  func noCache() throws {
    var job = TinyJob.parallel()
    let reference = try job.reference()
    let gate = AheadGate()
    job.aheadGate = gate
    let outcomes = try job.run(.test(.live, stages: [[(0, 2), (1, 2)]]), devices: 2)
    expectSame(outcomes, reference, complete: [0, 1], "no cache")
    #expect(gate.prepared == 0)
  }
}

/// Counts what is run ahead, and lets others wait for it.
///
/// - Safety: the count is read and written under the condition's lock.
final class AheadGate: @unchecked Sendable {
  /// How long a test waits before it goes on and fails.
  private static let patience = 60.0
  private let condition = NSCondition()
  private var count = 0

  /// Units that were run ahead.
  var prepared: Int { condition.withLock { count } }

  func pass() {
    condition.withLock {
      count += 1
      condition.broadcast()
    }
  }

  func wait(for wanted: Int) {
    condition.lock()
    defer { condition.unlock() }
    let deadline = Date(timeIntervalSinceNow: Self.patience)
    while count < wanted, condition.wait(until: deadline) {}
  }
}

/// A technique that tells a gate what it runs ahead.
final class GatedTechnique: TechniqueComputation {
  private let technique: any TechniqueComputation
  private let gate: AheadGate

  init(_ technique: any TechniqueComputation, _ gate: AheadGate) {
    self.technique = technique
    self.gate = gate
  }

  var parameters: ParameterTree { technique.parameters }
  var gradientSums: GradientSumFormat { technique.gradientSums }
  var contributions: Int { technique.contributions }
  func begin(step: Int) { technique.begin(step: step) }

  func prepare(_ batch: PackedMicroBatch, worker: Int) throws(TrainingFailure) -> Bool {
    let isKept = try technique.prepare(batch, worker: worker)
    if isKept { gate.pass() }
    return isKept
  }

  func train(
    _ batch: PackedMicroBatch, worker: Int, sink: any GradientSink
  ) throws(TrainingFailure) -> Double {
    try technique.train(batch, worker: worker, sink: sink)
  }

  func loss(_ batch: PackedMicroBatch, worker: Int) throws(TrainingFailure) -> Double {
    try technique.loss(batch, worker: worker)
  }

  func predict(_ batch: PackedMicroBatch, worker: Int) throws(TrainingFailure) -> Matrix {
    try technique.predict(batch, worker: worker)
  }
}
