import CryptoPrimitives
import FineTuning
import Foundation
import HearthNode
import LanguageModels
import NeuralNetworks
import Testing

private let fixtures = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
  .deletingLastPathComponent().deletingLastPathComponent().appendingPathComponent("Fixtures").path

/// A run on a tiny model, and the package that its owner makes of it.
private struct Packed {
  var model: OpenedModel
  var run: PreparedRun
  var package: JobPackage

  init(
    _ name: String, _ task: RunTask, _ technique: RunTechnique,
    _ change: (inout TrainRequest) -> Void = { _ in }
  ) throws {
    let directory = NSTemporaryDirectory() + "hearth-package-\(UUID().uuidString)"
    try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: directory) }
    let rows = (0..<30).map { index -> String in
      let text = "the film number \(index) was \(index % 3 == 0 ? "great" : "poor")"
      switch task {
      case .classify: return "\(text)\t\(index % 3 == 0 ? "yes" : "no")"
      case .regress: return "\(text)\t\(Double(index) / 7)"
      case .seq2seq: return "\(text)\ta \(index % 3 == 0 ? "good" : "bad") one"
      }
    }
    let file = directory + "/rows.tsv"
    try rows.joined(separator: "\n").write(toFile: file, atomically: true, encoding: .utf8)
    model = try OpenedModel(directory: fixtures + "/" + name)
    var request = TrainRequest(
      modelDirectory: model.directory, dataFile: file, task: task, output: directory + "/out")
    request.technique = technique
    request.reduction = technique == .houlsby ? 4 : 2
    request.rank = technique == .lora ? 4 : nil
    request.batch = 8
    request.maxLength = 24
    request.validationFraction = 0.3
    request.learningRate = 0.0123
    change(&request)
    let content = try RunContent(request, model: model)
    run = try PreparedRun(request, content: content, backbone: try #require(model.backbone))
    package = JobPackage(run, content: content, model: model, name: "sentiment", planning: [1, 2, 3])
  }
}

private func unpacked(_ package: JobPackage) throws -> JobPackage {
  try JobPackage(decoding: package.encoded())
}

/// The package's file with its digest made right again after a change.
private func forged(_ package: JobPackage, _ change: (inout [UInt8]) -> Void) throws -> [UInt8] {
  var bytes = Array(try package.encoded().dropLast(ContentDigest.byteCount))
  change(&bytes)
  return bytes + ContentDigest(of: bytes).bytes
}

@Suite struct JobPackageTests {
  @Test(
    "a device lays out from the package what the owner laid out from the rows",
    arguments: [
      ("tiny-bert", RunTask.classify, RunTechnique.parallel), ("tiny-bert", .regress, .lora),
      ("tiny-t5", .seq2seq, .parallel), ("tiny-bart", .seq2seq, .houlsby), ("tiny-t5", .classify, .full),
    ])
  func sameRun(name: String, task: RunTask, technique: RunTechnique) throws {
    let packed = try Packed(name, task, technique)
    let package = try unpacked(packed.package)
    #expect(package == packed.package)
    let backbone = try #require(packed.model.backbone)
    let there = try PackagedRun(package, backbone: backbone)
    let (run, other) = (packed.run, there.prepared)
    #expect(other.lanePlan == run.lanePlan)
    #expect(other.rowsDigest == run.rowsDigest)
    #expect(other.capacity == run.capacity)
    #expect(other.task == run.task && other.technique.configuration == run.technique.configuration)
    #expect(other.totalSteps == run.totalSteps && other.parameterCount == run.parameterCount)
    for (left, right) in zip(other.batches.joined(), run.batches.joined()) {
      #expect(left.ordinal == right.ordinal && left.samples == right.samples && left.keys == right.keys)
      #expect(left.labels == right.labels && left.values == right.values && left.units == right.units)
      #expect(left.encoderIDs == right.encoderIDs && left.decoderIDs == right.decoderIDs)
    }
    #expect(other.validation.map(\.keys) == run.validation.map(\.keys))
    #expect(other.request.learningRate == 0.0123 && other.request.epochs == run.request.epochs)
    if technique == .parallel { #expect(there.cacheIdentity == run.cacheIdentity(packed.model)) }
  }

  @Test(
    "the precision of gradients travels, and full fine-tuning has but one",
    arguments: GradientPrecision.allCases)
  func gradientPrecision(precision: GradientPrecision) throws {
    let packed = try Packed("tiny-t5", .classify, .lora) { $0.gradientPrecision = precision }
    let backbone = try #require(packed.model.backbone)
    let there = try PackagedRun(unpacked(packed.package), backbone: backbone).prepared
    #expect(there.technique.gradientPrecision == precision)
    #expect(packed.run.technique.gradientPrecision == precision)
    var full = try Packed("tiny-bert", .classify, .full).package
    full.settings.gradientPrecision = precision
    let bert = try #require(try OpenedModel(directory: fixtures + "/tiny-bert").backbone)
    if precision == .full {
      _ = try PackagedRun(full, backbone: bert)
    } else {
      #expect(throws: JobPackageFailure.self) { try PackagedRun(full, backbone: bert) }
    }
  }

  @Test("training starts from the owner's values, also where they were made from weights that are not there")
  func startingValues() throws {
    let packed = try Packed("tiny-t5", .seq2seq, .parallel)
    let backbone = try #require(packed.model.backbone)
    let owners = packed.run.technique.initialParameters(backbone, seed: packed.run.request.seed)
    let there = try PackagedRun(unpacked(packed.package), backbone: backbone).initialParameters(backbone)
    #expect(there.vectorCount == owners.vectorCount && there.vectorCount > 0)
    #expect((0..<owners.vectorCount).allSatisfy { there.vector[$0] == owners.vector[$0] })
  }

  @Test("a full fine-tuning carries no values: it starts from the weights")
  func fullStartsFromWeights() throws {
    let packed = try Packed("tiny-bert", .classify, .full)
    #expect(packed.package.parameters == nil)
    let backbone = try #require(packed.model.backbone)
    let there = try PackagedRun(packed.package, backbone: backbone).initialParameters(backbone)
    let owners = packed.run.technique.initialParameters(backbone, seed: packed.run.request.seed)
    #expect((0..<owners.vectorCount).allSatisfy { there.vector[$0] == owners.vector[$0] })
  }

  @Test("neither paths nor texts of the rows leave the owner's device")
  func privacy() throws {
    let packed = try Packed("tiny-t5", .seq2seq, .parallel)
    #expect(!packed.run.validationTexts.isEmpty)
    let bytes = try packed.package.encoded()
    for secret in ["rows.tsv", "hearth-package", "a good one", "film number"] {
      #expect(bytes.firstRange(of: Array(secret.utf8)) == nil, "\(secret)")
    }
  }

  @Test("a file is read back as it was written, and is the owner's alone")
  func file() throws {
    let package = try Packed("tiny-bert", .classify, .parallel).package
    let path = NSTemporaryDirectory() + "hearth-package-\(UUID().uuidString)"
    defer { try? FileManager.default.removeItem(atPath: path) }
    try package.write(to: path)
    #expect(try JobPackage(contentsOf: path) == package)
    let mode = try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int
    #expect(mode == 0o600)
  }

  @Test("every cut and every flipped bit is refused")
  func damage() throws {
    let bytes = try Packed("tiny-bert", .classify, .parallel).package.encoded()
    for count in stride(from: 0, to: bytes.count, by: max(1, bytes.count / 200)) {
      #expect(throws: JobPackageFailure.self) { try JobPackage(decoding: Array(bytes.prefix(count))) }
    }
    for place in stride(from: 0, to: bytes.count, by: max(1, bytes.count / 200)) {
      var damaged = bytes
      damaged[place] ^= 1 << UInt8(place % 8)
      #expect(throws: JobPackageFailure.self, "byte \(place)") { try JobPackage(decoding: damaged) }
    }
    #expect(throws: JobPackageFailure.self) { try JobPackage(decoding: bytes + [0]) }
  }

  @Test("another version, another mark and counts beyond the file are refused although the digest is right")
  func forgery() throws {
    let package = try Packed("tiny-bert", .classify, .parallel).package
    let next = UInt8(JobPackage.version + 1)
    #expect(throws: JobPackageFailure.version(found: UInt32(next))) {
      try JobPackage(decoding: forged(package) { $0[8] = next })
    }
    #expect(throws: JobPackageFailure.self) { try JobPackage(decoding: forged(package) { $0[0] = 0 }) }
    // The count of training samples stands behind mark, version, header and planning settings.
    let encoded = try package.encoded()
    let header = (0..<4).reduce(0) { $0 | Int(encoded[12 + $1]) << (8 * $1) }
    let count = 16 + header + 4 + package.planning.count
    #expect(Int(encoded[count]) == package.training.count)
    for byte in [count + 7, count + 2, count + 15] {
      #expect(throws: JobPackageFailure.self) {
        try JobPackage(decoding: forged(package) { $0[byte] = 0x7F })
      }
    }
    let longHeader = try forged(package) { $0[15] = 0x7F }
    #expect(throws: JobPackageFailure.self) { try JobPackage(decoding: longHeader) }
    let spaced = try forged(package) { bytes in
      bytes[12] &+= 1
      bytes.insert(UInt8(ascii: " "), at: 16)
    }
    #expect(throws: JobPackageFailure.self) { try JobPackage(decoding: spaced) }
  }

  @Test(
    "what the backbone cannot compute is refused before any of it is",
    arguments: [
      { $0.training[3].encoderIDs[0] = 1 << 20 }, { $0.training[0].encoderIDs[1] = -1 },
      { $0.heldOut[0].target = .label(2) }, { $0.heldOut[0].target = .value(1) },
      { $0.training[0].decoderIDs = [0] }, { $0.maximumLength = 4 }, { $0.maximumLength = 5000 },
      { $0.training = [] }, { $0.settings.microBatch = 3 }, { $0.settings.epochs = 0 },
      { $0.settings.learningRate = .nan }, { $0.parameters?.removeLast() }, { $0.parameters?[0] = .infinity },
      { $0.parameters = nil }, { $0.task = .classify(labels: ["one"]) },
      { $0.task = .regress(mean: 0, deviation: 0) },
      {
        $0.technique = .parallel(
          ParallelAdapterConfiguration(preset: .default, reduction: 0, layersPerStack: 2))
      },
    ] as [@Sendable (inout JobPackage) -> Void])
  func hostile(change: @Sendable (inout JobPackage) -> Void) throws {
    let packed = try Packed("tiny-bert", .classify, .parallel)
    var package = packed.package
    change(&package)
    let backbone = try #require(packed.model.backbone)
    #expect(throws: JobPackageFailure.self) { try PackagedRun(package, backbone: backbone) }
  }

  @Test("a name is cut to what messages carry")
  func longName() throws {
    let packed = try Packed("tiny-bert", .classify, .parallel)
    let content = packed.package.content
    let package = JobPackage(
      packed.run, content: content, model: packed.model, name: String(repeating: "é", count: 60), planning: []
    )
    #expect(package.name.utf8.count == 80)
  }
}
