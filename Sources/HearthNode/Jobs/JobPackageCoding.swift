import CryptoPrimitives
import FineTuning
import FoundationEssentials
import HearthStorage
import WireCoding

/// What a package's header says, as JSON: everything that is neither a sample nor a parameter.
private struct JobPackageHeader: Codable, Equatable {
  var name: String
  var backboneName: String
  var backboneDigest: ContentDigest
  var tokenizerDigest: ContentDigest
  var settings: JobSettings
  var task: AdapterTask
  var technique: TechniqueConfiguration
  var maximumLength: Int

  /// Sorted keys, so that one header has one text.
  func encoded() throws -> [UInt8] {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    return Array(try encoder.encode(self))
  }
}

/// The kinds of a sample's target, as a package numbers them.
private enum TargetKind: UInt8 {
  case none = 0
  case label = 1
  case value = 2
  case tokens = 3
}

extension JobPackage {
  /// The version of the format that this code reads and writes.
  package static let version: UInt32 = 9
  private static let magic = Array("HEARTHJP".utf8)
  /// Bytes of the smallest sample: its flags, two counts and one token.
  private static let smallestSample = 1 + 2 + 4 + 2

  /// The file: mark, version, header, samples, parameters, and a digest of all before it (docs/FILE-FORMATS.md).
  ///
  /// One package has one sequence of bytes.
  package func encoded() throws -> [UInt8] {
    let samples = training.count + heldOut.count
    let tokens =
      training.reduce(0) { $0 + $1.encoderIDs.count } + heldOut.reduce(0) { $0 + $1.encoderIDs.count }
    var writer = ByteWriter(
      reserving: 8 * tokens + 64 * samples + 4 * (parameters?.count ?? 0) + planning.count + 4096)
    writer.raw(JobPackage.magic)
    writer.integer(JobPackage.version)
    let header = try JobPackageHeader(
      name: name, backboneName: backboneName, backboneDigest: backboneDigest,
      tokenizerDigest: tokenizerDigest,
      settings: settings, task: task, technique: technique, maximumLength: maximumLength
    ).encoded()
    writer.integer(UInt32(header.count))
    writer.raw(header)
    writer.integer(UInt32(planning.count))
    writer.raw(planning)
    writer.integer(UInt64(training.count))
    writer.integer(UInt64(heldOut.count))
    for sample in training { JobPackage.write(sample, to: &writer) }
    for sample in heldOut { JobPackage.write(sample, to: &writer) }
    writer.flag(parameters != nil)
    if let parameters {
      writer.integer(UInt64(parameters.count))
      JobPackage.write(parameters.map(\.bitPattern), to: &writer)
    }
    var bytes = writer.bytes
    bytes += ContentDigest(of: bytes).bytes
    guard bytes.count <= JobPackageLimits.bytes else { throw JobPackageFailure.tooLarge(bytes: bytes.count) }
    return bytes
  }

  /// Reads what `encoded` writes; every count is checked before anything is made of it.
  package init(decoding bytes: [UInt8]) throws(JobPackageFailure) {
    guard bytes.count <= JobPackageLimits.bytes else { throw .tooLarge(bytes: bytes.count) }
    do {
      try self.init(checked: bytes)
    } catch let failure as JobPackageFailure {
      throw failure
    } catch {
      throw .damaged(detail: "\(error)")
    }
  }

  private init(checked bytes: [UInt8]) throws {
    var reader = ByteReader(bytes)
    guard try reader.bytes("mark", count: JobPackage.magic.count).elementsEqual(JobPackage.magic) else {
      throw JobPackageFailure.damaged(detail: "it does not begin as a job package does")
    }
    let version = try reader.integer("version", as: UInt32.self)
    guard version == JobPackage.version else { throw JobPackageFailure.version(found: version) }
    guard bytes.count > ContentDigest.byteCount,
      ContentDigest(of: bytes.dropLast(ContentDigest.byteCount)).bytes
        .elementsEqual(bytes.suffix(ContentDigest.byteCount))
    else { throw JobPackageFailure.damaged(detail: "its digest is not that of its content") }
    let header = try JobPackage.header(&reader)
    (name, backboneName) = (header.name, header.backboneName)
    (backboneDigest, tokenizerDigest) = (header.backboneDigest, header.tokenizerDigest)
    (settings, task, technique) = (header.settings, header.task, header.technique)
    maximumLength = header.maximumLength
    planning = Array(try JobPackage.part("planning", limit: JobPackageLimits.planningBytes, &reader))
    let counts = (
      try JobPackage.count("training samples", of: JobPackage.smallestSample, &reader),
      try JobPackage.count("held-out samples", of: JobPackage.smallestSample, &reader)
    )
    training = try JobPackage.samples(counts.0, &reader)
    heldOut = try JobPackage.samples(counts.1, &reader)
    if try reader.flag("parameters") {
      let count = try JobPackage.count("parameters", of: MemoryLayout<Float>.size, &reader)
      parameters = try JobPackage.words("parameters", count, &reader).map { Float(bitPattern: $0) }
    } else {
      parameters = nil
    }
    _ = try reader.bytes("digest", count: ContentDigest.byteCount)
    try reader.finish()
    if let fault { throw JobPackageFailure.inconsistent(detail: fault) }
  }

  /// Writes the package to a file and reads it back: what arrives elsewhere is what was meant.
  ///
  /// The file is the owner's alone: it holds the rows' token ids.
  package func write(to path: String) throws {
    let bytes = try encoded()
    try AtomicFile.write(bytes, to: path, permissions: 0o600)
    guard try JobPackage(contentsOf: path) == self else {
      throw JobPackageFailure.damaged(detail: "'\(path)' was not read back as it was written")
    }
  }

  /// Reads the package in a file.
  package init(contentsOf path: String) throws {
    try self.init(decoding: readWholeFile(path, limit: JobPackageLimits.bytes))
  }

  // MARK: - Parts

  private static func header(_ reader: inout ByteReader) throws -> JobPackageHeader {
    let text = Array(try part("header", limit: JobPackageLimits.headerBytes, &reader))
    let header = try JSONDecoder().decode(JobPackageHeader.self, from: Data(text))
    guard try header.encoded() == text else {
      throw JobPackageFailure.damaged(detail: "its header is not written as it should be")
    }
    return header
  }

  /// A 32-bit length of at most `limit`, then that many bytes.
  private static func part(
    _ field: StaticString, limit: Int, _ reader: inout ByteReader
  ) throws -> ArraySlice<UInt8> {
    let count = Int(try reader.integer(field, as: UInt32.self))
    guard count <= limit else {
      throw DecodingFailure.overLimit(field: "\(field)", value: UInt64(count), limit: limit)
    }
    return try reader.bytes(field, count: count)
  }

  /// A 64-bit count of things of `size` bytes at least, which must be there.
  private static func count(_ field: StaticString, of size: Int, _ reader: inout ByteReader) throws -> Int {
    let count = try reader.integer(field, as: UInt64.self)
    guard count <= UInt64(reader.remaining / size) else {
      throw DecodingFailure.overLimit(field: "\(field)", value: count, limit: reader.remaining / size)
    }
    return Int(count)
  }

  private static func write(_ sample: TrainingSample, to writer: inout ByteWriter) {
    let hasTypes = sample.encoderTypes.contains { $0 != 0 }
    let kind: TargetKind =
      switch sample.target {
      case .none: .none
      case .label: .label
      case .value: .value
      case .tokens: .tokens
      }
    writer.integer(kind.rawValue << 1 | (hasTypes ? 1 : 0))
    write(sample.encoderIDs, counted: true, to: &writer)
    if hasTypes { writer.raw(sample.encoderTypes.map { UInt8(truncatingIfNeeded: $0) }) }
    write(sample.decoderIDs, counted: true, to: &writer)
    switch sample.target {
    case .none: break
    case .label(let label): writer.integer(label)
    case .value(let value): writer.integer(value.bitPattern)
    case .tokens(let tokens): write(tokens, counted: true, to: &writer)
    }
  }

  private static func write(_ ids: [Int32], counted: Bool, to writer: inout ByteWriter) {
    if counted { writer.count(ids.count) }
    write(ids.map { UInt32(bitPattern: $0) }, to: &writer)
  }

  /// Words as little-endian bytes.
  private static func write(_ words: [UInt32], to writer: inout ByteWriter) {
    words.map(\.littleEndian).withUnsafeBytes { writer.raw($0) }
  }

  private static func samples(_ count: Int, _ reader: inout ByteReader) throws -> [TrainingSample] {
    var samples: [TrainingSample] = []
    samples.reserveCapacity(count)
    for _ in 0..<count { samples.append(try sample(&reader)) }
    return samples
  }

  private static func sample(_ reader: inout ByteReader) throws -> TrainingSample {
    let flags = try reader.integer("flags", as: UInt8.self)
    guard let kind = TargetKind(rawValue: flags >> 1) else {
      throw DecodingFailure.invalid(field: "flags", value: UInt64(flags))
    }
    let ids = try ids("encoder tokens", &reader)
    guard !ids.isEmpty else { throw DecodingFailure.invalid(field: "encoder tokens", value: 0) }
    var types = [Int32](repeating: 0, count: ids.count)
    if flags & 1 == 1 {
      types = try reader.bytes("segments", count: ids.count).map { Int32($0) }
      guard types.contains(where: { $0 != 0 }), types.allSatisfy({ $0 <= 1 }) else {
        throw DecodingFailure.invalid(field: "segments", value: 0)
      }
    }
    let decoder = try self.ids("decoder tokens", &reader)
    let target: TrainingTarget =
      switch kind {
      case .none: .none
      case .label: .label(try reader.integer("label"))
      case .value: .value(Float(bitPattern: try reader.integer("value")))
      case .tokens: .tokens(try self.ids("target tokens", &reader))
      }
    return TrainingSample(encoderIDs: ids, encoderTypes: types, decoderIDs: decoder, target: target)
  }

  private static func ids(_ field: StaticString, _ reader: inout ByteReader) throws -> [Int32] {
    let count = try reader.count(field, limit: JobPackageLimits.textTokens)
    return try words(field, count, &reader).map { Int32(bitPattern: $0) }
  }

  private static func words(
    _ field: StaticString, _ count: Int, _ reader: inout ByteReader
  ) throws -> [UInt32] {
    let bytes = try reader.bytes(field, count: 4 * count)
    return [UInt32](unsafeUninitializedCapacity: count) { words, initialized in
      bytes.withUnsafeBytes { UnsafeMutableRawBufferPointer(words).copyMemory(from: $0) }
      for index in 0..<count { words[index] = UInt32(littleEndian: words[index]) }
      initialized = count
    }
  }
}
