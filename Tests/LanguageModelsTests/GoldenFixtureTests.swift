import LanguageModels
import TensorKernels
import Testing

@Suite("The golden fixtures")
struct GoldenFixtureTests {
  @Test("hold the values that the weight formula gives", arguments: ["tiny-t5", "tiny-t5-gated"])
  func formulaMatchesStoredWeights(directory: String) throws {
    let weights = ExpectedOutputs(file: try GoldenFixture(directory).weights())
    let table = FormulaTensor(
      name: "shared.weight", shape: weights.shape("shared.weight"), amplitude: 1, offset: 0)
    #expect(weights.floats("shared.weight") == table.values())
    let norm = FormulaTensor(
      name: "encoder.final_layer_norm.weight", shape: weights.shape("encoder.final_layer_norm.weight"),
      amplitude: 0.25, offset: 1)
    #expect(weights.floats("encoder.final_layer_norm.weight") == norm.values())
  }

  @Test("list every tensor of the T5-Base shape")
  func baseShapeRecipe() throws {
    let tensors = try FormulaTensor.list(of: GoldenFixture("t5-base-shape"))
    #expect(tensors.count == 26)
    #expect(tensors.first { $0.name.hasSuffix("wi.weight") }?.shape == [3072, 768])
  }

  @Test("name packed sequences of unequal lengths", arguments: ["tiny-t5", "tiny-t5-gated", "tiny-bert"])
  func lengths(directory: String) throws {
    let expected = try GoldenFixture(directory).expected()
    #expect(expected.integers("encoder.lengths") == [5, 1, 9, 3, 37])
    #expect(expected.sequences("encoder").tokens == expected.integers("encoder.ids").count)
    #expect(expected.shape("encoder.hidden.0").first == expected.sequences("encoder").tokens)
  }
}
