import Determinism
import NeuralNetworks
import TensorKernels
import Testing

@Suite("AdamW")
struct OptimizerTests {
  private static let seed: UInt64 = 77

  /// Loshchilov and Hutter, algorithm 2, in double precision.
  private struct ReferenceAdamW {
    let configuration: AdamWConfiguration
    var values: [Double]
    var first: [Double]
    var second: [Double]
    var powers = (1.0, 1.0)

    mutating func apply(_ gradients: [Double], decays: [Bool], rate: Double) {
      let (beta1, beta2) = (Double(configuration.beta1), Double(configuration.beta2))
      powers = (powers.0 * beta1, powers.1 * beta2)
      for index in values.indices {
        let gradient = gradients[index]
        first[index] = beta1 * first[index] + (1 - beta1) * gradient
        second[index] = beta2 * second[index] + (1 - beta2) * gradient * gradient
        let mean = first[index] / (1 - powers.0)
        let square = second[index] / (1 - powers.1)
        let decay = decays[index] ? Double(configuration.weightDecay) * values[index] : 0
        values[index] -= rate * (mean / (square.squareRoot() + Double(configuration.epsilon)) + decay)
      }
    }
  }

  @Test("follows a plain double-precision AdamW, with decay on weights only")
  func matchesReference() {
    var generator = SeededGenerator(seed: Self.seed)
    let shapes = [
      ParameterShape("weight", rows: 5, columns: 7, kind: .weight),
      ParameterShape("bias", rows: 1, columns: 7, kind: .bias),
      ParameterShape("norm", rows: 1, columns: 16, kind: .norm),
      ParameterShape("gate", rows: 1, columns: 1, kind: .gate),
    ]
    let tree = ParameterTree(trainable: shapes) { _, values in
      for index in values.indices { values[index] = generator.normalFloat() }
    }
    let configuration = AdamWConfiguration(weightDecay: 0.1)
    var optimizer = AdamWOptimizer(tree, configuration: configuration)
    let count = tree.vectorCount
    let zeros = [Double](repeating: 0, count: count)
    var reference = ReferenceAdamW(
      configuration: configuration, values: (0..<count).map { Double(tree.vector[$0]) }, first: zeros,
      second: zeros)
    var decays = [Bool](repeating: false, count: count)
    for range in tree.decayRanges where range.decays { for index in range.range { decays[index] = true } }
    let schedule = LearningRateSchedule(peak: 1e-2, warmupFraction: 0.1, totalSteps: 50)
    let scale: Float = 0.25
    for step in 1...50 {
      let gradients = (0..<count).map { _ in generator.normalFloat() }
      let rate = schedule.rate(step: step)
      gradients.withUnsafeBufferPointer { buffer in
        if let base = buffer.baseAddress {
          optimizer.apply(gradients: base, gradientScale: scale, learningRate: rate)
        }
      }
      reference.apply(gradients.map { Double($0 * scale) }, decays: decays, rate: Double(rate))
    }
    #expect(optimizer.step == 50)
    for leaf in tree.parameters {
      for index in 0..<leaf.count {
        let offset = (leaf.gradientOffset ?? 0) + index
        // Fifty float32 updates of about 1e-2 on values of about one.
        #expect(abs(Double(tree.vector[offset]) - reference.values[offset]) < 1e-5, "seed \(Self.seed)")
        #expect(abs(Double(optimizer.firstMoments[offset]) - reference.first[offset]) < 1e-6)
        #expect(abs(Double(optimizer.secondMoments[offset]) - reference.second[offset]) < 1e-6)
      }
    }
  }

  @Test("goes on from restored moments and step count with the same bits")
  func resumes() {
    func run(interrupted: Bool) -> [Float] {
      var generator = SeededGenerator(seed: Self.seed)
      let tree = ParameterTree(
        trainable: [ParameterShape("weight", rows: 4, columns: 8, kind: .weight)]
      ) { _, values in
        for index in values.indices { values[index] = generator.normalFloat() }
      }
      var optimizer = AdamWOptimizer(tree)
      for step in 0..<6 {
        if interrupted && step == 3 {
          var resumed = AdamWOptimizer(tree)
          resumed.step = optimizer.step
          _ = resumed.firstMoments.update(from: optimizer.firstMoments)
          _ = resumed.secondMoments.update(from: optimizer.secondMoments)
          optimizer = resumed
        }
        let gradients = (0..<tree.vectorCount).map { _ in generator.normalFloat() }
        gradients.withUnsafeBufferPointer { buffer in
          if let base = buffer.baseAddress {
            optimizer.apply(gradients: base, gradientScale: 1, learningRate: 1e-3)
          }
        }
      }
      return (0..<tree.vectorCount).map { tree.vector[$0] }
    }
    #expect(run(interrupted: true) == run(interrupted: false))
  }

  @Test("warms up to the peak over its share of the real steps and decays to zero after the last")
  func schedule() {
    let schedule = LearningRateSchedule(peak: 2, warmupFraction: 0.2, totalSteps: 10)
    let rates = (1...11).map { schedule.rate(step: $0) }
    #expect(rates == [1, 2, 2, 1.75, 1.5, 1.25, 1, 0.75, 0.5, 0.25, 0])
    let without = LearningRateSchedule(peak: 1, warmupFraction: 0, totalSteps: 4)
    #expect((1...4).map { without.rate(step: $0) } == [1, 0.75, 0.5, 0.25])
    let only = LearningRateSchedule(peak: 1, warmupFraction: 1, totalSteps: 4)
    #expect((1...4).map { only.rate(step: $0) } == [0.25, 0.5, 0.75, 1])
  }

  @Test("clips the global norm, and leaves a smaller one alone")
  func clipping() {
    let gradients: [Float] = [3, 0, 0, -4]
    let (large, small) = gradients.withUnsafeBufferPointer { buffer in
      guard let base = buffer.baseAddress else { return ((0.0, Float(0)), (0.0, Float(0))) }
      return (
        GradientClipping(maximumNorm: 1).scale(gradients: base, count: 4, gradientScale: 0.5),
        GradientClipping(maximumNorm: 10).scale(gradients: base, count: 4, gradientScale: 0.5)
      )
    }
    #expect(large.0 == 2.5)
    #expect(abs(large.1 - 0.2) < 1e-7)
    #expect(small.0 == 2.5)
    #expect(small.1 == 0.5)
  }
}
