import LanguageModels
import NeuralNetworks
import TensorKernels

/// A golden fixture's model as a backbone, with the batch that the reference ran.
struct BackboneFixture: Sendable {
  /// T5-Base's true width takes a second to fill, so its tests share one.
  private static let baseShape = Result { try BackboneFixture("t5-base-shape") }

  /// The model of a fixture directory.
  static func named(_ directory: String) throws -> BackboneFixture {
    directory == "t5-base-shape" ? try baseShape.get() : try BackboneFixture(directory)
  }

  let region: MemoryRegion
  let backbone: any Backbone
  let batch: BackboneBatch
  let expected: ExpectedOutputs

  /// The model of a fixture directory, its tensors under the names that `rename` gives them.
  init(_ directory: String, rename: (String) -> String = { $0 }) throws {
    let fixture = GoldenFixture(directory)
    expected = try fixture.expected()
    let tensors = directory == "t5-base-shape" ? try Self.byFormula(fixture) : try Self.stored(fixture)
    region = MemoryRegion(name: directory, bytes: Self.bytes(tensors.map { (rename($0.0), $0.1, $0.2) }))
    let checkpoint = try Checkpoint(region: region)
    switch try ModelConfiguration(region: fixture.region("config.json")) {
    case .bert(let configuration): backbone = try BERTBackbone(checkpoint, configuration)
    case .t5(let configuration): backbone = try T5Backbone(checkpoint, configuration)
    case .bart(let configuration): backbone = try BARTBackbone(checkpoint, configuration)
    }
    let hasDecoder = !expected.shape("decoder.ids").isEmpty
    batch = BackboneBatch(
      encoderIDs: expected.integers("encoder.ids"),
      encoderTypes: expected.shape("encoder.types").isEmpty ? [] : expected.integers("encoder.types"),
      encoder: expected.sequences("encoder"),
      decoderIDs: hasDecoder ? expected.integers("decoder.ids") : [],
      decoder: hasDecoder ? expected.sequences("decoder") : nil)
  }

  typealias Tensor = (name: String, shape: [Int], values: [Float])

  private static func byFormula(_ fixture: GoldenFixture) throws -> [Tensor] {
    try FormulaTensor.list(of: fixture).map { ($0.name, $0.shape, $0.values()) }
  }

  private static func stored(_ fixture: GoldenFixture) throws -> [Tensor] {
    let weights = ExpectedOutputs(file: try fixture.weights())
    return weights.file.tensors.filter { $0.element == .float32 }.map {
      ($0.name, $0.shape, weights.floats($0.name))
    }
  }

  private static func bytes(_ tensors: [Tensor]) -> [UInt8] {
    let total = tensors.reduce(0) { $0 + $1.values.count }
    let memory = UnsafeMutableBufferPointer<Float>.allocate(capacity: total)
    defer { memory.deallocate() }
    var named: [NamedTensor] = []
    var next = 0
    for tensor in tensors {
      let part = UnsafeMutableBufferPointer(rebasing: memory[next..<next + tensor.values.count])
      _ = part.initialize(from: tensor.values)
      named.append(
        NamedTensor(name: tensor.name, shape: tensor.shape, values: UnsafeBufferPointer(part)))
      next += tensor.values.count
    }
    return safetensorsBytes(named)
  }

  /// All taps of one forward, in a workspace whose memory was `poison` before.
  func run(poison: Float = 0, extraFloats: Int = 0) -> BackboneRun {
    let floats = backbone.workspaceFloats(capacity: BackboneCapacity(of: batch))
    let workspace = Arena(floatCount: floats + extraFloats)
    workspace.base.update(repeating: poison, count: floats + extraFloats)
    var taps: [BackboneRun.Tap] = []
    backbone.forward(batch, workspace: workspace) { stack, index, rows in
      taps.append(BackboneRun.Tap(stack: stack, index: index, rows: rows.rows, values: copy(rows)))
    }
    let beyond = (0..<extraFloats).map { workspace.base[floats + $0] }
    return BackboneRun(taps: taps, beyond: beyond)
  }
}

/// What one forward handed out.
struct BackboneRun: Equatable {
  struct Tap: Equatable {
    var stack: Int
    var index: Int
    var rows: Int
    var values: [Float]
  }
  var taps: [Tap]
  /// What stands behind the planned workspace afterwards.
  var beyond: [Float]
}

/// The values of a matrix, row by row.
func copy(_ matrix: Matrix) -> [Float] {
  (0..<matrix.rows).flatMap { row in
    UnsafeBufferPointer(start: matrix.base + row * matrix.stride, count: matrix.columns)
  }
}

/// Calls `body` with a matrix over a copy of `values`, and returns the values afterwards.
func withMatrix(_ values: [Float], columns: Int, _ body: (Matrix) -> Void) -> [Float] {
  var values = values
  values.withUnsafeMutableBufferPointer { buffer in
    guard let base = buffer.baseAddress else { return }
    body(Matrix(base, rows: buffer.count / columns, columns: columns))
  }
  return values
}
