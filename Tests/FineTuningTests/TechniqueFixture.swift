import FineTuning
import FoundationEssentials
import LanguageModels
import NeuralNetworks
import TensorKernels
import Testing

/// What PyTorch (and PEFT) computed with a tiny model under a technique: scripts/golden/techniques.py.
struct TechniqueFixture {
  /// Model, technique and head.
  struct Case: Sendable, CustomTestStringConvertible {
    var model: String
    var technique: String
    var head: TaskHead

    var testDescription: String { file }
    var file: String {
      let name =
        switch head {
        case .classes: "classes"
        case .value: "value"
        case .languageModel: "languageModel"
        }
      return "\(model)-\(technique)-\(name)"
    }
  }

  static let cases: [Case] = [
    Case(model: "tiny-t5", technique: "full", head: .languageModel),
    Case(model: "tiny-t5", technique: "lora", head: .classes(3)),
    Case(model: "tiny-t5", technique: "houlsby", head: .languageModel),
    Case(model: "tiny-t5-gated", technique: "full", head: .languageModel),
    Case(model: "tiny-t5-gated", technique: "lora", head: .languageModel),
    Case(model: "tiny-t5-gated", technique: "houlsby", head: .value),
    Case(model: "tiny-bart", technique: "full", head: .languageModel),
    Case(model: "tiny-bart", technique: "lora", head: .languageModel),
    Case(model: "tiny-bart", technique: "houlsby", head: .classes(3)),
    Case(model: "tiny-bert", technique: "full", head: .classes(3)),
    Case(model: "tiny-bert", technique: "lora", head: .classes(3)),
    Case(model: "tiny-bert", technique: "houlsby", head: .value),
  ]

  let testCase: Case
  let backbone: any Backbone
  let configuration: TechniqueConfiguration
  let parameters: ParameterTree
  let samples: [TrainingSample]
  let expectedLoss: Double
  private let file: SafetensorsFile

  init(_ testCase: Case, dropout: Float = 0) throws {
    self.testCase = testCase
    let directory = Self.root + "/" + testCase.model
    let checkpoint = try Checkpoint(region: Self.region(directory + "/model.safetensors"))
    switch try ModelConfiguration(region: Self.region(directory + "/config.json")) {
    case .bert(let configuration): backbone = try BERTBackbone(checkpoint, configuration)
    case .t5(let configuration): backbone = try T5Backbone(checkpoint, configuration)
    case .bart(let configuration): backbone = try BARTBackbone(checkpoint, configuration)
    }
    configuration = Self.configuration(testCase, dropout: dropout)
    file = try SafetensorsFile(region: Self.region("\(Self.root)/techniques/\(testCase.file).safetensors"))
    let file = file
    parameters = BackboneTuning.initialParameters(
      configuration: configuration, head: testCase.head, backbone: backbone, seed: 1)
    for leaf in parameters.parameters where file.tensor("value.\(leaf.name)") != nil {
      for (index, value) in Self.floats("value.\(leaf.name)", file).enumerated() {
        leaf.values[index] = value
      }
    }
    samples = Self.samples(testCase.head, file)
    expectedLoss = Double(Self.floats("loss", file)[0])
  }

  private static func configuration(_ testCase: Case, dropout: Float) -> TechniqueConfiguration {
    switch testCase.technique {
    case "full": return .full(FullConfiguration(dropout: dropout))
    case "houlsby": return .houlsby(HoulsbyConfiguration(reduction: 8, dropout: dropout))
    default:
      let targets: [LoRATarget] =
        switch testCase.model {
        case "tiny-t5": [.query, .value]
        case "tiny-t5-gated": LoRATarget.allCases
        case "tiny-bart": [.query, .key, .value, .output, .up, .down]
        // PEFT's "dense" is the output of attention and both layers of the feed-forward.
        default: [.query, .value, .output, .up, .down]
        }
      return .lora(
        LoRAConfiguration(rank: 4, alpha: 6, targets: targets, dropout: dropout, backboneDropout: dropout))
    }
  }

  private static func samples(_ head: TaskHead, _ file: SafetensorsFile) -> [TrainingSample] {
    let lengths = integers("encoder.lengths", file).map(Int.init)
    let encoder = PackedSequences(lengths: lengths)
    let encoderIDs = integers("encoder.ids", file)
    let types = file.tensor("encoder.types").map { _ in integers("encoder.types", file) } ?? []
    let hasDecoder = file.tensor("decoder.ids") != nil
    let decoder =
      hasDecoder ? PackedSequences(lengths: integers("decoder.lengths", file).map(Int.init)) : nil
    let decoderIDs = hasDecoder ? integers("decoder.ids", file) : []
    let labels = head == .languageModel ? integers("labels", file) : []
    return lengths.indices.map { index in
      let rows = encoder.offsets[index]..<encoder.offsets[index + 1]
      let targets = decoder.map { $0.offsets[index]..<$0.offsets[index + 1] } ?? 0..<0
      let target: TrainingTarget =
        switch head {
        case .classes(let count): .label(Int32(index % count))
        case .value: .value(0.5 * Float(index) - 0.7)
        case .languageModel: .tokens(Array(labels[targets]))
        }
      return TrainingSample(
        encoderIDs: Array(encoderIDs[rows]), encoderTypes: types.isEmpty ? [] : Array(types[rows]),
        decoderIDs: Array(decoderIDs[targets]), target: target)
    }
  }

  /// The gradient that the reference computed for a leaf.
  func expectedGradient(_ name: String) -> [Float] { Self.floats("gradient.\(name)", file) }

  /// Names of all leaves that the reference trained.
  var expectedNames: [String] {
    file.tensors.map(\.name).filter { $0.hasPrefix("gradient.") }.map { String($0.dropFirst(9)) }.sorted()
  }

  /// The samples in micro-batches of the given ones.
  func batches(_ groups: [[Int]]) -> [PackedMicroBatch] {
    groups.map { PackedMicroBatch(samples: $0, of: samples) }
  }

  /// The technique for all samples together and any part of them.
  func tuning(
    workers: Int = 1, training: Bool = true, checkpoints: Bool = false, seed: UInt64 = 5
  ) -> BackboneTuning {
    BackboneTuning(
      configuration: configuration, head: testCase.head, backbone: backbone, parameters: parameters,
      capacity: MicroBatchCapacity(batches([Array(samples.indices)])), workers: workers, training: training,
      checkpointsActivations: checkpoints, dropoutSeed: seed)
  }

  /// Loss and gradient of the given micro-batches.
  func gradients(
    _ tuning: BackboneTuning, _ groups: [[Int]]? = nil, worker: (Int) -> Int = { _ in 0 }
  ) throws -> (loss: Double, gradients: [Float]) {
    let batches = batches(groups ?? [Array(samples.indices)])
    let sink = GradientAccumulator(
      count: parameters.vectorCount, maximumContributions: max(1, batches.count), exponent: 36)
    var loss = 0.0
    for (index, batch) in batches.enumerated() {
      loss += try tuning.train(batch, worker: worker(index), sink: sink)
    }
    var values = [Float](repeating: 0, count: parameters.vectorCount)
    sink.read(into: &values)
    return (loss, values)
  }

  // MARK: Files

  static let root: String = {
    var parts = #filePath.split(separator: "/", omittingEmptySubsequences: false)
    parts.removeLast(2)
    return parts.joined(separator: "/") + "/Fixtures"
  }()

  private static func region(_ path: String) throws -> MemoryRegion {
    MemoryRegion(name: path, bytes: try Data(contentsOf: URL(filePath: path)))
  }

  private static func floats(_ name: String, _ file: SafetensorsFile) -> [Float] {
    copy(name, file, as: Float.self)
  }

  private static func integers(_ name: String, _ file: SafetensorsFile) -> [Int32] {
    copy(name, file, as: Int32.self)
  }

  private static func copy<Element>(
    _ name: String, _ file: SafetensorsFile, as type: Element.Type
  ) -> [Element] {
    guard let entry = file.tensor(name) else { preconditionFailure("no tensor \(name) in the fixture") }
    let bytes = file.bytes(of: entry)
    return (0..<entry.elementCount).map {
      bytes.loadUnaligned(fromByteOffset: $0 * MemoryLayout<Element>.stride, as: type)
    }
  }
}
