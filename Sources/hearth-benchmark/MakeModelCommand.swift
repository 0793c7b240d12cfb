import ArgumentParser
import Determinism
import HearthNode
import HearthStorage
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
    let json = Array(shape.configurationText.utf8)
    let configuration = try ModelConfiguration(region: MemoryRegion(name: "config.json", bytes: json))
    try createDirectory(output)
    var file = try AtomicFile(output + "/model.safetensors")
    try write(SafetensorsLayout(configuration.tensorShapes), into: &file)
    try file.commit()
    // Last, so that a directory with a configuration is a whole model.
    try AtomicFile.write(json, to: output + "/config.json")
  }

  private func write(_ layout: SafetensorsLayout, into file: inout AtomicFile) throws {
    let places = Dictionary(uniqueKeysWithValues: layout.tensors.enumerated().map { ($1.name, $0) })
    try streamSafetensors(layout) { tensor, range, values in
      let place = places[tensor.name] ?? 0
      var generator = SeededGenerator(seed: seed, UInt64(place), UInt64(range.lowerBound))
      let start = RandomStart(tensor)
      for index in 0..<values.count {
        values[index] = start.mean + (start.deviation > 0 ? start.deviation * generator.normalFloat() : 0)
      }
    } sink: { (piece: UnsafeRawBufferPointer) throws in
      try file.append(piece)
    }
  }
}

extension ModelShape: ExpressibleByArgument {}

/// How the values of a tensor start: as the models' own initialisation has it, so that activations keep a
/// natural size through all layers.
struct RandomStart {
  /// The mean of the values.
  let mean: Float
  /// Their standard deviation.
  let deviation: Float

  /// The start of a tensor, by its name and shape.
  init(_ tensor: SafetensorsEntry) {
    let name = tensor.name
    let inputs = Float(tensor.shape.last ?? 1)
    if name.hasSuffix("layer_norm.weight") || name.hasSuffix("LayerNorm.weight") {
      (mean, deviation) = (1, 0)
    } else if tensor.shape.count < 2 {
      (mean, deviation) = (0, 0)
    } else if name == "shared.weight" {
      (mean, deviation) = (0, 1)
    } else if name.hasSuffix("embeddings.weight") {
      (mean, deviation) = (0, 0.02)
    } else if name.hasSuffix("Attention.q.weight") {
      // T5 folds the scale of its scores into the queries' start: (d · head size)^−½, head size 64.
      (mean, deviation) = (0, 1 / (64 * inputs).squareRoot())
    } else {
      (mean, deviation) = (0, 1 / inputs.squareRoot())
    }
  }
}
