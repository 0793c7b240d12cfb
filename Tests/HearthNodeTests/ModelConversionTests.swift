import CryptoPrimitives
import Foundation
import HearthNode
import LanguageModels
import TensorKernels
import Testing

private let checkout = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
  .deletingLastPathComponent().deletingLastPathComponent().path
private let fixtures = checkout + "/Tests/Fixtures"
private let miniLM =
  (ProcessInfo.processInfo.environment["HEARTH_DEMO_DIRECTORY"] ?? checkout + "/.demo") + "/minilm"

@Suite("The conversion of BERT to BART")
struct ModelConversionTests {
  private func withScratch(_ body: (String) throws -> Void) throws {
    let path = NSTemporaryDirectory() + "hearth-conversion-\(UUID().uuidString)"
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: path) }
    try body(path)
  }

  /// The last encoder states of a text, in segment 0.
  private func encoderStates(_ text: String, _ model: OpenedModel) throws -> [Float] {
    let backbone = try #require(model.backbone)
    let ids = try model.tokenizer.encode(text, pair: nil, maxLength: 128).ids
    let batch = BackboneBatch(encoderIDs: ids, encoder: PackedSequences(lengths: [ids.count]))
    let workspace = Arena(floatCount: backbone.workspaceFloats(capacity: BackboneCapacity(of: batch)))
    var states: [Float] = []
    let last = backbone.architecture.stacks[0].layers
    backbone.forward(batch, workspace: workspace) { _, index, rows in
      guard index == last else { return }
      for row in 0..<rows.rows { states += (0..<rows.columns).map { rows[row, $0] } }
    }
    return states
  }

  private func check(_ directory: String, texts: [String]) throws {
    try withScratch { scratch in
      let summary = try convertBERTToBART(
        ConversionRequest(modelDirectory: directory, output: scratch + "/bart"))
      let (bert, bart) = (
        try OpenedModel(directory: directory), try OpenedModel(directory: scratch + "/bart")
      )
      #expect(summary.digest == bart.digest.description)
      #expect(summary.parameters == bart.parameterCount)
      #expect(bart.architecture.stacks.map(\.layers) == [bert.architecture.stacks[0].layers, 2])
      #expect(bart.tokenizer.digest == bert.tokenizer.digest, "the tokenizer is kept")
      for text in texts {
        let (expected, found) = (try encoderStates(text, bert), try encoderStates(text, bart))
        let difference = zip(expected, found).map { abs($0 - $1) }.max() ?? .infinity
        #expect(expected.count == found.count && difference <= 1e-4, "\(difference) in \(text)")
      }
      let inspection = try Inspector.inspect(scratch + "/bart")
      #expect(inspection.kind == .model)
      #expect(
        inspection.facts.contains(Inspection.Fact("architecture", .text("BART encoder-decoder"))))
    }
  }

  @Test("keeps the tokenizer and what the encoder computes, and loads again")
  func tiny() throws {
    try check(fixtures + "/tiny-bert", texts: ["the house is wonderful.", "a", "learning household?"])
  }

  @Test(
    "of MiniLM keeps what its encoder computes within 1e-4",
    .enabled(
      if: FileManager.default.fileExists(atPath: miniLM + "/model.safetensors"),
      "needs scripts/fetch-demo-data"))
  func published() throws {
    try check(
      miniLM,
      texts: [
        "Amrozi accused his brother, whom he called \"the witness\", of deliberately distorting his evidence.",
        "A plane is taking off.", "what a film",
      ])
  }

  @Test("refuses what is no BERT, and more decoder layers than there are")
  func refusals() throws {
    try withScratch { scratch in
      #expect(throws: ConversionFailure.notBERT(path: fixtures + "/tiny-t5", found: "T5")) {
        try convertBERTToBART(
          ConversionRequest(modelDirectory: fixtures + "/tiny-t5", output: scratch + "/bart"))
      }
      var request = ConversionRequest(modelDirectory: fixtures + "/tiny-bert", output: scratch + "/bart")
      request.decoderLayers = 4
      #expect(throws: ConversionFailure.decoderLayers(found: 4, most: 3)) {
        try convertBERTToBART(request)
      }
      #expect(!FileManager.default.fileExists(atPath: scratch + "/bart"), "nothing is left behind")
      try "x".write(toFile: scratch + "/file", atomically: true, encoding: .utf8)
      request.decoderLayers = 1
      request.output = scratch
      #expect(throws: RunFailure.self) { try convertBERTToBART(request) }
    }
  }
}
