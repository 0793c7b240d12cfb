import ComputeRuntime
import Determinism
import DistributedTraining
import FineTuning
import NeuralNetworks
import ParallelPlanner
import Synchronization
import TensorKernels
import Testing

/// Gradients made up from the samples' indices, far too large for the first exponent in one sample alone.
///
/// - Safety: workers only read it, and parameters change between steps.
private final class OneLargeGradient: TechniqueComputation, @unchecked Sendable {
  let large: Int
  let size: Float
  let gradientSums: GradientSumFormat
  let parameters = ParameterTree(trainable: [
    ParameterShape("weights", rows: 7, columns: 33, kind: .weight),
    ParameterShape("bias", rows: 1, columns: 5, kind: .bias),
  ]) { index, values in
    var generator = SeededGenerator(seed: UInt64(index))
    for element in 0..<values.count { values[element] = generator.normalFloat() }
  }

  init(large: Int, size: Float, sums: GradientSumFormat) {
    (self.large, self.size, gradientSums) = (large, size, sums)
  }

  func train(
    _ batch: PackedMicroBatch, worker: Int, sink: any GradientSink
  ) throws(TrainingFailure) -> Double {
    for leaf in parameters.parameters {
      var gradient = [Float](repeating: 0, count: leaf.count)
      for sample in batch.samples {
        var generator = SeededGenerator(seed: 2, UInt64(sample))
        for index in 0..<gradient.count {
          gradient[index] += (sample == large ? size : 1e-3) * generator.normalFloat()
        }
      }
      sink.add(gradient, of: leaf)
    }
    return Double(batch.samples.reduce(0, +))
  }

  func loss(_ batch: PackedMicroBatch, worker: Int) throws(TrainingFailure) -> Double { 0 }

  func predict(_ batch: PackedMicroBatch, worker: Int) throws(TrainingFailure) -> Matrix {
    Matrix(parameters.vector, rows: 1, columns: 1)
  }
}

@Suite("A step that must be computed again")
struct RepeatedStepTests {
  private static func job() -> DistributedJob {
    let samples = (0..<24).map { index in
      TrainingSample(encoderIDs: [Int32(index)], encoderTypes: [0], decoderIDs: [], target: .label(0))
    }
    let plan = LanePlan(sampleCount: 24, laneCount: 4, samplesPerMicroBatch: 2, seed: 3)
    let batches = plan.lanes.map { $0.map { PackedMicroBatch(samples: $0, of: samples) } }
    return DistributedJob(
      lanePlan: plan, batches: batches, validation: [], validationSamples: 0, outputs: 1, epochs: 2,
      optimization: OptimizationSettings(learningRate: 0.01),
      capacity: MicroBatchCapacity(batches.flatMap { $0 }))
  }

  @Test(
    "is computed again on every device, though the large gradient was seen on one alone",
    arguments: [(GradientSumFormat.fixed64, Float(1e9)), (.coarse64, 1e12)])
  func overflowElsewhere(sums: GradientSumFormat, size: Float) throws {
    let technique = OneLargeGradient(large: 11, size: size, sums: sums)
    let job = Self.job()
    let trainer = MiniBatchTrainer(
      technique: technique, settings: job.optimization, totalSteps: job.totalSteps, maximumMicroBatches: 4,
      workers: 1)
    for epoch in 0..<job.epochs {
      for ids in job.lanePlan.miniBatches(epoch: epoch) {
        let batches = ids.map { job.batches[$0.lane][$0.index] }
        _ = try trainer.step(batches, units: batches.reduce(0) { $0 + $1.units }, loop: SequentialLoop())
      }
    }
    #expect(trainer.repeatedSteps > 0)
    let expected = TinyJob.bits(technique.parameters)
    for devices in [1, 3, 4] {
      let channels = InMemoryJobChannels(devices: devices)
      let units = (0..<devices).map { ($0, $0 < 4 % devices ? 4 / devices + 1 : 4 / devices) }
      let plan = Plan.test(.live, stages: [units])
      let results = Mutex([Int: (bits: [UInt32], repeated: Int)]())
      let threads = (0..<devices).map { place in
        OperatingSystemThread(name: "device-\(place)") {
          let own = OneLargeGradient(large: 11, size: size, sums: sums)
          let result = try? DistributedRun(
            job, plan: plan, devices: devices, collector: nil,
            technique: DeviceTechnique(
              parameters: { _ in own.parameters },
              whole: { _ in WorkingTechnique(computation: own, source: nil) },
              stage: { _, _ in throw DistributedRunFailure.unfitPlan("no stages") },
              cached: { _ in throw DistributedRunFailure.unfitPlan("no cache") },
              releaseBackbone: {}, taps: nil, spill: { _ in }),
            channel: channels.channel(place), team: ComputeTeam(width: 1), isCancelled: { false },
            report: { _ in }
          ).run()
          results.withLock {
            $0[place] = result.map {
              (TinyJob.bits($0.parameters), $0.epochs.reduce(0) { $0 + $1.repeatedSteps })
            }
          }
        }
      }
      for thread in threads { thread.join() }
      for place in 0..<devices {
        let result = results.withLock { $0[place] }
        #expect(result?.bits == expected, "device \(place) of \(devices)")
        #expect(result?.repeated == trainer.repeatedSteps)
      }
      #expect(channels.unread.isEmpty)
    }
  }
}
