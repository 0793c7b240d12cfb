import Determinism
import FoundationEssentials
import LanguageModels
import TensorKernels

/// One directory of Tests/Fixtures: a model and what the reference implementation computed with it.
struct GoldenFixture {
  let directory: String

  /// The directory of this name.
  init(_ name: String) {
    directory = Self.root + "/" + name
  }

  /// Tests/Fixtures, next to this target's directory.
  static let root: String = {
    var parts = #filePath.split(separator: "/", omittingEmptySubsequences: false)
    parts.removeLast(2)
    return parts.joined(separator: "/") + "/Fixtures"
  }()

  /// A file's bytes in memory.
  func region(_ file: String) throws -> MemoryRegion {
    MemoryRegion(name: file, bytes: try Data(contentsOf: URL(filePath: directory + "/" + file)))
  }

  /// The stored weights.
  func weights() throws -> SafetensorsFile {
    try SafetensorsFile(region: try region("model.safetensors"))
  }

  /// What the reference computed.
  func expected() throws -> ExpectedOutputs {
    ExpectedOutputs(file: try SafetensorsFile(region: try region("expected.safetensors")))
  }
}

/// The tensors of an `expected.safetensors`, copied out.
struct ExpectedOutputs {
  let file: SafetensorsFile

  /// A float tensor, row-major.
  func floats(_ name: String) -> [Float] { copy(name, as: Float.self) }
  /// An integer tensor, for instance ids and lengths.
  func integers(_ name: String) -> [Int32] { copy(name, as: Int32.self) }
  /// The shape of a tensor.
  func shape(_ name: String) -> [Int] { file.tensor(name)?.shape ?? [] }
  /// The lengths of a stack ("encoder" or "decoder") as packed sequences.
  func sequences(_ stack: String) -> PackedSequences {
    PackedSequences(lengths: integers("\(stack).lengths").map(Int.init))
  }

  private func copy<Element>(_ name: String, as type: Element.Type) -> [Element] {
    guard let entry = file.tensor(name) else { preconditionFailure("no tensor \(name) in the fixture") }
    let bytes = file.bytes(of: entry)
    return (0..<entry.elementCount).map {
      bytes.loadUnaligned(fromByteOffset: $0 * MemoryLayout<Element>.stride, as: type)
    }
  }
}

/// One tensor of `weights.json`, whose values follow from its name (Tests/Fixtures/README.md).
struct FormulaTensor: Decodable {
  let name: String
  let shape: [Int]
  let amplitude: Float
  let offset: Float

  /// The list in a fixture's `weights.json`.
  static func list(of fixture: GoldenFixture) throws -> [FormulaTensor] {
    try fixture.region("weights.json").withBytes { bytes in
      try JSONDecoder().decode([FormulaTensor].self, from: Data(bytes))
    }
  }

  /// The values, row-major.
  func values() -> [Float] {
    var seed: UInt64 = 0xCBF2_9CE4_8422_2325
    for byte in name.utf8 { seed = (seed ^ UInt64(byte)) &* 0x100_0000_01B3 }
    var draws = SeededGenerator(seed: seed)
    return (0..<shape.reduce(1, *)).map { _ in offset + amplitude * (2 * draws.uniformFloat() - 1) }
  }
}
