import Determinism
import FineTuning
import FoundationEssentials
import HearthStorage
import LanguageModels
import NeuralNetworks
import TensorKernels
import Testing

/// Adapters of the tiny models, by PEFT and by Hearth, with what PEFT makes the models compute.
@Suite("A LoRA adapter in PEFT's layout")
struct PEFTAdapterTests {
  /// A tiny model and the settings of the adapter that Hearth wrote for it.
  struct Case: Sendable, CustomTestStringConvertible {
    var family: String
    var configuration: LoRAConfiguration
    var testDescription: String { family }

    var directory: String { TinyModels.fixtures + "/peft-\(family)" }
  }

  static let cases = [
    Case(
      family: "t5", configuration: LoRAConfiguration(rank: 3, alpha: 7, targets: [.query, .value, .up])),
    Case(
      family: "bart",
      configuration: LoRAConfiguration(rank: 5, alpha: 5, targets: [.key, .output, .down], dropout: 0.25)),
    Case(family: "bert", configuration: LoRAConfiguration(rank: 2, alpha: 3, targets: [.value, .down])),
  ]

  /// A tree with the pairs of every layer that is a target.
  private func tree(
    _ configuration: LoRAConfiguration, _ backbone: any Backbone, seed: UInt64?
  ) -> ParameterTree {
    let layers = backbone.adaptableLayers.filter { configuration.targets.contains($0.target) }
    let shapes = layers.flatMap { layer in
      [
        ParameterShape(
          "\(layer.name).loraA", rows: configuration.rank, columns: layer.weight.columns, kind: .weight),
        ParameterShape(
          "\(layer.name).loraB", rows: layer.weight.rows, columns: configuration.rank, kind: .weight),
      ]
    }
    return ParameterTree(trainable: shapes) { index, values in
      guard let seed else { return }
      var generator = SeededGenerator(seed: seed, UInt64(index))
      for element in 0..<values.count { values[element] = 0.3 * generator.normalFloat() }
    }
  }

  private func checkpoint(_ path: String) throws -> Checkpoint { try Checkpoint(region: MappedFile(path)) }

  private func bytes(_ path: String) throws -> [UInt8] { Array(try Data(contentsOf: URL(filePath: path))) }

  private func read(
    _ directory: String, _ backbone: any Backbone
  ) throws -> (adapter: PEFTAdapter, tree: ParameterTree) {
    let path = directory + "/" + PEFTAdapter.configurationFileName
    let adapter = try PEFTAdapter(
      configuration: bytes(path), path: path,
      tensors: checkpoint(directory + "/" + PEFTAdapter.tensorsFileName), backbone: backbone)
    let tree = tree(adapter.configuration, backbone, seed: 1)
    try adapter.fill(tree)
    return (adapter, tree)
  }

  /// The final outputs of the model with a folded adapter, over the batch of the fixture.
  private func outputs(
    _ testCase: Case, _ configuration: LoRAConfiguration, _ tree: ParameterTree
  ) throws -> [Float] {
    let model = try TinyModels.load("tiny-\(testCase.family)")
    let base = try TinyModels.backbone(model.configuration, model.checkpoint)
    let merged = try MergedWeights(
      base: model.checkpoint, backbone: base, configuration: .lora(configuration), parameters: tree)
    var file: [UInt8] = []
    try streamSafetensors(merged.layout, pieceElements: 1_000) { entry, range, values in
      try merged.fill(entry, range, into: values)
    } sink: {
      file.append(contentsOf: $0)
    }
    let folded = try TinyModels.backbone(
      model.configuration, Checkpoint(region: MemoryRegion(name: "merged", bytes: file)))
    return Self.outputs(
      of: folded,
      inputs: try SafetensorsFile(region: MappedFile(testCase.directory + "/expected.safetensors")))
  }

  /// Logits of the decoder's tokens, or the encoder's last states.
  static func outputs(of backbone: any Backbone, inputs: SafetensorsFile) -> [Float] {
    func integers(_ name: String) -> [Int32] { TinyModels.integers(inputs, name) }
    func lengths(_ name: String) -> PackedSequences {
      PackedSequences(lengths: integers(name).map(Int.init))
    }
    let writer = backbone as? any EncoderDecoderBackbone
    let batch = BackboneBatch(
      encoderIDs: integers("encoder.ids"),
      encoderTypes: writer == nil ? integers("encoder.types") : [],
      encoder: lengths("encoder.lengths"), decoderIDs: writer == nil ? [] : integers("decoder.ids"),
      decoder: writer == nil ? nil : lengths("decoder.lengths"))
    let last = backbone.architecture.stacks.count - 1
    let width = backbone.architecture.width
    let rows = batch.decoder?.tokens ?? batch.encoder.tokens
    let states = Arena(floatCount: rows * width)
    let final = states.matrix(0, rows: rows, columns: width)
    let workspace = Arena(
      floatCount: backbone.workspaceFloats(capacity: BackboneCapacity(of: batch)))
    backbone.forward(batch, workspace: workspace) { stack, index, rows in
      guard stack == last, index == backbone.architecture.stacks[last].layers else { return }
      for row in 0..<rows.rows {
        (final.base + row * width).update(from: rows.base + row * rows.stride, count: width)
      }
    }
    backbone.finalNorm(stack: last)?.forward(final, into: final, statistics: nil)
    guard let writer else { return Array(UnsafeBufferPointer(start: final.base, count: rows * width)) }
    let vocabulary = backbone.architecture.vocabulary
    let logits = Arena(floatCount: rows * vocabulary)
    writer.headLogits(final, into: logits.matrix(0, rows: rows, columns: vocabulary))
    return Array(UnsafeBufferPointer(start: logits.base, count: rows * vocabulary))
  }

  private func check(_ found: [Float], _ file: String, _ name: String) throws {
    let checkpoint = try checkpoint(file)
    let shape = try #require(checkpoint.entry(name)?.shape)
    let values = try checkpoint.float32(named: name, shape: shape)
    #expect(found.count == shape.reduce(1, *))
    let difference = found.indices.reduce(Float(0)) { max($0, abs(found[$1] - values[$1])) }
    #expect(difference <= 1e-4, "\(file): \(difference)")
  }

  @Test("by PEFT makes the model compute what PEFT computes", arguments: cases)
  func theirs(testCase: Case) throws {
    let backbone = try TinyModels.backbone("tiny-\(testCase.family)")
    let (adapter, tree) = try read(testCase.directory, backbone)
    #expect(adapter.unusedTensors.isEmpty)
    try check(
      outputs(testCase, adapter.configuration, tree), testCase.directory + "/expected.safetensors",
      testCase.family == "bert" ? "encoder.final" : "logits")
  }

  @Test("by PEFT has PEFT's settings, rank-stabilised scale included")
  func settings() throws {
    func configuration(_ family: String) throws -> LoRAConfiguration {
      try read(TinyModels.fixtures + "/peft-\(family)", TinyModels.backbone("tiny-\(family)")).adapter
        .configuration
    }
    #expect(
      try configuration("t5")
        == LoRAConfiguration(
          rank: 4, alpha: 12, targets: [.query, .key, .value, .output, .up, .down], dropout: 0.1))
    #expect(
      try configuration("bart")
        == LoRAConfiguration(rank: 4, alpha: 12, targets: [.query, .value, .up], dropout: 0.1))
    #expect(
      try configuration("bert")
        == LoRAConfiguration(rank: 3, alpha: 8, targets: [.query, .key, .output, .down], dropout: 0.1))
  }

  /// PEFT loads the fixture `hearth` and computes `hearth-expected.safetensors`: so what equals the fixture, PEFT loads.
  @Test("by Hearth is the one that PEFT has loaded, and computes the same in both", arguments: cases)
  func ours(testCase: Case) throws {
    let backbone = try TinyModels.backbone("tiny-\(testCase.family)")
    let tree = tree(testCase.configuration, backbone, seed: 11)
    let files = PEFTAdapter.files(
      tree, configuration: testCase.configuration, backbone: backbone, model: "tiny-\(testCase.family)",
      writesText: testCase.family != "bert")
    let directory = testCase.directory + "/hearth"
    let paths = [PEFTAdapter.configurationFileName, PEFTAdapter.tensorsFileName].map { directory + "/" + $0 }
    if ProcessInfo.processInfo.environment["HEARTH_WRITE_FIXTURES"] != nil {
      try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
      try Data(files.configuration).write(to: URL(filePath: paths[0]))
      try Data(files.tensors).write(to: URL(filePath: paths[1]))
    }
    #expect(try bytes(paths[0]) == files.configuration)
    #expect(try bytes(paths[1]) == files.tensors)
    try check(
      outputs(testCase, testCase.configuration, tree), testCase.directory + "/hearth-expected.safetensors",
      testCase.family == "bert" ? "encoder.final" : "logits")
    let (adapter, again) = try read(directory, backbone)
    #expect(adapter.configuration == testCase.configuration)
    for (left, right) in zip(tree.parameters, again.parameters) {
      #expect((0..<left.count).allSatisfy { left.values[$0] == right.values[$0] }, "\(left.name)")
    }
  }

  @Test("is refused in one line when it is damaged or computes something else")
  func refusals() throws {
    let backbone = try TinyModels.backbone("tiny-t5")
    let directory = TinyModels.fixtures + "/peft-t5"
    let tensors = try checkpoint(directory + "/adapter_model.safetensors")
    let text = String(decoding: try bytes(directory + "/adapter_config.json"), as: UTF8.self)
    func failure(
      _ old: String, _ new: String, _ tensors: Checkpoint, _ backbone: any Backbone
    ) -> PEFTFailure? {
      let changed = text.replacing(old, with: new)
      #expect(changed != text || old == new)
      do throws(PEFTFailure) {
        _ = try PEFTAdapter(
          configuration: Array(changed.utf8), path: "c.json", tensors: tensors, backbone: backbone)
        return nil
      } catch {
        #expect(!error.description.contains("\n"))
        return error
      }
    }
    #expect(failure("{", "{", tensors, backbone) == nil)
    #expect(
      failure("\"use_dora\": false", "\"use_dora\": true", tensors, backbone)
        == .setting(key: "use_dora", value: "true", path: "c.json", detail: "is not supported"))
    #expect(
      failure("\"bias\": \"none\"", "\"bias\": \"all\"", tensors, backbone)
        == .setting(key: "bias", value: "all", path: "c.json", detail: "is not supported"))
    #expect(
      failure("\"rank_pattern\": {}", "\"rank_pattern\": {\"q\": 2}", tensors, backbone)
        == .setting(key: "rank_pattern", value: "1 values", path: "c.json", detail: "is not supported"))
    #expect(
      failure("\"r\": 4,", "\"r\": 0,", tensors, backbone)
        == .setting(
          key: "r", value: "0.0", path: "c.json", detail: "is not a whole number from 1 to 4096"))
    #expect(
      failure("\"LORA\"", "\"IA3\"", tensors, backbone)
        == .setting(key: "peft_type", value: "IA3", path: "c.json", detail: "is not LORA"))
    guard case .wrongShape(_, _, [4, 48], [5, 48]) = failure("\"r\": 4,", "\"r\": 5,", tensors, backbone)
    else {
      Issue.record("a rank that the tensors do not have was taken")
      return
    }
    guard
      case .unknownTensor = failure("{", "{", tensors, try TinyModels.backbone("tiny-bert"))
    else {
      Issue.record("an adapter of a T5 was taken for BERT")
      return
    }
    guard case .unreadable = failure("{", "", tensors, backbone) else {
      Issue.record("settings that are no JSON were taken")
      return
    }
  }

  @Test("of a pair's one half, or of no pair, is refused")
  func halves() throws {
    let backbone = try TinyModels.backbone("tiny-bert")
    let text = try bytes(TinyModels.fixtures + "/peft-bert/adapter_config.json")
    let values: [Float] = Array(repeating: 0, count: 3 * 48)
    func failure(_ names: [String]) throws -> PEFTFailure? {
      let file = values.withUnsafeBufferPointer { buffer in
        safetensorsBytes(names.map { NamedTensor(name: $0, shape: [3, 48], values: buffer) })
      }
      let tensors = try Checkpoint(region: MemoryRegion(name: "t", bytes: file))
      do throws(PEFTFailure) {
        _ = try PEFTAdapter(configuration: text, path: "c", tensors: tensors, backbone: backbone)
        return nil
      } catch {
        return error
      }
    }
    let half = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight"
    #expect(try failure([half]) == .halfPair(name: half, file: "t"))
    #expect(try failure(["base_model.model.classifier.weight"]) == .noPairs(file: "t"))
    let foreign = "base_model.model.lm_head.lora_A.weight"
    #expect(try failure([foreign]) == .unknownTensor(name: foreign, file: "t", family: "bert"))
  }
}
