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

private let dataFolder = environment["HEARTH_DATA"] ?? checkout + "/../shared/data"
private let phonemeModel =
  [dataFolder, dataFolder + "/.."].map { $0 + "/models/g2p-bart" }.first {
    FileManager.default.fileExists(atPath: $0 + "/us_gold.json")
  } ?? ""

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

  /// Words of the lexicon with their phonemes in an accent that drops r's before consonants and at the end, as JSON
  /// lines: another lexicon than the one that the model was made with.
  private func accentRows(_ range: Range<Int>) throws -> String {
    let data = try Data(contentsOf: URL(fileURLWithPath: phonemeModel + "/us_gold.json"))
    let lexicon = try #require(try JSONSerialization.jsonObject(with: data) as? [String: Any])
    let words = lexicon.keys.filter {
      (4...12).contains($0.count) && $0.allSatisfy { $0.isASCII && $0.isLetter && $0.isLowercase }
        && lexicon[$0] is String
    }.sorted()
    // Every 97th word: neighbours in the alphabet are forms of each other.
    let chosen = range.map { words[$0 * 97 % words.count] }
    return chosen.map { word in
      let phonemes = Array(lexicon[word] as? String ?? "")
      let accented = phonemes.indices.filter { index in
        guard phonemes[index] == "ɹ" else { return true }
        return index + 1 < phonemes.count && "aeiouæɑɒɔəɛɜɪʊʌAIOWYQᵊˈˌ".contains(phonemes[index + 1])
      }.map { phonemes[$0] }
      return #"{"input":"\#(word)","target":"\#(String(accented))"}"#
    }.joined(separator: "\n")
  }

  @Test(
    "a published grapheme-to-phoneme BART learns another accent by every technique",
    .enabled(if: !phonemeModel.isEmpty, "needs HEARTH_DATA with models/g2p-bart beside it"),
    arguments: RunTechnique.allCases)
  func accent(technique: RunTechnique) throws {
    let scratch = NSTemporaryDirectory() + "hearth-accent-\(UUID().uuidString)"
    try FileManager.default.createDirectory(atPath: scratch, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: scratch) }
    for (name, range) in [("train", 0..<600), ("held", 600..<700)] {
      try accentRows(range).write(toFile: scratch + "/\(name).jsonl", atomically: true, encoding: .utf8)
    }
    var request = TrainRequest(
      modelDirectory: phonemeModel, dataFile: scratch + "/train.jsonl", task: .seq2seq,
      output: scratch + "/out")
    request.validationFile = scratch + "/held.jsonl"
    request.technique = technique
    request.learningRate = 2 * technique.defaultLearningRate
    (request.maxLength, request.maximumTargetLength, request.threads) = (32, 32, 2)
    let summary = try train(request, cancellation: CancellationFlag(), report: { _ in })
    let before = try #require(summary.metric.before)
    let after = try #require(summary.metric.after)
    #expect(before > 0.2, "the weights write phonemes: \(before)")
    #expect(after > before + 0.04, "exact match \(before) before, \(after) after")
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
