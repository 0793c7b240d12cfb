package import Collectives
import CryptoPrimitives

/// The state of training after an optimizer step, as far as a device has it: all that any device needs to go on.
package struct TrainingState: Sendable, Equatable {
  /// Optimizer steps that are in it.
  package var step: Int
  /// Exponents of the gradient sums of the next step.
  package var exponents: [Int32]
  /// Where the values are in the flat vector: ascending, none empty, none touching the next.
  package var ranges: [Range<Int>]
  /// Values of the trained parameters, range after range.
  package var values: [Float]
  /// Running means of the gradients, range after range.
  package var firstMoments: [Float]
  /// Running means of the squared gradients, range after range.
  package var secondMoments: [Float]
  /// Sum of the losses of the epoch's steps so far; 0 at the end of an epoch.
  package var lossSum: Double
  /// Number of those losses.
  package var lossUnits: Int

  /// A state.
  package init(
    step: Int, exponents: [Int32], ranges: [Range<Int>], values: [Float], firstMoments: [Float],
    secondMoments: [Float], lossSum: Double, lossUnits: Int
  ) {
    self.step = step
    self.exponents = exponents
    self.ranges = ranges
    self.values = values
    self.firstMoments = firstMoments
    self.secondMoments = secondMoments
    self.lossSum = lossSum
    self.lossUnits = lossUnits
  }

  /// The most leaves, and ranges.
  package static let leafLimit = 1 << 20
  /// The most optimizer steps of a job.
  package static let stepLimit = 1 << 48
  /// The most values.
  package static let valueLimit = 1 << 34

  // MARK: Coding

  private static let magic: UInt32 = 0x3153_5448
  private static let headBytes = 4 + 8 + 8 + 8 + 4 + 4

  /// The bytes of the state, ended by their BLAKE2b-256 digest: little-endian `HTS1`, step u64, loss sum f64, losses u64,
  /// exponents u32, ranges u32, then exponents i32, bounds u64, and the three vectors as f32.
  package var encoded: [UInt8] {
    var writer = MessageWriter()
    writer.word(Self.magic)
    writer.long(UInt64(step))
    writer.double(lossSum)
    writer.long(UInt64(lossUnits))
    writer.word(UInt32(exponents.count))
    writer.word(UInt32(ranges.count))
    for exponent in exponents { writer.word(UInt32(bitPattern: exponent)) }
    for range in ranges {
      writer.long(UInt64(range.lowerBound))
      writer.long(UInt64(range.upperBound))
    }
    for vector in [values, firstMoments, secondMoments] { vector.withUnsafeBytes { writer.raw($0) } }
    var hasher = ContentHasher()
    hasher.update(bytes: writer.bytes)
    let digest = hasher.finalizeBytes()
    digest.withUnsafeBytes { writer.raw($0) }
    return writer.bytes
  }

  /// Reads what `encoded` has made; anything else is refused.
  package init(decoding bytes: [UInt8]) throws(TrainingStateFailure) {
    let end = bytes.count - ContentDigest.byteCount
    guard end >= Self.headBytes else { throw .truncated(bytes: bytes.count) }
    var hasher = ContentHasher()
    bytes.withUnsafeBytes { hasher.update(UnsafeRawBufferPointer(rebasing: $0[..<end])) }
    guard hasher.finalizeBytes() == Array(bytes[end...]) else { throw .digest }
    var reader = StateReader(bytes, end: end)
    guard try reader.integer(UInt32.self) == Self.magic else { throw .foreign }
    step = try reader.count(UInt64.self, "steps", atMost: Self.stepLimit)
    lossSum = Double(bitPattern: try reader.integer(UInt64.self))
    lossUnits = try reader.count(UInt64.self, "losses", atMost: Self.stepLimit)
    let exponentCount = try reader.count(UInt32.self, "exponents", atMost: Self.leafLimit)
    let rangeCount = try reader.count(UInt32.self, "ranges", atMost: Self.leafLimit)
    exponents = []
    for _ in 0..<exponentCount { exponents.append(Int32(bitPattern: try reader.integer(UInt32.self))) }
    ranges = []
    var last = -1
    for _ in 0..<rangeCount {
      let low = try reader.count(UInt64.self, "a bound", atMost: Self.valueLimit)
      let high = try reader.count(UInt64.self, "a bound", atMost: Self.valueLimit)
      guard last < low, low < high else { throw .malformed("the ranges are not in order") }
      ranges.append(low..<high)
      last = high
    }
    let count = ranges.reduce(0) { $0 + $1.count }
    values = try reader.floats(count)
    firstMoments = try reader.floats(count)
    secondMoments = try reader.floats(count)
    guard reader.position == end else { throw .malformed("\(end - reader.position) bytes too many") }
  }

  /// Whether it can be a state of a job of so many steps over a flat vector of so many floats.
  func fits(steps: Int, vector count: Int) -> Bool {
    let last = ranges.last?.upperBound ?? 0
    let isOrdered = zip([-1] + ranges.map(\.upperBound), ranges).allSatisfy {
      $0 < $1.lowerBound && !$1.isEmpty
    }
    let held = ranges.reduce(0) { $0 + $1.count }
    return 0...steps ~= step && last <= count && isOrdered
      && [values, firstMoments, secondMoments].allSatisfy { $0.count == held }
  }

  /// Where the state is in the flat vector.
  package var selection: VectorSelection { VectorSelection(ranges) }
}

/// Why bytes are no state of training.
package enum TrainingStateFailure: Error, Equatable, Sendable, CustomStringConvertible {
  /// They end too early.
  case truncated(bytes: Int)
  /// Their digest is another one: the file is damaged.
  case digest
  /// They are something else.
  case foreign
  /// A count is over its limit.
  case limit(String, count: UInt64, limit: Int)
  /// They do not fit together.
  case malformed(String)

  /// What was wrong, where, and the next step.
  package var description: String {
    let fault =
      switch self {
      case .truncated(let bytes): "it ends after \(bytes) bytes"
      case .digest: "its digest does not match its bytes"
      case .foreign: "it is something else"
      case .limit(let what, let count, let limit): "it has \(count) as \(what); \(limit) is the most"
      case .malformed(let detail): detail
      }
    return "a saved state of training cannot be used: \(fault); the job goes on from an older one"
  }
}

/// Takes the bytes of a state apart.
private struct StateReader {
  private let bytes: [UInt8]
  private let end: Int
  private(set) var position = 0

  init(_ bytes: [UInt8], end: Int) {
    self.bytes = bytes
    self.end = end
  }

  mutating func integer<Word: FixedWidthInteger>(_ type: Word.Type) throws(TrainingStateFailure) -> Word {
    let size = MemoryLayout<Word>.size
    guard size <= end - position else { throw .truncated(bytes: end) }
    defer { position += size }
    return bytes.withUnsafeBytes {
      Word(littleEndian: $0.loadUnaligned(fromByteOffset: position, as: Word.self))
    }
  }

  mutating func count<Word: FixedWidthInteger>(
    _ type: Word.Type, _ what: String, atMost limit: Int
  ) throws(TrainingStateFailure) -> Int {
    let count = try integer(type)
    guard count <= limit else { throw .limit(what, count: UInt64(count), limit: limit) }
    return Int(count)
  }

  mutating func floats(_ count: Int) throws(TrainingStateFailure) -> [Float] {
    let size = count * MemoryLayout<Float>.stride
    guard size <= end - position else { throw .truncated(bytes: end) }
    defer { position += size }
    return [Float](unsafeUninitializedCapacity: count) { target, initialized in
      UnsafeMutableRawBufferPointer(target).copyBytes(from: bytes[position..<position + size])
      initialized = count
    }
  }
}
