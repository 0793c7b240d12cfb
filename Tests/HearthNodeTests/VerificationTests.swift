import Foundation
import HearthNode
import LanguageModels
import Testing

private let fixtures = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
  .deletingLastPathComponent().appendingPathComponent("Fixtures").path

/// A stand-in for a published model: the small T5 of the fixtures.
@Suite("The verification of a model")
struct VerificationTests {
  private static let ids: [[Int32]] = [[5, 25, 10, 75, 4, 1], [7, 1]]

  private func record(_ directory: String) throws -> RecordedOutputs {
    let model = try OpenedModel(directory: directory)
    return RecordedOutputs(
      of: try #require(model.backbone as? any EncoderDecoderBackbone), ids: Self.ids)
  }

  /// What a person would have published of these outputs.
  private func publish(_ recorded: RecordedOutputs) -> PublishedOutputs {
    var rows: [PublishedOutputs.Row] = []
    for (text, outputs) in recorded.texts.enumerated() {
      let last = outputs.ids.count - 1
      for token in [0, last] {
        let first = outputs.encoder.dropFirst(token * recorded.width)
        rows.append(PublishedOutputs.Row(.encoder, text: text, token: token, Array(first.prefix(5))))
      }
      rows.append(PublishedOutputs.Row(.decoder, text: text, token: 0, Array(outputs.decoder.prefix(5))))
      rows.append(PublishedOutputs.Row(.scores, text: text, token: 0, Array(outputs.scores.prefix(5))))
    }
    return PublishedOutputs(
      name: "Stand-in", words: ["first", "second"], ids: Self.ids, rows: rows,
      likeliest: recorded.texts.map(\.likeliest))
  }

  private func verify(_ recorded: RecordedOutputs, tokenized: [[Int32]] = ids) throws -> Verification {
    Verification(
      modelDirectory: "here", recorded: recorded, tokenized: tokenized,
      published: publish(try record(fixtures + "/tiny-t5")))
  }

  @Test("finds the published outputs again")
  func agreement() throws {
    let verification = try verify(try record(fixtures + "/tiny-t5"))
    #expect(verification.agrees && verification.failure == nil)
    #expect(verification.comparisons.count == 2 + 8 + 2)
    #expect(verification.comparisons.allSatisfy { $0.largestDifference == 0 })
    #expect(verification.text.contains("'here' computes what the published Stand-in computes"))
  }

  /// The first weight of a tensor that each part depends on, changed by 0.5.
  @Test(
    "finds one changed weight",
    arguments: [
      ("encoder.block.1.layer.0.SelfAttention.v.weight", "encoder states"),
      ("encoder.final_layer_norm.weight", "encoder states"),
      ("decoder.block.0.layer.1.EncDecAttention.o.weight", "decoder state"),
      ("decoder.final_layer_norm.weight", "decoder state"),
    ])
  func changedWeight(tensor: String, part: String) throws {
    let scratch = NSTemporaryDirectory() + "hearth-verification-\(UUID().uuidString)"
    try FileManager.default.copyItem(atPath: fixtures + "/tiny-t5", toPath: scratch)
    defer { try? FileManager.default.removeItem(atPath: scratch) }
    let file = URL(fileURLWithPath: scratch + "/model.safetensors")
    var bytes = [UInt8](try Data(contentsOf: file))
    let entry = try #require(
      try SafetensorsFile(region: MemoryRegion(name: "model.safetensors", bytes: bytes)).tensor(tensor))
    let place = entry.byteRange.lowerBound
    let bits = bytes[place..<place + 4].enumerated().reduce(UInt32(0)) {
      $0 | UInt32($1.element) << (8 * $1.offset)
    }
    let changed = (Float(bitPattern: bits) + 0.5).bitPattern
    for byte in 0..<4 { bytes[place + byte] = UInt8(truncatingIfNeeded: changed >> (8 * UInt32(byte))) }
    try Data(bytes).write(to: file)

    let verification = try verify(try record(scratch))
    #expect(!verification.agrees)
    let first = try #require(verification.comparisons.first { !$0.agrees })
    #expect(first.what.hasPrefix(part), "\(first.what)")
    #expect(verification.failure?.reason == .mismatch)
    #expect(verification.failure?.description.contains(first.what) == true)
    #expect(verification.text.contains("DIFFERS"))
  }

  @Test("finds other token ids, values that are no numbers and values just beyond the tolerance")
  func comparison() throws {
    var recorded = try record(fixtures + "/tiny-t5")
    let other = try verify(recorded, tokenized: [[5, 25, 10, 75, 4, 1], [7, 8, 1]])
    #expect(other.comparisons.filter { !$0.agrees }.map(\.largestDifference) == [2])
    let (scale, allowed) = (abs(recorded.texts[0].decoder[0]), PublishedOutputs.absoluteTolerance)
    #expect(scale < 10)
    recorded.texts[0].decoder[0] += allowed * 0.98
    #expect(try verify(recorded).agrees)
    recorded.texts[0].decoder[0] += allowed * 0.5
    #expect(try !verify(recorded).agrees)
    recorded.texts[0].decoder[0] = .nan
    #expect(try verify(recorded).comparisons.filter { !$0.agrees }.map(\.largestDifference) == [.infinity])
  }

  @Test("says of other models that nothing is known", arguments: ["tiny-t5", "tiny-bert", "tiny-bart"])
  func unknown(model: String) throws {
    let error = #expect(throws: VerificationFailure.self) { try verifyModel(fixtures + "/" + model) }
    #expect(error?.reason == .badData)
    #expect(error?.description.contains("no golden values are known") == true)
  }

  @Test("knows T5-Small, T5-Base and T5-Large by their shapes")
  func shapes() throws {
    func name(_ width: Int, _ layers: Int, _ heads: Int, _ hidden: Int, vocabulary: Int = 32_128) throws
      -> String?
    {
      let json = """
        {"model_type":"t5","d_model":\(width),"num_layers":\(layers),"num_heads":\(heads),"d_ff":\(hidden),
        "d_kv":64,"vocab_size":\(vocabulary),"relative_attention_num_buckets":32}
        """
      let region = MemoryRegion(name: "config.json", bytes: Array(json.utf8))
      return PublishedOutputs.of(try ModelConfiguration(region: region))?.name
    }
    #expect(try name(512, 6, 8, 2_048) == "T5-Small")
    #expect(try name(768, 12, 12, 3_072) == "T5-Base")
    #expect(try name(1_024, 24, 16, 4_096) == "T5-Large")
    #expect(try name(1_024, 24, 32, 16_384) == nil, "T5-3B")
    #expect(try name(768, 12, 12, 3_072, vocabulary: 32_100) == nil)
  }
}
