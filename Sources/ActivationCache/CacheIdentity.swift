package import CryptoPrimitives
package import TensorKernels

/// The taps of one stack that a cache holds.
package struct CachedStack: Sendable, Equatable, Codable {
  /// The stack's name, for instance "encoder".
  package var name: String
  /// Elements of a row.
  package var width: Int
  /// Tap indices in ascending order: 0 is the embedding output, i the output of block i.
  package var taps: [Int]

  /// The given taps of a stack whose rows have `width` elements.
  package init(name: String, width: Int, taps: [Int]) {
    self.name = name
    self.width = width
    self.taps = taps
  }
}

/// Everything that decides the bytes of a cached activation besides the sample itself.
///
/// Two runs may share a cache exactly when their identities have the same digest: the same frozen weights,
/// tokenizer and length limit give the same activations, the same taps and element the same record layout.
package struct CacheIdentity: Sendable, Equatable {
  /// Most stacks that a record can hold.
  package static let maximumStacks = 4
  /// Most taps of one stack.
  package static let maximumTaps = 1024
  /// Widest row.
  package static let maximumWidth = 1 << 17

  /// Digest of the frozen backbone's weights.
  package var backboneDigest: ContentDigest
  /// Digest of the tokenizer.
  package var tokenizerDigest: ContentDigest
  /// Tokens to which a text is cut.
  package var maximumLength: Int
  /// How an element is stored.
  package var element: ActivationElement
  /// The stacks, in the order of their rows in a record.
  package var stacks: [CachedStack]

  /// An identity; the stacks must be within the limits above and their taps ascending.
  package init(
    backboneDigest: ContentDigest, tokenizerDigest: ContentDigest, maximumLength: Int,
    element: ActivationElement, stacks: [CachedStack]
  ) {
    self.backboneDigest = backboneDigest
    self.tokenizerDigest = tokenizerDigest
    self.maximumLength = maximumLength
    self.element = element
    self.stacks = stacks
    if let reason = reasonAgainst { preconditionFailure("a cache identity \(reason)") }
  }

  /// What makes an identity impossible, or nil: for identities that are read from a file.
  init(
    validating backboneDigest: ContentDigest, _ tokenizerDigest: ContentDigest, _ maximumLength: Int,
    _ element: ActivationElement, _ stacks: [CachedStack]
  ) throws(CacheFormatFailure) {
    self.backboneDigest = backboneDigest
    self.tokenizerDigest = tokenizerDigest
    self.maximumLength = maximumLength
    self.element = element
    self.stacks = stacks
    if let reason = reasonAgainst { throw CacheFormatFailure(reason: "its identity \(reason)") }
  }

  private var reasonAgainst: String? {
    guard (1...Self.maximumStacks).contains(stacks.count) else {
      return "has \(stacks.count) stacks, expected 1 to \(Self.maximumStacks)"
    }
    for stack in stacks {
      guard (1...Self.maximumWidth).contains(stack.width) else {
        return "has width \(stack.width) in stack \(stack.name), expected 1 to \(Self.maximumWidth)"
      }
      guard (1...Self.maximumTaps).contains(stack.taps.count), stack.taps[0] >= 0,
        zip(stack.taps, stack.taps.dropFirst()).allSatisfy({ $0 < $1 })
      else { return "has taps \(stack.taps) in stack \(stack.name), expected 1 or more, ascending" }
    }
    return maximumLength > 0 ? nil : "has the maximum length \(maximumLength)"
  }

  /// BLAKE2b-256 over the format version and every field, in order.
  package var digest: ContentDigest {
    var hasher = ContentHasher()
    hasher.update("hearth activation cache")
    hasher.update(CacheFormat.version)
    hasher.update(bytes: backboneDigest.bytes)
    hasher.update(bytes: tokenizerDigest.bytes)
    hasher.update(maximumLength)
    hasher.update(element.rawValue)
    hasher.update(stacks.count)
    for stack in stacks {
      hasher.update(stack.name)
      hasher.update(stack.width)
      hasher.update(stack.taps.map(Int32.init))
    }
    return hasher.finalize()
  }

  /// What differs from the identity of a cache that was found, in the order of the fields.
  package func differences(fromCache cache: CacheIdentity) -> [CacheDifference] {
    var differences: [CacheDifference] = []
    func compare(_ field: String, _ cache: String, _ run: String) {
      if cache != run { differences.append(CacheDifference(field: field, cache: cache, run: run)) }
    }
    compare("backbone weights", "\(cache.backboneDigest)", "\(backboneDigest)")
    compare("tokenizer", "\(cache.tokenizerDigest)", "\(tokenizerDigest)")
    compare("maximum length", "\(cache.maximumLength)", "\(maximumLength)")
    compare("element", cache.element.rawValue, element.rawValue)
    compare("stacks", Self.text(cache.stacks), Self.text(stacks))
    return differences
  }

  private static func text(_ stacks: [CachedStack]) -> String {
    stacks.map { "\($0.name) of width \($0.width), taps \($0.taps.map(String.init).joined(separator: " "))" }
      .joined(separator: "; ")
  }
}

/// One field in which a cache on disk is not the one that a run needs.
package struct CacheDifference: Sendable, Equatable {
  /// What differs, for instance "maximum length".
  package var field: String
  /// Its value in the cache.
  package var cache: String
  /// Its value in the run.
  package var run: String

  /// A field with its value in the cache and in the run.
  package init(field: String, cache: String, run: String) {
    self.field = field
    self.cache = cache
    self.run = run
  }
}

/// Tokens of each stack of one sample: with the identity, this decides where every row of a record is.
package struct CacheRecordShape: Sendable, Equatable {
  /// Most tokens of one stack.
  package static let maximumTokens = 1 << 20

  // A record has at most four stacks; a vector holds them without an allocation.
  let counts: SIMD4<UInt32>

  /// The shape of a sample with the given number of tokens in each stack of the identity.
  package init(tokens: [Int]) {
    precondition(
      tokens.count <= CacheIdentity.maximumStacks
        && tokens.allSatisfy { (0...Self.maximumTokens).contains($0) },
      "a record of \(tokens) tokens")
    var counts = SIMD4<UInt32>()
    for (stack, count) in tokens.enumerated() { counts[stack] = UInt32(count) }
    self.counts = counts
  }

  /// The shape whose counts are given; nil when one is above the limit.
  init?(counts: SIMD4<UInt32>) {
    guard counts.max() <= Self.maximumTokens else { return nil }
    self.counts = counts
  }

  /// Tokens of stack `stack`.
  package func tokens(_ stack: Int) -> Int { Int(counts[stack]) }

  /// Bytes of the rows of one sample, without the record's header.
  package func byteCount(_ identity: CacheIdentity) -> Int {
    CacheLayout(identity).payloadBytes(self)
  }
}

/// The sizes that an identity implies, looked up on every read.
struct CacheLayout: Sendable {
  let stackCount: Int
  let tapCounts: SIMD4<Int>
  let rowBytes: SIMD4<Int>
  let widths: SIMD4<Int>
  let element: ActivationElement

  init(_ identity: CacheIdentity) {
    var tapCounts = SIMD4<Int>()
    var rowBytes = SIMD4<Int>()
    var widths = SIMD4<Int>()
    for (index, stack) in identity.stacks.enumerated() {
      tapCounts[index] = stack.taps.count
      rowBytes[index] = identity.element.rowBytes(width: stack.width)
      widths[index] = stack.width
    }
    stackCount = identity.stacks.count
    element = identity.element
    self.tapCounts = tapCounts
    self.rowBytes = rowBytes
    self.widths = widths
  }

  /// Row blocks of one record: the segments of a scattered read.
  var segmentCount: Int { tapCounts.wrappedSum() }

  func payloadBytes(_ shape: CacheRecordShape) -> Int {
    var bytes = 0
    for stack in 0..<stackCount { bytes += shape.tokens(stack) * tapCounts[stack] * rowBytes[stack] }
    return bytes
  }

  /// Whether the shape has no tokens in stacks that the identity does not have, and some at all.
  func admits(_ shape: CacheRecordShape) -> Bool {
    for stack in stackCount..<CacheIdentity.maximumStacks where shape.tokens(stack) != 0 { return false }
    return payloadBytes(shape) > 0
  }

  /// Checks that row blocks have the layout's stacks, taps and elements and at least the given rows.
  func check(_ blocks: [[EncodedRows]], rows: SIMD4<Int>, what: String) {
    precondition(blocks.count == stackCount, "\(what): \(blocks.count) stacks, expected \(stackCount)")
    for stack in 0..<stackCount {
      precondition(
        blocks[stack].count == tapCounts[stack],
        "\(what): \(blocks[stack].count) taps in stack \(stack), expected \(tapCounts[stack])")
      for tap in 0..<tapCounts[stack] {
        let block = blocks[stack][tap]
        precondition(
          block.width == widths[stack] && block.element == element && block.rows >= rows[stack],
          """
          \(what): tap \(tap) of stack \(stack) has \(block.rows) rows of \(block.width) \(block.element), \
          expected \(rows[stack]) of \(widths[stack]) \(element)
          """)
      }
    }
  }
}
