import Determinism
import FineTuning
import LanguageModels
import NeuralNetworks
import TensorKernels
import Testing

/// Scores each next token by running the whole backbone over every hypothesis from its first token on.
private final class WholeForwardScorer: TokenScoring {
  typealias Failure = Never

  private let backbone: any EncoderDecoderBackbone
  private let input: [Int32]
  private var hypotheses: [[Int32]] = [[]]
  private var logits = Arena(floatCount: 16)

  init(_ backbone: any EncoderDecoderBackbone, input: [Int32]) {
    self.backbone = backbone
    self.input = input
  }

  func step(_ tokens: [Int32]) -> Matrix {
    let (vocabulary, width) = (backbone.architecture.vocabulary, backbone.architecture.width)
    logits = Arena(floatCount: tokens.count * vocabulary)
    let all = logits.matrix(0, rows: tokens.count, columns: vocabulary)
    let state = Arena(floatCount: width)
    let last = state.matrix(0, rows: 1, columns: width)
    for (row, token) in tokens.enumerated() {
      hypotheses[row].append(token)
      let batch = BackboneBatch(
        encoderIDs: input, encoder: PackedSequences(lengths: [input.count]), decoderIDs: hypotheses[row],
        decoder: PackedSequences(lengths: [hypotheses[row].count]))
      let workspace = Arena(floatCount: backbone.workspaceFloats(capacity: BackboneCapacity(of: batch)))
      backbone.forward(batch, workspace: workspace) { stack, index, rows in
        guard stack == 1, index == backbone.architecture.stacks[1].layers else { return }
        last.base.update(from: rows.base + (rows.rows - 1) * rows.stride, count: width)
      }
      backbone.finalNorm(stack: 1)?.forward(last, into: last, statistics: nil)
      backbone.headLogits(last, into: all.rowRange(row, count: 1))
    }
    return all
  }

  func reorder(_ parents: [Int]) { hypotheses = parents.map { hypotheses[$0] } }
}

@Suite("Text of a tuned encoder-decoder")
struct TunedTextTests {
  static let techniques: [TechniqueConfiguration] = [
    .lora(LoRAConfiguration(rank: 4, alpha: 8, targets: LoRATarget.allCases)),
    .houlsby(HoulsbyConfiguration(reduction: 4)), .full(FullConfiguration()),
  ]

  @Test(
    "written token by token is what computing every text anew gives", arguments: techniques,
    ["tiny-t5", "tiny-bart"])
  func incremental(technique: TechniqueConfiguration, directory: String) throws {
    var technique = technique
    let base = try #require(try TinyModels.backbone(directory) as? any EncoderDecoderBackbone)
    if case .lora(var lora) = technique {
      // Neither tiny model has a gate.
      lora.targets.removeAll { $0 == .gate }
      technique = .lora(lora)
    }
    let parameters = BackboneTuning.initialParameters(
      configuration: technique, head: .languageModel, backbone: base, seed: 3)
    // Starting values of LoRA and of bottlenecks change nothing: noise makes every leaf matter.
    var generator = SeededGenerator(seed: 9)
    for leaf in parameters.parameters where leaf.isTrainable {
      for index in 0..<leaf.count { leaf.values[index] += 0.05 * generator.normalFloat() }
    }
    let tuned = Self.tuned(base, technique, parameters)
    var changed = false
    for beams in [1, 3] {
      let settings = GenerationSettings(beams: beams, maximumTokens: 12)
      let writer = TextGenerator(tuned, settings: settings, maximumSource: 20)
      let plain = TextGenerator(base, settings: settings, maximumSource: 20)
      for length in [1, 7, 20] {
        let input = TinyModels.ids(length, seed: UInt64(length), vocabulary: base.architecture.vocabulary)
        let expected = searchText(
          WholeForwardScorer(tuned, input: input), settings: settings,
          startID: try #require(base.architecture.decoderStartID), endID: base.endID)
        let found = writer.generate(input)
        #expect(found == expected, "\(beams) beams, \(length) tokens")
        if found != plain.generate(input) { changed = true }
      }
    }
    #expect(changed, "the tuned model writes what the model writes")
  }

  private static func tuned(
    _ base: some EncoderDecoderBackbone, _ technique: TechniqueConfiguration, _ parameters: ParameterTree
  ) -> any EncoderDecoderBackbone {
    technique.tunedBackbone(base, parameters: parameters)
  }
}
