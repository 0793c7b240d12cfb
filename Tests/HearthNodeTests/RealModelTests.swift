import FineTuning
import Foundation
import HearthNode
import LanguageModels
import TensorKernels
import Testing

private let checkout = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
  .deletingLastPathComponent().deletingLastPathComponent().path
private let environment = ProcessInfo.processInfo.environment
private let miniLM = (environment["HEARTH_DEMO_DIRECTORY"] ?? checkout + "/.demo") + "/minilm"
private let similarity = (environment["HEARTH_DATA"] ?? checkout + "/../shared/data") + "/stsb/sts-test.csv"
private let isThere = [miniLM + "/model.safetensors", similarity].allSatisfy {
  FileManager.default.fileExists(atPath: $0)
}

@Suite("Real weights")
struct RealModelTests {
  @Test(
    "MiniLM's mean-pooled cosine on STS-B test has the published Spearman correlation 0.8203",
    .enabled(if: isThere, "needs scripts/fetch-demo-data and HEARTH_DATA with stsb/sts-test.csv"))
  func miniLMSimilarity() throws {
    var options = DataOptions()
    options.format = .tsv
    (options.textColumn, options.pairColumn, options.labelColumn) = ("6", "7", "5")
    options.header = false
    let rows = try TrainingRows.read(similarity, options: options, labels: .number).examples
    #expect(rows.count == 1379)
    let model = try OpenedModel(directory: miniLM)
    let predicted = try rows.map { row in
      let pair = try [row.text, row.pair ?? ""].map { try embedding($0, model: model) }
      return zip(pair[0], pair[1]).reduce(0.0) { $0 + $1.0 * $1.1 }
    }
    let actual = rows.map { Double($0.label ?? "") ?? .nan }
    let scores = RegressionScores(predicted: predicted, actual: actual)
    #expect(abs(scores.spearman - 0.8203) < 0.0002, "Spearman \(scores.spearman)")
  }

  /// The mean of the last hidden states, at unit length.
  private func embedding(_ text: String, model: OpenedModel) throws -> [Double] {
    let backbone = try #require(model.backbone)
    let encoded = try model.tokenizer.encode(text, pair: nil, maxLength: 256)
    let batch = BackboneBatch(
      encoderIDs: encoded.ids, encoderTypes: encoded.types,
      encoder: PackedSequences(lengths: [encoded.ids.count]))
    let workspace = Arena(floatCount: backbone.workspaceFloats(capacity: BackboneCapacity(of: batch)))
    var mean = [Double](repeating: 0, count: backbone.architecture.width)
    backbone.forward(batch, workspace: workspace) { _, index, states in
      guard index == backbone.architecture.stacks[0].layers else { return }
      for row in 0..<states.rows {
        for column in mean.indices { mean[column] += Double(states[row, column]) }
      }
    }
    let norm = mean.reduce(0) { $0 + $1 * $1 }.squareRoot()
    return mean.map { $0 / norm }
  }
}
