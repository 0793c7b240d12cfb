import ArgumentParser
import HearthNode
import LanguageModels

/// Writes a model of a known shape with random weights.
struct MakeModelCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "make-model",
    abstract: "Write a model directory with random weights: config.json and model.safetensors.",
    discussion: """
      Speed does not depend on what the weights are, so benchmarks need no download.

      Example: hearth-benchmark make-model --shape t5-base --output /tmp/t5-base
      """)

  @Option(help: "Shape of the model: \(ModelShape.allCases.map(\.rawValue).joined(separator: ", ")).")
  var shape: ModelShape

  @Option(help: "Directory that receives the model.")
  var output: String

  @Option(help: "Seed of the weights.")
  var seed: UInt64 = 1

  func run() throws {
    try RandomModel.write(shape, to: output, seed: seed)
  }
}

extension ModelShape: ExpressibleByArgument {}
