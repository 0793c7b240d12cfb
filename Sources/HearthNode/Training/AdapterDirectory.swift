package import CryptoPrimitives
package import FineTuning
import HearthStorage
import LanguageModels
package import NeuralNetworks

/// An adapter on disk: `adapter.safetensors`, `adapter.json` and a model card.
package enum AdapterDirectory {
  /// Largest description that is read.
  private static let tensorsPath = AdapterDescription.tensorsFileName

  /// The safetensors text of trained parameters, and its content digest.
  package static func tensors(_ parameters: ParameterTree) throws -> (bytes: [UInt8], digest: ContentDigest) {
    let trainable = parameters.parameters.filter(\.isTrainable)
    let bytes = safetensorsBytes(
      trainable.map { parameter in
        NamedTensor(
          name: parameter.name,
          shape: parameter.rows == 1 ? [parameter.columns] : [parameter.rows, parameter.columns],
          values: UnsafeBufferPointer(start: parameter.values, count: parameter.count))
      }, metadata: ["format": "hearth-adapter"])
    let region = MemoryRegion(name: tensorsPath, bytes: bytes)
    return (bytes, try Checkpoint(region: region).digest)
  }

  /// Writes the three files; the description comes last, so a directory without it is no adapter.
  package static func write(
    _ bytes: [UInt8], description: AdapterDescription, card: String, to path: String
  ) throws {
    try createDirectory(path)
    try AtomicFile.write(bytes, to: path + "/" + tensorsPath)
    try AtomicFile.write(Array(card.utf8), to: path + "/" + AdapterDescription.cardFileName)
    try AtomicFile.write(try description.encoded(), to: path + "/" + AdapterDescription.fileName)
  }

  /// Reads the description of the adapter at `path`.
  package static func description(_ path: String) throws -> AdapterDescription {
    let file = path + "/" + AdapterDescription.fileName
    guard let bytes = try readFileIfPresent(file, limit: AdapterDescription.maximumBytes) else {
      throw RunFailure.missingInput(
        role: "adapter", path: path,
        detail: "has no adapter.json; pass the --output directory of a finished hearth train")
    }
    return try AdapterDescription(decoding: bytes, path: file)
  }

  /// Reads the tensors of the adapter at `path` into a tree of the given shape.
  package static func parameters(
    _ path: String, description: AdapterDescription, shape: SideNetworkShape
  ) throws -> ParameterTree {
    let file = path + "/" + tensorsPath
    let region = try MappedFile(file)
    let checkpoint = try Checkpoint(region: region)
    guard checkpoint.digest.description == description.adapterDigest else {
      throw AdapterFailure.damaged(
        path: file, expected: description.adapterDigest, found: checkpoint.digest.description)
    }
    let tree = shape.emptyParameters()
    let trainable = tree.parameters.filter(\.isTrainable)
    let expected = Set(trainable.map(\.name))
    if let extra = checkpoint.names.first(where: { !expected.contains($0) }) {
      throw AdapterFailure.tensor(name: extra, path: file, detail: "belongs to no part of this side network")
    }
    for parameter in trainable {
      guard checkpoint.contains(parameter.name) else {
        throw AdapterFailure.tensor(name: parameter.name, path: file, detail: "is missing")
      }
      let values = try checkpoint.float32(
        named: parameter.name,
        shape: parameter.rows == 1 ? [parameter.columns] : [parameter.rows, parameter.columns])
      parameter.values.update(from: values, count: parameter.count)
    }
    return tree
  }
}
