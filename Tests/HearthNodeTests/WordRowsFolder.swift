import Foundation
import HearthNode

/// A directory with a small training file that is gone after the test.
final class WordRowsFolder {
  static let fixtures = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
    .deletingLastPathComponent().appendingPathComponent("Fixtures").path

  let path = NSTemporaryDirectory() + "hearth-rows-\(UUID().uuidString)"

  init() throws {
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    let words = ["good", "bad", "film", "plot", "the", "a", "great", "poor", "story", "cast"]
    let lines = (0..<40).map { index in
      (0..<2 + index % 7).map { words[(index * 7 + $0 * $0 * 3) % words.count] }.joined(separator: " ")
        + " \(index)\t\(index % 2 == 0 ? "yes" : "no")"
    }
    try lines.joined(separator: "\n").write(toFile: path + "/rows.tsv", atomically: true, encoding: .utf8)
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  /// A short training of a fixture's model on the rows, which are its held-out rows, too.
  func request(_ model: String, output: String) -> TrainRequest {
    var request = TrainRequest(
      modelDirectory: Self.fixtures + "/" + model, dataFile: path + "/rows.tsv", task: .classify,
      output: path + "/" + output)
    (request.data.header, request.data.textColumn, request.data.labelColumn) = (false, "1", "2")
    request.validationFile = request.dataFile
    request.reduction = 2
    request.learningRate = 1e-2
    (request.epochs, request.batch, request.microBatch, request.maxLength) = (3, 8, 2, 24)
    request.threads = 1
    return request
  }
}
