/// A set of chunks of one blob.
package struct BlobChunks: Hashable, Sendable {
  /// Chunks of the blob.
  package let count: Int
  private var words: [UInt64]

  /// No chunk of a blob of `count`.
  package init(none count: Int) {
    self.count = count
    words = Array(repeating: 0, count: (count + 63) / 64)
  }

  /// All chunks of a blob of `count`.
  package init(all count: Int) {
    self.init(none: count)
    insert(0..<count)
  }

  /// Reads a bit for each chunk, the first lowest; nil when there are not as many bytes as that takes.
  package init?(bits: some Collection<UInt8>, count: Int) {
    guard bits.count == (count + 7) / 8 else { return nil }
    self.init(none: count)
    for (index, byte) in bits.enumerated() { words[index / 8] |= UInt64(byte) << (index % 8 * 8) }
    // Bits behind the last chunk mean nothing.
    if count % 64 != 0, let last = words.indices.last { words[last] &= (1 << (count % 64)) - 1 }
  }

  /// A bit for each chunk, the first lowest.
  package var bits: [UInt8] {
    (0..<(count + 7) / 8).map { UInt8(truncatingIfNeeded: words[$0 / 8] >> ($0 % 8 * 8)) }
  }

  /// The byte of `bits` that has a chunk's bit.
  package func bits(with chunk: Int) -> UInt8 {
    precondition(0..<count ~= chunk, "chunk \(chunk) of \(count)")
    return UInt8(truncatingIfNeeded: words[chunk / 64] >> (chunk % 64 / 8 * 8))
  }

  /// Whether a chunk is in.
  package func contains(_ chunk: Int) -> Bool {
    0..<count ~= chunk && words[chunk / 64] >> (chunk % 64) & 1 == 1
  }

  /// Puts chunks in.
  package mutating func insert(_ chunks: Range<Int>) {
    precondition(
      chunks.isEmpty || chunks.lowerBound >= 0 && chunks.upperBound <= count, "\(chunks) of \(count)")
    for chunk in chunks { words[chunk / 64] |= 1 << (chunk % 64) }
  }

  /// Puts a chunk in.
  package mutating func insert(_ chunk: Int) { insert(chunk..<chunk + 1) }

  /// Takes a chunk out.
  package mutating func remove(_ chunk: Int) {
    guard contains(chunk) else { return }
    words[chunk / 64] &= ~(1 << (chunk % 64))
  }

  /// The first of these chunks that is in.
  package func first(in chunks: Range<Int>) -> Int? {
    let chunks = chunks.clamped(to: 0..<count)
    guard let last = chunks.last else { return nil }
    for index in chunks.lowerBound / 64...last / 64 {
      var word = words[index]
      if index == chunks.lowerBound / 64 { word &= ~0 << (chunks.lowerBound % 64) }
      guard word != 0 else { continue }
      let first = index * 64 + word.trailingZeroBitCount
      return first <= last ? first : nil
    }
    return nil
  }

  /// The chunks in ascending order.
  package var chunks: [Int] { (0..<count).filter(contains) }

  /// How many are in.
  package var population: Int { words.reduce(0) { $0 + $1.nonzeroBitCount } }

  /// Whether none is in.
  package var isEmpty: Bool { words.allSatisfy { $0 == 0 } }

  /// Whether all of `other` are in.
  package func isSuperset(of other: BlobChunks) -> Bool {
    count == other.count && zip(words, other.words).allSatisfy { $0 & $1 == $1 }
  }

  /// Those that are not in `other`.
  package func subtracting(_ other: BlobChunks) -> BlobChunks { combined(other) { $0 & ~$1 } }

  /// Those that are in both.
  package func intersection(_ other: BlobChunks) -> BlobChunks { combined(other) { $0 & $1 } }

  /// Those that are in one of both.
  package func symmetricDifference(_ other: BlobChunks) -> BlobChunks { combined(other) { $0 ^ $1 } }

  private func combined(_ other: BlobChunks, _ combine: (UInt64, UInt64) -> UInt64) -> BlobChunks {
    precondition(count == other.count, "sets of \(count) and \(other.count) chunks")
    var result = self
    for index in words.indices { result.words[index] = combine(words[index], other.words[index]) }
    return result
  }
}
