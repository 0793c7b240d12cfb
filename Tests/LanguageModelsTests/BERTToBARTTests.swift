import LanguageModels
import NeuralNetworks
import TensorKernels
import Testing

@Suite("BERT converted to BART")
struct BERTToBARTTests {
  static let startID: Int32 = 3
  static let endID: Int32 = 4

  /// The converted model of the tiny-bert fixture, and what it was made from.
  private struct Converted {
    let bert: BackboneFixture
    let bart: BARTBackbone
    let configuration: BARTConfiguration
    let checkpoint: Checkpoint

    init(decoderLayers: Int) throws {
      bert = try BackboneFixture.named("tiny-bert")
      let fixture = GoldenFixture("tiny-bert")
      guard case .bert(let shape) = try ModelConfiguration(region: fixture.region("config.json")) else {
        throw ConfigurationFailure.missing(file: "config.json", key: "BERT")
      }
      let conversion = try BERTToBART(
        try Checkpoint(region: try fixture.region("model.safetensors")), shape, startID: startID,
        endID: endID,
        decoderLayers: decoderLayers)
      var bytes: [UInt8] = []
      streamSafetensors(conversion.layout, pieceElements: 1000) { entry, range, part in
        conversion.fill(entry, range, part)
      } sink: {
        bytes.append(contentsOf: $0)
      }
      checkpoint = try Checkpoint(region: MemoryRegion(name: "model.safetensors", bytes: bytes))
      let written = try ModelConfiguration(
        region: MemoryRegion(name: "config.json", bytes: conversion.configurationJSON))
      try written.validate(checkpoint, file: "config.json")
      guard case .bart(let configuration) = written else {
        throw ConfigurationFailure.missing(file: "config.json", key: "BART")
      }
      self.configuration = configuration
      bart = try BARTBackbone(checkpoint, configuration)
    }

    func values(_ tensor: String) throws -> [Float] {
      let entry = try #require(checkpoint.entry(tensor))
      let values = try checkpoint.float32(named: tensor, shape: entry.shape)
      return Array(UnsafeBufferPointer(start: values, count: entry.elementCount))
    }
  }

  @Test("has an encoder that computes what BERT computes on one segment, behind every layer")
  func encoder() throws {
    let converted = try Converted(decoderLayers: 2)
    let ids = converted.bert.batch.encoderIDs
    let batch = BackboneBatch(encoderIDs: ids, encoder: converted.bert.batch.encoder)
    func taps(_ backbone: any Backbone) -> [[Float]] {
      let workspace = Arena(floatCount: backbone.workspaceFloats(capacity: BackboneCapacity(of: batch)))
      var found: [[Float]] = []
      backbone.forward(batch, workspace: workspace) { _, _, rows in found.append(copy(rows)) }
      return found
    }
    let (expected, actual) = (taps(converted.bert.backbone), taps(converted.bart))
    #expect(expected.count == 4 && actual.count == 4)
    for (tap, pair) in zip(expected, actual).enumerated() {
      // The two add word, position and segment in different orders: the last bits differ, DESIGN §4 allows 1e-4.
      let difference = zip(pair.0, pair.1).map { abs($0 - $1) }.max() ?? .infinity
      #expect(difference <= 1e-4, "tap \(tap)")
    }
  }

  @Test("keeps BERT's epsilon, positions and special ids")
  func configuration() throws {
    let configuration = try Converted(decoderLayers: 1).configuration
    #expect(configuration.epsilon == 1e-12)
    #expect(configuration.positions == 64)
    for (stack, layers) in [(configuration.encoder, 3), (configuration.decoder, 1)] {
      #expect(stack.layers == layers && stack.heads == 4 && stack.hidden == 96)
    }
    #expect(configuration.startID == Self.startID && configuration.decoderStartID == Self.startID)
    #expect(configuration.endID == Self.endID && configuration.padID == 0)
  }

  @Test("has a decoder of BERT's own layers, the first and the last among them, attending as they do")
  func decoder() throws {
    let converted = try Converted(decoderLayers: 2)
    for (layer, source) in [0, 2].enumerated() {
      for attention in ["self_attn", "encoder_attn"] {
        #expect(
          try converted.values("model.decoder.layers.\(layer).\(attention).k_proj.weight")
            == converted.values("model.encoder.layers.\(source).self_attn.k_proj.weight"))
      }
      #expect(
        try converted.values("model.decoder.layers.\(layer).fc2.bias")
          == converted.values("model.encoder.layers.\(source).fc2.bias"))
    }
    let all = try Converted(decoderLayers: 3)
    for layer in 0..<3 {
      #expect(
        try all.values("model.decoder.layers.\(layer).fc1.weight")
          == all.values("model.encoder.layers.\(layer).fc1.weight"))
    }
    let positions = try converted.values("model.encoder.embed_positions.weight")
    #expect(positions.prefix(2 * 48).allSatisfy { $0 == 0 }, "fairseq's two rows of no position")
  }
}
