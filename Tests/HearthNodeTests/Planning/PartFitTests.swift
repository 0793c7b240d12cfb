import Determinism
import HearthNode
import Testing

@Suite("A device's measured models, taken apart into blocks and the rest")
struct PartFitTests {
  private static let sizes = [[1, 1], [2, 1], [1, 4]]

  private static func times(_ block: [Double], _ rest: Double, scatter: () -> Double = { 0 }) -> [Double] {
    sizes.map { size in
      let exact = zip(size, block).reduce(rest) { $0 + Double($1.0) * $1.1 }
      return exact * (1 + scatter())
    }
  }

  @Test("Exact times give exact parts, whatever is left beside the blocks", arguments: [0, 0.01, 0.3, 0.8])
  func exact(_ share: Double) {
    let blocks = [0.036, 0.005]
    let rest = share / (1 - share) * blocks.reduce(0, +)
    let fit = PartFit(sizes: Self.sizes, times: Self.times(blocks, rest), restShare: share)
    #expect(abs(fit.blocks[0] - 0.036) < 1e-9 && abs(fit.blocks[1] - 0.005) < 1e-9)
    #expect(abs(fit.rest - rest) < 1e-9)
  }

  @Test("What is left may be other than its share of the operations says")
  func otherRest() {
    // Half of the operations, at two thirds of the blocks' rate.
    let blocks = [0.036, 0.005]
    let fit = PartFit(sizes: Self.sizes, times: Self.times(blocks, 0.0615), restShare: 0.5)
    #expect(abs(fit.blocks[0] / 0.036 - 1) < 0.04)
    #expect(abs(fit.rest / 0.0615 - 1) < 0.05)
  }

  @Test("Twelve blocks a stack have at most a third of the error that differences of the models have")
  func scatter() {
    var generator = SeededGenerator(seed: 7)
    let (blocks, rest) = ([0.036, 0.005], 0.0005)
    let exact = 12 * (blocks[0] + blocks[1]) + rest
    var (fitted, differences) = (0.0, 0.0)
    for _ in 0..<500 {
      let times = Self.times(blocks, rest) { 0.03 * Double(generator.normalFloat()) }
      let fit = PartFit(sizes: Self.sizes, times: times, restShare: 0.01)
      let whole = 12 * fit.blocks.reduce(0, +) + fit.rest
      let (encoder, decoder) = (times[1] - times[0], (times[2] - times[0]) / 3)
      let difference = 12 * (encoder + decoder) + max(0, times[0] - encoder - decoder)
      fitted += (whole - exact) * (whole - exact)
      differences += (difference - exact) * (difference - exact)
    }
    #expect(fitted < differences / 9)
    #expect((fitted / 500).squareRoot() < 0.03 * exact)
  }

  @Test("Nothing is ever negative, whatever a busy machine says")
  func neverNegative() {
    for times in [[0.05, 0.02, 0.03], [0.05, 0.2, 0.01], [0, 0, 0], [0.001, 0.1, 0.1]] {
      let fit = PartFit(sizes: Self.sizes, times: times, restShare: 0.1)
      #expect(fit.blocks.allSatisfy { $0 >= 0 && $0.isFinite } && fit.rest >= 0 && fit.rest.isFinite)
    }
  }

  @Test("A smallest model whose time came out as nothing does not make its blocks nothing")
  func lostMeasurement() {
    let fit = PartFit(sizes: Self.sizes, times: [0, 0.05, 0.03], restShare: 0.1)
    #expect(fit.blocks[0] > 0.01)
    let alone = PartFit(sizes: [[1], [4]], times: [0, 0.04], restShare: 0.1)
    #expect(alone.blocks[0] > 0.005)
  }

  @Test("An encoder alone has two models")
  func oneStack() {
    let fit = PartFit(sizes: [[1], [4]], times: [0.012, 0.042], restShare: 1.0 / 6)
    #expect(abs(fit.blocks[0] - 0.01) < 1e-9 && abs(fit.rest - 0.002) < 1e-9)
  }
}
