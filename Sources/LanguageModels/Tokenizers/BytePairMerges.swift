/// The ordered merges of byte-pair encoding over bytes (Sennrich et al., ACL 2016; Radford et al., 2019).
///
/// A symbol is a byte string: the 256 single bytes and what each merge makes.
struct BytePairMerges: Sendable {
  /// The most merges of a file.
  static let maximumMerges = 2_000_000

  private struct Merge: Sendable {
    let rank: Int
    let symbol: Int32
  }

  private var merges: [UInt64: Merge] = [:]
  private var symbols: [[UInt8]: Int32] = [:]
  private(set) var bytesBySymbol: [[UInt8]] = []

  init() {
    for byte in UInt8.min...UInt8.max { _ = symbol(of: [byte]) }
  }

  /// Number of symbols.
  var symbolCount: Int { bytesBySymbol.count }

  /// Adds the next merge; of two equal ones the first counts.
  mutating func append(_ left: [UInt8], _ right: [UInt8]) {
    let pair = Self.key(symbol(of: left), symbol(of: right))
    guard merges[pair] == nil else { return }
    merges[pair] = Merge(rank: merges.count, symbol: symbol(of: left + right))
  }

  private mutating func symbol(of bytes: [UInt8]) -> Int32 {
    if let known = symbols[bytes] { return known }
    let symbol = Int32(bytesBySymbol.count)
    bytesBySymbol.append(bytes)
    symbols[bytes] = symbol
    return symbol
  }

  private static func key(_ left: Int32, _ right: Int32) -> UInt64 {
    UInt64(UInt32(bitPattern: left)) << 32 | UInt64(UInt32(bitPattern: right))
  }

  /// A pair that may be merged: the lowest rank first, then the leftmost.
  private struct Candidate: Comparable {
    let rank: Int
    let left: Int
    let leftSymbol: Int32
    let rightSymbol: Int32
    let merged: Int32

    static func < (a: Candidate, b: Candidate) -> Bool { (a.rank, a.left) < (b.rank, b.left) }
  }

  /// The symbols of one word, after every merge that applies, lowest rank first.
  ///
  /// Pairs wait in a heap, so that a word of n bytes takes n·log n steps, however long somebody makes it.
  func encode(_ word: [UInt8]) -> [Int32] {
    var parts = word.map { Int32($0) }
    guard parts.count > 1 else { return parts }
    var next = (1...parts.count).map { $0 }
    var previous = (0..<parts.count).map { $0 - 1 }
    var heap = BinaryHeap<Candidate>()
    func candidate(at left: Int) -> Candidate? {
      guard left >= 0, next[left] < parts.count else { return nil }
      let (a, b) = (parts[left], parts[next[left]])
      guard let merge = merges[Self.key(a, b)] else { return nil }
      return Candidate(
        rank: merge.rank, left: left, leftSymbol: a, rightSymbol: b, merged: merge.symbol)
    }
    for left in parts.indices { if let pair = candidate(at: left) { heap.insert(pair) } }
    while let pair = heap.popSmallest() {
      let left = pair.left
      let right = next[left]
      guard parts[left] == pair.leftSymbol, right < parts.count, parts[right] == pair.rightSymbol else {
        continue
      }
      parts[left] = pair.merged
      parts[right] = -1
      next[left] = next[right]
      if next[left] < parts.count { previous[next[left]] = left }
      if let before = candidate(at: previous[left]) { heap.insert(before) }
      if let after = candidate(at: left) { heap.insert(after) }
    }
    return parts.filter { $0 >= 0 }
  }
}

/// A binary heap that gives up its smallest element first.
struct BinaryHeap<Element: Comparable> {
  private var elements: [Element] = []

  /// Adds an element.
  mutating func insert(_ element: Element) {
    elements.append(element)
    var child = elements.count - 1
    while child > 0 {
      let parent = (child - 1) / 2
      guard elements[child] < elements[parent] else { return }
      elements.swapAt(child, parent)
      child = parent
    }
  }

  /// Removes and returns the smallest element; nil when there is none.
  mutating func popSmallest() -> Element? {
    guard let smallest = elements.first else { return nil }
    let last = elements.removeLast()
    guard !elements.isEmpty else { return smallest }
    elements[0] = last
    var parent = 0
    while true {
      var child = 2 * parent + 1
      guard child < elements.count else { return smallest }
      if child + 1 < elements.count, elements[child + 1] < elements[child] { child += 1 }
      guard elements[child] < elements[parent] else { return smallest }
      elements.swapAt(child, parent)
      parent = child
    }
  }
}
