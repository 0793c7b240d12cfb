import Determinism
import FineTuning
import LanguageModels
import NeuralNetworks
import TensorKernels
import Testing

/// Scores each next token by computing every hypothesis anew from its first token on.
private final class RecomputingScorer: TokenScoring {
  typealias Failure = TrainingFailure

  private let backbone: any EncoderDecoderBackbone
  private let shape: SideNetworkShape
  private let network: SideNetwork
  private let source: BackboneTapSource
  private let taps: TapBuffer
  private let input: [Int32]
  private var hypotheses: [[Int32]] = [[]]
  private var logits = Arena(floatCount: 16)

  init(
    _ backbone: any EncoderDecoderBackbone, shape: SideNetworkShape, parameters: ParameterTree,
    element: ActivationElement, input: [Int32], longest: Int
  ) {
    self.backbone = backbone
    self.shape = shape
    self.input = input
    let capacity = MicroBatchCapacity(
      sequences: 1, encoderTokens: input.count, longestEncoder: input.count, decoderTokens: longest,
      longestDecoder: longest)
    network = SideNetwork(
      shape: shape, tree: parameters, frozen: FrozenOutput(copying: backbone, head: .languageModel),
      capacity: capacity, training: false)
    source = BackboneTapSource(
      shape: shape, backbone: backbone, cache: nil, capacity: capacity, workers: 1)
    taps = TapBuffer(shape: shape, element: element, capacity: capacity)
  }

  func step(_ tokens: [Int32]) throws(TrainingFailure) -> Matrix {
    let vocabulary = backbone.architecture.vocabulary
    logits = Arena(floatCount: tokens.count * vocabulary)
    let all = logits.matrix(0, rows: tokens.count, columns: vocabulary)
    for (row, token) in tokens.enumerated() {
      hypotheses[row].append(token)
      let sample = TrainingSample(
        encoderIDs: input, encoderTypes: Array(repeating: 0, count: input.count),
        decoderIDs: hypotheses[row], target: .none)
      let batch = PackedMicroBatch(samples: [0], of: [sample])
      try source.load(batch, into: taps, worker: 0)
      let states = network.forward(batch, taps: taps)
      backbone.headLogits(
        states.rowRange(states.rows - 1, count: 1), into: all.rowRange(row, count: 1))
    }
    return all
  }

  func reorder(_ parents: [Int]) { hypotheses = parents.map { hypotheses[$0] } }
}

@Suite("Text of an adapted encoder-decoder")
struct SideTextGeneratorTests {
  @Test(
    "written token by token is what computing every text anew gives",
    arguments: ["tiny-t5", "tiny-bart"], ParallelAdapterConfiguration.Preset.allCases)
  func incremental(directory: String, preset: ParallelAdapterConfiguration.Preset) throws {
    let backbone = try #require(try TinyModels.backbone(directory) as? any EncoderDecoderBackbone)
    let shape = try SideNetworkShape(
      ParallelAdapterConfiguration(
        preset: preset, reduction: directory == "tiny-bart" ? 2 : 4,
        layersPerStack: backbone.architecture.stacks.map(\.layers).min() ?? 0),
      head: .languageModel, backbone: backbone.architecture)
    let parameters = TestBackbones.randomParameters(shape, seed: 5)
    let longest = 12
    for (beams, element) in [(1, ActivationElement.float32), (1, .float16), (3, .float16)] {
      let settings = GenerationSettings(beams: beams, maximumTokens: longest)
      let generator = SideTextGenerator(
        backbone, shape: shape, parameters: parameters, element: element, settings: settings,
        maximumSource: 20)
      for length in [1, 7, 20] {
        let input = TinyModels.ids(
          length, seed: UInt64(length), vocabulary: backbone.architecture.vocabulary)
        let anew = RecomputingScorer(
          backbone, shape: shape, parameters: parameters, element: element, input: input, longest: longest)
        let expected = try searchText(
          anew, settings: settings, startID: try #require(backbone.architecture.decoderStartID),
          endID: backbone.endID)
        let found = try generator.generate(input)
        #expect(found == expected, "\(beams) beams, \(element), \(length) tokens")
      }
    }
  }

  @Test("has a loss without gradient that equals the loss of training")
  func loss() throws {
    for head in [TaskHead.languageModel, .value, .classes(2)] {
      let testCase = SideNetworkTests.Case(preset: .default, decoder: true, head: head)
      let fixture = try SideNetworkTests.Fixture(testCase)
      #expect(fixture.network.loss(fixture.batch, taps: fixture.taps) == fixture.gradients().loss)
    }
  }
}
