package import CryptoPrimitives
package import FineTuning
import HearthStorage
package import LanguageModels
package import NeuralNetworks

/// An adapter on disk: `adapter.safetensors`, `adapter.json` and a model card; a LoRA adapter also as PEFT lays it out.
package enum AdapterDirectory {
  private static let tensorsPath = AdapterDescription.tensorsFileName

  /// Bytes of the tensors of a tree on disk, without the header.
  package static func tensorBytes(_ parameterCount: Int) -> Int {
    parameterCount * MemoryLayout<Float>.stride
  }

  /// Writes the trained leaves of a tree into `path` piece by piece, and returns the digest of their content.
  package static func writeTensors(_ parameters: ParameterTree, to path: String) throws -> ContentDigest {
    try createDirectory(path)
    let trainable = parameters.parameters.filter(\.isTrainable)
    let layout = SafetensorsLayout(
      trainable.map { ($0.name, shape(of: $0)) }, metadata: ["format": "hearth-adapter"])
    var file = try AtomicFile(path + "/" + tensorsPath)
    try streamSafetensors(layout) { (entry, range, part) throws(FileFailure) in
      guard let target = part.baseAddress else { return }
      let leaf = parameters[entry.name]
      target.update(from: leaf.values + range.lowerBound, count: range.count)
      let first = (leaf.gradientOffset ?? 0) + range.lowerBound
      parameters.releasePages(first..<first + range.count)
    } sink: { (piece) throws(FileFailure) in
      try file.append(piece)
    }
    try file.commit()
    return try Checkpoint(region: MappedFile(path + "/" + tensorsPath)).digest(releasing: true)
  }

  private static func shape(of parameter: Parameter) -> [Int] {
    parameter.rows == 1 ? [parameter.columns] : [parameter.rows, parameter.columns]
  }

  /// Writes what belongs to the tensors; the description comes last, so a directory without it is no adapter.
  ///
  /// - Parameter peft: the two files of a LoRA adapter in PEFT's layout.
  package static func write(
    description: AdapterDescription, card: String, peft: (configuration: [UInt8], tensors: [UInt8])?,
    to path: String
  ) throws {
    if let peft {
      try AtomicFile.write(peft.tensors, to: path + "/" + PEFTAdapter.tensorsFileName)
      try AtomicFile.write(peft.configuration, to: path + "/" + PEFTAdapter.configurationFileName)
    }
    try AtomicFile.write(Array(card.utf8), to: path + "/" + AdapterDescription.cardFileName)
    try AtomicFile.write(try description.encoded(), to: path + "/" + AdapterDescription.fileName)
  }

  /// Reads the description of the adapter at `path`; nil when there is none.
  package static func descriptionIfPresent(_ path: String) throws -> AdapterDescription? {
    let file = path + "/" + AdapterDescription.fileName
    guard let bytes = try readFileIfPresent(file, limit: AdapterDescription.maximumBytes) else { return nil }
    return try AdapterDescription(decoding: bytes, path: file)
  }

  /// Reads the description of the adapter at `path`.
  package static func description(_ path: String) throws -> AdapterDescription {
    guard let description = try descriptionIfPresent(path) else {
      throw RunFailure.missingInput(
        role: "adapter", path: path,
        detail: "has no adapter.json; pass the --output directory of a finished hearth train")
    }
    return description
  }

  /// Fills a tree with the tensors of the adapter at `path`.
  package static func read(
    _ path: String, description: AdapterDescription, into tree: ParameterTree
  ) throws {
    let file = path + "/" + tensorsPath
    let region = try MappedFile(file)
    let checkpoint = try Checkpoint(region: region)
    guard checkpoint.digest.description == description.adapterDigest else {
      throw AdapterFailure.damaged(
        path: file, expected: description.adapterDigest, found: checkpoint.digest.description)
    }
    let trainable = tree.parameters.filter(\.isTrainable)
    let expected = Set(trainable.map(\.name))
    if let extra = checkpoint.names.first(where: { !expected.contains($0) }) {
      throw AdapterFailure.tensor(
        name: extra, path: file, detail: "belongs to no part of this \(description.technique.name) adapter")
    }
    for parameter in trainable {
      guard checkpoint.contains(parameter.name) else {
        throw AdapterFailure.tensor(name: parameter.name, path: file, detail: "is missing")
      }
      let values = try checkpoint.float32(named: parameter.name, shape: shape(of: parameter))
      parameter.values.update(from: values, count: parameter.count)
    }
    checkpoint.releaseResidentPages()
  }

  /// True when `path` holds an adapter as PEFT lays it out.
  package static func holdsPEFT(_ path: String) throws -> Bool {
    try directoryNames(path).contains(PEFTAdapter.configurationFileName)
  }

  /// Reads the adapter that another program wrote at `path` in PEFT's layout.
  package static func peft(_ path: String, backbone: any Backbone) throws -> PEFTAdapter {
    let file = path + "/" + PEFTAdapter.configurationFileName
    return try PEFTAdapter(
      configuration: readWholeFile(file, limit: PEFTAdapter.maximumConfigurationBytes), path: file,
      tensors: Checkpoint(region: MappedFile(path + "/" + PEFTAdapter.tensorsFileName)), backbone: backbone)
  }
}
