/// Puts a message together: little-endian words, one after another.
struct MessageWriter {
  private(set) var bytes: [UInt8] = []

  mutating func word(_ value: UInt32) { append(value) }
  mutating func long(_ value: UInt64) { append(value) }
  mutating func double(_ value: Double) { append(value.bitPattern) }

  mutating func words(_ values: [UInt32]) {
    word(UInt32(values.count))
    for value in values { append(value) }
  }

  mutating func floats(_ values: UnsafeBufferPointer<Float>) {
    bytes.append(contentsOf: UnsafeRawBufferPointer(values))
  }

  mutating func raw(_ values: UnsafeRawBufferPointer) { bytes.append(contentsOf: values) }

  private mutating func append<Word: FixedWidthInteger>(_ value: Word) {
    withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
  }
}

/// Takes a message apart; everything that it reads is bounded by what came and by the caller's limits.
struct MessageReader {
  private let bytes: [UInt8]
  private var position = 0
  private let place: Int
  private let content: String

  /// A message `bytes` from device `place`; `content` says for people what it is.
  init(_ bytes: [UInt8], from place: Int, _ content: String) {
    self.bytes = bytes
    self.place = place
    self.content = content
  }

  mutating func word() throws(DistributedRunFailure) -> UInt32 { try integer() }
  mutating func long() throws(DistributedRunFailure) -> UInt64 { try integer() }
  mutating func double() throws(DistributedRunFailure) -> Double { Double(bitPattern: try integer()) }

  /// A count that must not be more than `limit`.
  mutating func count(atMost limit: Int) throws(DistributedRunFailure) -> Int {
    let count = Int(try word())
    guard count <= limit else { throw failure("a count of \(count), and \(limit) is the most") }
    return count
  }

  mutating func words(atMost limit: Int) throws(DistributedRunFailure) -> [UInt32] {
    var words: [UInt32] = []
    for _ in 0..<(try count(atMost: limit)) { words.append(try word()) }
    return words
  }

  /// Overwrites `target` with the next floats.
  mutating func floats(into target: UnsafeMutableBufferPointer<Float>) throws(DistributedRunFailure) {
    let size = target.count * MemoryLayout<Float>.stride
    guard size <= bytes.count - position else {
      throw failure("\(bytes.count - position) bytes in place of \(size)")
    }
    UnsafeMutableRawBufferPointer(target).copyBytes(from: bytes[position..<position + size])
    position += size
  }

  /// The next `count` bytes.
  mutating func raw(_ count: Int) throws(DistributedRunFailure) -> ArraySlice<UInt8> {
    guard count <= bytes.count - position else {
      throw failure("\(bytes.count - position) bytes in place of \(count)")
    }
    defer { position += count }
    return bytes[position..<position + count]
  }

  /// Bytes that are left.
  var remaining: Int { bytes.count - position }

  /// Refuses bytes behind the last field.
  func finish() throws(DistributedRunFailure) {
    guard position == bytes.count else { throw failure("\(bytes.count - position) bytes too many") }
  }

  func failure(_ detail: String) -> DistributedRunFailure {
    .malformed(place: place, content: content, detail: detail)
  }

  private mutating func integer<Word: FixedWidthInteger>() throws(DistributedRunFailure) -> Word {
    let size = MemoryLayout<Word>.size
    guard size <= bytes.count - position else { throw failure("it ends after \(bytes.count) bytes") }
    var value: Word = 0
    withUnsafeMutableBytes(of: &value) { $0.copyBytes(from: bytes[position..<position + size]) }
    position += size
    return Word(littleEndian: value)
  }
}
