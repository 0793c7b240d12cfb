import ComputeRuntime
import Determinism
import FineTuning
import NeuralNetworks
import TensorKernels
import Testing

/// A technique whose gradients are made up from the samples' indices: any lost or doubled sample shows.
///
/// - Safety: workers only read it, and parameters change between steps.
private final class MadeUpGradients: TechniqueComputation, @unchecked Sendable {
  let parameters: ParameterTree
  let scale: Float
  let gradientSums: GradientSumFormat
  /// Micro-batch with this first sample fails once, or for ever.
  let failing: Int?

  init(count: Int = 1000, scale: Float = 1, failing: Int? = nil, sums: GradientSumFormat = .fixed64) {
    gradientSums = sums
    self.scale = scale
    self.failing = failing
    parameters = ParameterTree(trainable: [
      ParameterShape("weights", rows: 1, columns: count, kind: .weight)
    ]) { _, values in
      var generator = SeededGenerator(seed: 1)
      for index in 0..<values.count { values[index] = generator.normalFloat() }
    }
  }

  func train(
    _ batch: PackedMicroBatch, worker: Int, sink: any GradientSink
  ) throws(TrainingFailure) -> Double {
    if batch.samples[0] == failing { throw .activationsMissing(samples: batch.samples.count) }
    let parameter = parameters["weights"]
    var gradient = [Float](repeating: 0, count: parameter.count)
    for sample in batch.samples {
      var generator = SeededGenerator(seed: 2, UInt64(sample))
      for index in 0..<gradient.count {
        gradient[index] += scale * generator.normalFloat() * parameter.values[index]
      }
    }
    sink.add(gradient, of: parameter)
    return Double(batch.samples.reduce(0, +))
  }

  func loss(_ batch: PackedMicroBatch, worker: Int) throws(TrainingFailure) -> Double {
    Double(batch.samples.reduce(0, +))
  }

  func predict(_ batch: PackedMicroBatch, worker: Int) throws(TrainingFailure) -> Matrix {
    Matrix(parameters.vector, rows: 1, columns: 1)
  }

  var values: [Float] { (0..<parameters["weights"].count).map { parameters["weights"].values[$0] } }
}

/// A technique whose gradients are in ½ ..< 1, with a sign for each element and step, and depend on nothing else.
///
/// - Safety: workers only read it.
private final class BoundedGradients: TechniqueComputation, @unchecked Sendable {
  let parameters = ParameterTree(trainable: [ParameterShape("weights", rows: 40, columns: 50, kind: .weight)])
  {
    _, values in
    var generator = SeededGenerator(seed: 1)
    for index in 0..<values.count { values[index] = generator.normalFloat() / 4 }
  }
  let gradientSums: GradientSumFormat
  private var step = 0

  init(sums: GradientSumFormat) { gradientSums = sums }

  func begin(step: Int) { self.step = step }

  func train(
    _ batch: PackedMicroBatch, worker: Int, sink: any GradientSink
  ) throws(TrainingFailure) -> Double {
    var signs = SeededGenerator(seed: 3, UInt64(step))
    var sizes = SeededGenerator(seed: 4, UInt64(step * 64 + batch.samples[0]))
    let gradient = (0..<2000).map { _ in
      (signs.uniform(below: 2) == 0 ? -1 : 1) * (0.5 + Float(sizes.uniform(below: 1 << 23)) * 0x1p-24)
    }
    sink.add(gradient, of: parameters["weights"])
    return 1
  }

  func loss(_ batch: PackedMicroBatch, worker: Int) throws(TrainingFailure) -> Double { 1 }

  func predict(_ batch: PackedMicroBatch, worker: Int) throws(TrainingFailure) -> Matrix {
    Matrix(parameters.vector, rows: 1, columns: 1)
  }

  var values: [Float] { (0..<2000).map { parameters["weights"].values[$0] } }
}

@Suite("The mini-batch trainer")
struct MiniBatchTrainerTests {
  private func batches(_ groups: [[Int]]) -> [PackedMicroBatch] {
    let dataset = (0..<64).map { index in
      TrainingSample(
        encoderIDs: [Int32(index)], encoderTypes: [0], decoderIDs: [], target: .label(0))
    }
    return groups.map { PackedMicroBatch(samples: $0, of: dataset) }
  }

  private func trainer(_ technique: MadeUpGradients, workers: Int) -> MiniBatchTrainer {
    MiniBatchTrainer(
      technique: technique, settings: OptimizationSettings(learningRate: 0.01), totalSteps: 20,
      maximumMicroBatches: 8, workers: workers)
  }

  private func parameters(
    after steps: Int, order: [[Int]], workers: Int, scale: Float = 1, sums: GradientSumFormat = .fixed64
  ) throws -> (values: [Float], exponents: [Int32]) {
    let technique = MadeUpGradients(scale: scale, sums: sums)
    let trainer = trainer(technique, workers: workers)
    let team = ComputeTeam(width: workers)
    for _ in 0..<steps {
      let result = try trainer.step(batches(order), units: order.reduce(0) { $0 + $1.count }, loop: team)
      #expect(result.lossSum == Double(order.flatMap { $0 }.reduce(0, +)))
    }
    return (technique.values, trainer.exponents)
  }

  @Test(
    "§7.4 Integer sums: no order of micro-batches and no number of threads changes a bit",
    arguments: [GradientSumFormat.fixed64, .coarse64, .scaled32])
  func orderFree(sums: GradientSumFormat) throws {
    let order = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]
    let expected = try parameters(after: 5, order: order, workers: 1, sums: sums).values
    let reversed = try parameters(after: 5, order: order.reversed(), workers: 1, sums: sums).values
    #expect(reversed == expected)
    let mixed = [order[3], order[0], order[5], order[1], order[4], order[2]]
    for workers in 1...3 {
      let values = try parameters(after: 5, order: mixed, workers: workers, sums: sums).values
      #expect(values == expected, "\(workers) workers")
    }
  }

  @Test("a vector of several blocks gets the update and the norm of the whole gradient")
  func blocks() throws {
    let (count, order) = (100_003, [[0, 1], [2, 3], [4]])
    let technique = MadeUpGradients(count: count)
    let before = technique.values
    var mean = [Double](repeating: 0, count: count)
    for sample in order.joined() {
      var generator = SeededGenerator(seed: 2, UInt64(sample))
      for index in 0..<count { mean[index] += Double(generator.normalFloat() * before[index]) / 5 }
    }
    let norm = mean.reduce(0) { $0 + $1 * $1 }.squareRoot()
    let trainer = trainer(technique, workers: 2)
    let result = try trainer.step(batches(order), units: 5, loop: ComputeTeam(width: 2))
    #expect(abs(result.gradientNorm / norm - 1) < 1e-6)
    // The first of 20 steps, two of which warm up; AdamW's first step is g / (|g| + ε), whatever the moments' decays.
    let rate = 0.005
    let after = technique.values
    for index in 0..<count where abs(mean[index]) > 1e-3 {
      let clipped = mean[index] / max(1, norm)
      let step = clipped / (abs(clipped) + 1e-8) + 0.01 * Double(before[index])
      #expect(
        abs(Double(before[index]) - rate * step - Double(after[index])) < 1e-6,
        "parameter \(index)")
    }
  }

  @Test("an overflow redoes the step with a smaller exponent and trains on")
  func overflow() throws {
    let order = [[0, 1], [2, 3], [4, 5]]
    let large = try parameters(after: 2, order: order, workers: 2, scale: 1e9)
    #expect(large.exponents[0] < GradientAccumulator.defaultExponent)
    let isFinite = large.values.allSatisfy { $0.isFinite }
    #expect(isFinite)
    let again = try parameters(after: 2, order: order.reversed(), workers: 1, scale: 1e9)
    #expect(again.values == large.values)
  }

  @Test("an overflow of coarse sums redoes the step as well")
  func coarseOverflow() throws {
    let order = [[0, 1], [2, 3], [4, 5]]
    let usual = try parameters(after: 2, order: order, workers: 2, sums: .coarse64)
    #expect(usual.exponents == [24])
    let large = try parameters(after: 2, order: order, workers: 2, scale: 1e12, sums: .coarse64)
    #expect(large.exponents == [16])
    let isFinite = large.values.allSatisfy { $0.isFinite }
    #expect(isFinite)
    let again = try parameters(after: 2, order: order.reversed(), workers: 1, scale: 1e12, sums: .coarse64)
    #expect(again.values == large.values)
  }

  @Test("state of one precision is refused in the other")
  func foreignPrecision() throws {
    for (format, other) in [(GradientSumFormat.fixed64, GradientSumFormat.coarse64), (.coarse64, .fixed64)] {
      let before = trainer(MadeUpGradients(sums: format), workers: 1)
      _ = try before.step(batches([[0, 1]]), units: 2, loop: SequentialLoop())
      let after = trainer(MadeUpGradients(sums: other), workers: 1)
      #expect(throws: TrainingFailure.self) {
        try after.restore(
          step: 1, exponents: before.exponents, firstMoments: Array(before.optimizer.firstMoments),
          secondMoments: Array(before.optimizer.secondMoments))
      }
    }
  }

  @Test("scaled sums repeat the first step and a step that has outgrown them, and no others")
  func repeatedSteps() throws {
    let technique = MadeUpGradients(sums: .scaled32)
    let trainer = trainer(technique, workers: 2)
    let order = [[0, 1], [2, 3], [4, 5]]
    for _ in 0..<3 { _ = try trainer.step(batches(order), units: 6, loop: ComputeTeam(width: 2)) }
    #expect(trainer.repeatedSteps == 1)
    for index in 0..<technique.values.count { technique.parameters["weights"].values[index] *= 1000 }
    for _ in 0..<3 { _ = try trainer.step(batches(order), units: 6, loop: ComputeTeam(width: 2)) }
    #expect(trainer.repeatedSteps == 2)
  }

  @Test("scaled sums lead to the parameters of 64-bit sums within the rounding that their exponents allow")
  func scaledSumsAgainstFixedOnes() throws {
    let (steps, rate) = (20, 0.01)
    func run(_ sums: GradientSumFormat) throws -> [Float] {
      let technique = BoundedGradients(sums: sums)
      let trainer = MiniBatchTrainer(
        technique: technique,
        settings: OptimizationSettings(
          learningRate: Float(rate), warmupFraction: 0, weightDecay: 0, maximumNorm: 1e9),
        totalSteps: steps, maximumMicroBatches: 8, workers: 2)
      for step in 0..<steps {
        let order = (0..<8).map { [(step * 8 + $0) % 64] }
        _ = try trainer.step(batches(order), units: 1, loop: ComputeTeam(width: 2))
      }
      return technique.values
    }
    let (fixed, scaled) = (try run(.fixed64), try run(.scaled32))
    // Values are under 2^0, so the exponent is 27 − 4 = 23 and eight values of one sign are off by 8 · 2^-24 = Δ at
    // most; so is their float, whose sum is 4 at least and 8 at most. The update m/√v then moves by at most
    // (2Δ + 2 · 2Δ)/4, at every step.
    let error = 8 * 0x1p-24
    let bound = Double(steps) * rate * 6 * error / 4
    var largest = 0.0
    for (a, b) in zip(fixed, scaled) { largest = max(largest, Double((a - b).magnitude)) }
    // Float rounding of the parameters themselves: half a unit of a value under 2 at each step, on both sides.
    #expect(largest <= bound + Double(steps) * 0x1p-23)
    #expect(largest > 0, "two formats that round differently cannot agree everywhere")
  }

  @Test(
    "gradients that are not numbers are a named failure and change no parameter",
    arguments: [GradientSumFormat.fixed64, .coarse64, .scaled32])
  func notANumber(sums: GradientSumFormat) throws {
    let technique = MadeUpGradients(scale: .nan, sums: sums)
    let before = technique.values
    #expect(throws: TrainingFailure.diverged(step: 1)) {
      try trainer(technique, workers: 1).step(batches([[0], [1]]), units: 2, loop: SequentialLoop())
    }
    #expect(technique.values == before)
  }

  @Test("a failed micro-batch ends the step before any parameter changes")
  func failedMicroBatch() throws {
    let technique = MadeUpGradients(failing: 2)
    let before = technique.values
    #expect(throws: TrainingFailure.activationsMissing(samples: 2)) {
      try trainer(technique, workers: 2).step(
        batches([[0, 1], [2, 3], [4, 5]]), units: 6, loop: ComputeTeam(width: 2))
    }
    #expect(technique.values == before)
  }

  @Test(
    "restored state goes on with the same bits", arguments: [GradientSumFormat.fixed64, .coarse64, .scaled32])
  func restored(sums: GradientSumFormat) throws {
    let order = [[0, 1], [2, 3], [4, 5]]
    let expected = try parameters(after: 6, order: order, workers: 1, sums: sums).values
    let first = MadeUpGradients(sums: sums)
    let before = trainer(first, workers: 1)
    for _ in 0..<3 { _ = try before.step(batches(order), units: 6, loop: SequentialLoop()) }
    let second = MadeUpGradients(sums: sums)
    for (index, value) in first.values.enumerated() { second.parameters["weights"].values[index] = value }
    let after = trainer(second, workers: 1)
    try after.restore(
      step: 3, exponents: before.exponents, firstMoments: Array(before.optimizer.firstMoments),
      secondMoments: Array(before.optimizer.secondMoments))
    for _ in 0..<3 { _ = try after.step(batches(order), units: 6, loop: SequentialLoop()) }
    #expect(second.values == expected)
  }
}
