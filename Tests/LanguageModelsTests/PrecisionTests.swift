import CryptoPrimitives
import LanguageModels
import NeuralNetworks
import TensorKernels
import Testing

@Suite("A frozen backbone in another precision")
struct PrecisionTests {
  static let directories = ["tiny-bert", "tiny-t5", "tiny-t5-gated", "tiny-bart"]
  static let converted: [WeightPrecision] = [.float16, .bfloat16, .int8]

  /// Half an ulp of a weight is 2^−12, 2^−9 and 1/254 of the largest; a few layers add up.
  private static func tolerance(_ precision: WeightPrecision) -> Double {
    switch precision {
    case .float32: 0
    case .float16: 1e-3
    case .bfloat16: 1e-2
    case .int8: 6e-2
    }
  }

  @Test("has taps near those of float32", arguments: directories, converted)
  func isNearFloat32(directory: String, precision: WeightPrecision) throws {
    let fixture = try BackboneFixture.named(directory)
    let converted = conversion(fixture.backbone).deciding(precision, calibration: [fixture.batch])
    #expect(converted.decision.precision == precision)
    let expected = taps(fixture.backbone, fixture.batch)
    let found = taps(converted.backbone, fixture.batch)
    #expect(found.count == expected.count)
    for index in expected.indices {
      let error = relativeError(found[index], expected[index])
      #expect(error < Self.tolerance(precision), "tap \(index) of \(directory) in \(precision): \(error)")
    }
    let last = expected.count - 1
    #expect(relativeError(found[last], expected[last]) > 1e-7, "\(precision) changed nothing")
  }

  @Test("never reads a converted matrix in float32", arguments: directories, converted)
  func readsNoFloat32(directory: String, precision: WeightPrecision) throws {
    let fixture = try BackboneFixture(directory)
    let converted = conversion(fixture.backbone).deciding(precision, calibration: [fixture.batch])
    let before = taps(converted.backbone, fixture.batch)
    let kept = Set(converted.decision.float32Matrices)
    let names = Set(converted.matrices.map(\.name)).subtracting(kept)
    #expect(!names.isEmpty)
    for leaf in fixture.backbone.parameters where names.contains(leaf.name) {
      leaf.values.update(repeating: .nan, count: leaf.count)
    }
    let isEqual = taps(converted.backbone, fixture.batch) == before
    #expect(isEqual)
  }

  @Test("takes a quarter of the memory for a matrix in int8, half of it in 16 bits")
  func takesLessMemory() throws {
    let fixture = try BackboneFixture.named("t5-base-shape")
    let all = fixture.backbone.parameters.reduce(0) { $0 + $1.count } * 4
    for (precision, most) in [(WeightPrecision.float16, 0.51), (.bfloat16, 0.51), (.int8, 0.27)] {
      let converted = conversion(fixture.backbone).deciding(precision, calibration: [fixture.batch])
      let weights = converted.matrices.filter { !$0.isKept }.reduce(0) { $0 + $1.count } * 4
      #expect(weights > 0)
      #expect(Double(converted.convertedBytes) <= most * Double(weights), "\(precision)")
      #expect(converted.otherBytes == all - weights)
    }
  }

  @Test("is the same to the bit when a recorded decision is followed", arguments: directories, converted)
  func followsADecision(directory: String, precision: WeightPrecision) throws {
    let fixture = try BackboneFixture.named(directory)
    let decided = conversion(fixture.backbone).deciding(precision, calibration: [fixture.batch])
    let followed = try conversion(fixture.backbone).following(decided.decision)
    #expect(followed.decision == decided.decision)
    let isEqual = taps(followed.backbone, fixture.batch) == taps(decided.backbone, fixture.batch)
    #expect(isEqual)
  }

  @Test("keeps an outlier column of a product's input in float32, and the rest of the matrix not")
  func keepsOutlierColumns() throws {
    let fixture = try BackboneFixture("tiny-t5")
    let plain = conversion(fixture.backbone).deciding(.int8, calibration: [fixture.batch])
    #expect(plain.decision.float32Matrices.isEmpty && plain.decision.float32Columns.isEmpty)
    let up = try spoil(fixture) { $0 == 5 ? 2_000 : 1 }
    let converted = conversion(fixture.backbone).deciding(.int8, calibration: [fixture.batch])
    #expect(converted.decision.float32Matrices.isEmpty)
    #expect(converted.decision.float32Columns == [WeightColumns(matrix: up.name, columns: [5])])
    let found = taps(converted.backbone, fixture.batch)
    let expected = taps(fixture.backbone, fixture.batch)
    #expect(relativeError(found[found.count - 1], expected[found.count - 1]) < Self.tolerance(.int8))
    // Followed, the same bits.
    let followed = try conversion(fixture.backbone).following(converted.decision)
    let isEqual = taps(followed.backbone, fixture.batch) == found
    #expect(isEqual)
    var wrong = converted.decision
    wrong.float32Columns[0].columns = [up.columns]
    #expect(throws: PrecisionFailure.unknownColumns(wrong.float32Columns[0], inputs: up.columns)) {
      try conversion(fixture.backbone).following(wrong)
    }
  }

  @Test("keeps a product in float32 whose input is too uneven for one scale a row, and that product alone")
  func keepsUnevenProducts() throws {
    let fixture = try BackboneFixture("tiny-t5")
    let up = try spoil(fixture) { [1, 4, 16, 64, 256, 1_024][$0 % 6] }
    let converted = conversion(fixture.backbone).deciding(.int8, calibration: [fixture.batch])
    #expect(converted.decision.float32Matrices == [up.name])
    let matrix = try #require(converted.matrices.first { $0.name == up.name })
    #expect(matrix.isKept && (matrix.relativeError ?? 0) > PrecisionConversion.largestInt8Error)
  }

  /// Makes columns of a feed-forward's input large, T5 normalising before the product, and what reads them small.
  private func spoil(_ fixture: BackboneFixture, _ factor: (Int) -> Float) throws -> Parameter {
    let feedForward = fixture.backbone.block(stack: 0, layer: 1).feedForward
    let up = feedForward.up.weight
    for column in 0..<up.columns {
      feedForward.norm.weight.values[column] *= factor(column)
      for row in 0..<up.rows { up.values[row * up.columns + column] /= factor(column) }
    }
    return up
  }

  @Test("keeps a matrix in float32 that float16 cannot hold, and refuses a record that does not")
  func keepsMisfits() throws {
    let fixture = try BackboneFixture("tiny-bert")
    let down = fixture.backbone.block(stack: 0, layer: 0).feedForward.down.weight
    down.values[7] = 70_000
    let converted = conversion(fixture.backbone).deciding(.float16, calibration: [])
    #expect(converted.decision.float32Matrices == [down.name])
    #expect(throws: PrecisionFailure.misfit(matrix: down.name, precision: .float16, values: 1)) {
      try conversion(fixture.backbone).following(WeightDecision(precision: .float16, float32Matrices: []))
    }
    #expect(
      conversion(fixture.backbone).deciding(.bfloat16, calibration: []).decision.float32Matrices.isEmpty)
  }

  @Test("refuses a record of a matrix that the model does not have")
  func refusesUnknownMatrices() throws {
    let fixture = try BackboneFixture.named("tiny-bert")
    #expect(throws: PrecisionFailure.unknownMatrix("elsewhere")) {
      try conversion(fixture.backbone).following(
        WeightDecision(precision: .int8, float32Matrices: ["elsewhere"]))
    }
  }

  @Test(
    "has an identity of its own: precision, exceptions and weights decide it, float32 is the checkpoint's")
  func hasAnIdentity() {
    var hasher = ContentHasher()
    let one = hasher.finalize()
    hasher = ContentHasher()
    hasher.update("another checkpoint")
    let other = hasher.finalize()
    #expect(WeightDecision.float32.identity(of: one) == one)
    var identities = [one, other]
    for precision in Self.converted {
      for kept in [[], ["a"], ["a", "b"], ["ab"]] {
        let decision = WeightDecision(precision: precision, float32Matrices: kept)
        identities += [decision.identity(of: one), decision.identity(of: other)]
        #expect(decision.identity(of: one) == decision.identity(of: one))
      }
    }
    #expect(Set(identities.map(\.description)).count == identities.count)
  }

  @Test(
    "reads 16-bit matrices of a checkpoint where they are, in a product of their own format",
    arguments: [WeightPrecision.float16, .bfloat16, .int8])
  func readsStoredHalves(precision: WeightPrecision) throws {
    for element in [TensorElement.float16, .bfloat16] {
      let plain = try BackboneFixture("tiny-bert")
      let checkpoint = try halved(plain.region, element)
      guard
        case .bert(let configuration) = try ModelConfiguration(
          region: GoldenFixture("tiny-bert").region("config.json"))
      else { return }
      let reference = try BERTBackbone(checkpoint, configuration)
      let expected = taps(reference, plain.batch)
      let stored = try halved(plain.region, element).deferringDecoding
      let before = stored.ownedByteCount
      let converted = conversion(try BERTBackbone(stored, configuration)).deciding(
        precision, calibration: [plain.batch])
      let found = taps(converted.backbone, plain.batch)
      let error = relativeError(found[found.count - 1], expected[found.count - 1])
      let isExact = precision.rawValue == "\(element)"
      #expect(error < (isExact ? 1e-5 : Self.tolerance(precision)), "\(element) as \(precision): \(error)")
      // Vectors (norms, biases) and the tables of positions and segments are decoded, other matrices never.
      let decoded = plain.backbone.parameters.filter {
        $0.rows == 1 || $0.name.contains("position") || $0.name.contains("token_type")
      }
      let most = decoded.reduce(0) { $0 + $1.count } * MemoryLayout<Float>.stride
      #expect(stored.ownedByteCount <= most && before == 0, "\(stored.ownedByteCount) bytes decoded")
    }
  }

  /// A file with the same tensors in 16 bits.
  private func halved(_ region: MemoryRegion, _ element: TensorElement) throws -> Checkpoint {
    let file = try SafetensorsFile(region: region)
    var fields: [String] = []
    var data: [UInt8] = []
    for tensor in file.tensors {
      let bytes = file.bytes(of: tensor)
      let first = data.count
      for index in 0..<tensor.elementCount {
        let value = bytes.loadUnaligned(fromByteOffset: 4 * index, as: Float.self)
        let bits = element == .float16 ? Float16(value).bitPattern : UInt16(value.bitPattern >> 16)
        data += [UInt8(bits & 0xFF), UInt8(bits >> 8)]
      }
      fields.append(
        "\"\(tensor.name)\":{\"dtype\":\"\(element.rawValue)\",\"shape\":\(tensor.shape),"
          + "\"data_offsets\":[\(first),\(data.count)]}")
    }
    var header = "{\(fields.joined(separator: ","))}"
    while header.utf8.count % 8 != 0 { header += " " }
    return try Checkpoint(region: safetensors(header: header, data: data))
  }

  private func conversion(_ backbone: any Backbone) -> PrecisionConversion {
    PrecisionConversion(backbone, loop: SequentialLoop(), layerDone: {})
  }

  private func taps(_ backbone: any Backbone, _ batch: BackboneBatch) -> [[Float]] {
    let workspace = Arena(floatCount: backbone.workspaceFloats(capacity: BackboneCapacity(of: batch)))
    var taps: [[Float]] = []
    backbone.forward(batch, workspace: workspace) { _, _, rows in taps.append(copy(rows)) }
    withExtendedLifetime(workspace) {}
    return taps
  }

  private func relativeError(_ found: [Float], _ expected: [Float]) -> Double {
    var (error, norm) = (0.0, 0.0)
    for (x, y) in zip(found, expected) {
      error += Double(x - y) * Double(x - y)
      norm += Double(y) * Double(y)
    }
    return (error / max(norm, 1e-30)).squareRoot()
  }
}
