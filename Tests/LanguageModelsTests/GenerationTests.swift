import FoundationEssentials
import LanguageModels
import TensorKernels
import Testing

@Suite("Text generation")
struct GenerationTests {
  @Test(
    "writes what the reference writes, greedily and with a beam of 4",
    arguments: ["tiny-t5", "tiny-t5-gated", "tiny-bart"], [1, 4])
  func golden(directory: String, beams: Int) throws {
    let fixture = try BackboneFixture.named(directory)
    let backbone = try #require(fixture.backbone as? any EncoderDecoderBackbone)
    let name = beams == 1 ? "greedy.ids" : "beam.ids"
    let columns = try #require(fixture.expected.shape(name).last)
    let expected = fixture.expected.integers(name)
    let sources = fixture.batch.encoder
    let generator = TextGenerator(
      backbone, settings: GenerationSettings(beams: beams, maximumTokens: columns - 1),
      maximumSource: sources.longest)
    for text in 0..<sources.count {
      let ids = Array(fixture.batch.encoderIDs[sources.offsets[text]..<sources.offsets[text + 1]])
      let row = expected[(text * columns + 1)..<((text + 1) * columns)].prefix { $0 >= 0 }
      let isEnded = row.last == backbone.endID
      let wanted = WrittenIDs(ids: isEnded ? Array(row.dropLast()) : Array(row), isCut: !isEnded)
      #expect(generator.generate(ids) == wanted, "text \(text)")
    }
  }

  @Test("of a text does not depend on what was written before")
  func independence() throws {
    let fixture = try BackboneFixture.named("tiny-bart")
    let backbone = try #require(fixture.backbone as? any EncoderDecoderBackbone)
    let generator = TextGenerator(
      backbone, settings: GenerationSettings(beams: 3, maximumTokens: 9), maximumSource: 40)
    let first = generator.generate([0, 5, 6, 7, 2])
    _ = generator.generate(Array(4..<40))
    #expect(generator.generate([0, 5, 6, 7, 2]) == first)
  }
}
