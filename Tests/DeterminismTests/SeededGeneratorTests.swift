import Determinism
import Testing

@Suite("A seeded generator")
struct SeededGeneratorTests {
  @Test("gives the published SplitMix64 stream for seed 1234567")
  func publishedStream() {
    var generator = SeededGenerator(seed: 1_234_567)
    let expected: [UInt64] = [
      6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423,
      4_593_380_528_125_082_431, 16_408_922_859_458_223_821,
    ]
    #expect(expected == expected.map { _ in generator.next() })
  }

  @Test("gives different streams for different components and the same for the same")
  func components() {
    var seen = Set<UInt64>()
    for lane in 0..<8 as Range<UInt64> {
      for epoch in 0..<8 as Range<UInt64> {
        var generator = SeededGenerator(seed: 7, lane, epoch)
        var again = SeededGenerator(seed: 7, lane, epoch)
        let value = generator.next()
        #expect(value == again.next())
        #expect(seen.insert(value).inserted)
      }
    }
  }

  @Test("shuffles into a permutation")
  func shuffle() {
    var generator = SeededGenerator(seed: 3)
    var elements = Array(0..<100)
    generator.shuffle(&elements)
    #expect(elements != Array(0..<100))
    #expect(elements.sorted() == Array(0..<100))
  }

  @Test("normal samples have mean 0 and variance 1 within sampling error")
  func normal() {
    var generator = SeededGenerator(seed: 11)
    let samples = (0..<20_000).map { _ in Double(generator.normalFloat()) }
    let mean = samples.reduce(0, +) / Double(samples.count)
    let variance = samples.map { ($0 - mean) * ($0 - mean) }.reduce(0, +) / Double(samples.count)
    #expect(abs(mean) < 0.03)
    #expect(abs(variance - 1) < 0.04)
  }
}
