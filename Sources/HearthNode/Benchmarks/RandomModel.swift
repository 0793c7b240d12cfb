import Determinism
import HearthStorage
package import LanguageModels

/// Models of a known shape with random weights: speed and memory do not depend on what weights are.
package enum RandomModel {
  /// Writes `config.json` and `model.safetensors` of a shape to `directory`, unless a whole model is there.
  package static func write(_ shape: ModelShape, to directory: String, seed: UInt64 = 1) throws {
    if (try? ModelDirectory.loadConfiguration(ModelFolder(directory))) == shape.configuration { return }
    try createDirectory(directory)
    var file = try AtomicFile(directory + "/model.safetensors")
    try write(SafetensorsLayout(shape.configuration.tensorShapes), seed: seed, into: &file)
    try file.commit()
    // Last, so that a directory with a configuration is a whole model.
    try AtomicFile.write(Array(shape.configurationText.utf8), to: directory + "/config.json")
  }

  private static func write(_ layout: SafetensorsLayout, seed: UInt64, into file: inout AtomicFile) throws {
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
    if ["layer_norm.weight", "LayerNorm.weight", "layernorm_embedding.weight"].contains(where: name.hasSuffix)
    {
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
