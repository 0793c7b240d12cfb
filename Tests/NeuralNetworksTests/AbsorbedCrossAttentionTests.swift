import NeuralNetworks
import TensorKernels
import Testing

@Suite("Absorbed cross-attention")
struct AbsorbedCrossAttentionTests {
  private static let base = BlockConfiguration(
    width: 768, heads: 12, headSize: 64, hidden: 3072, norm: .rms, epsilon: 1e-6, placement: .pre,
    activation: .relu, gated: false, biases: false, attentionScale: 1, causal: true, crossAttention: true)

  @Test("is chosen for T5-Base with 128 source tokens up to 45 target tokens")
  func crossover() {
    let keys = PackedSequences(lengths: [Int](repeating: 128, count: 16))
    func isCheaper(_ target: Int) -> Bool {
      AbsorbedCrossAttention.isCheaper(
        Self.base, queries: PackedSequences(lengths: [Int](repeating: target, count: 16)), keys: keys)
    }
    #expect(isCheaper(1))
    #expect(isCheaper(4))
    #expect(isCheaper(45))
    #expect(!isCheaper(46))
    #expect(!isCheaper(128))
  }

  @Test("is not chosen for a target that its scratch cannot hold")
  func longTarget() {
    let queries = PackedSequences(lengths: [65])
    let keys = PackedSequences(lengths: [100_000])
    #expect(!AbsorbedCrossAttention.isCheaper(Self.base, queries: queries, keys: keys))
  }

  @Test("is exercised by the decoder cases with a long source and only by them")
  func coverage() {
    for blockCase in BlockCase.all where blockCase.configuration.crossAttention {
      #expect(
        AbsorbedCrossAttention.isCheaper(
          blockCase.configuration, queries: PackedSequences(lengths: blockCase.lengths),
          keys: PackedSequences(lengths: blockCase.encoderLengths))
          == blockCase.name.contains("long source"), "\(blockCase)")
    }
  }
}
