/// Finds special tokens that stand in a text as they are written, the longest first.
struct SpecialTokenScanner: Sendable {
  /// A stretch of text, or one special token.
  enum Part: Equatable {
    case text(ArraySlice<UInt8>)
    case special(Int32)
  }

  private let tokens: ByteTrie
  private let firstBytes: [Bool]

  init(_ specials: [(token: String, id: Int32)]) {
    var tokens = ByteTrie()
    var firstBytes = [Bool](repeating: false, count: 256)
    for (token, id) in specials {
      precondition(!token.isEmpty, "a special token needs a text")
      tokens.insert(Array(token.utf8), id: id)
      firstBytes[Int(token.utf8.first ?? 0)] = true
    }
    self.tokens = tokens
    self.firstBytes = firstBytes
  }

  /// Cuts a text at its special tokens; stretches without bytes are left out.
  func split(_ text: String) -> [Part] {
    let bytes = Array(text.utf8)
    var parts: [Part] = []
    var start = 0
    var index = 0
    while index < bytes.count {
      guard firstBytes[Int(bytes[index])], let match = tokens.longestMatch(in: bytes[index...]) else {
        index += 1
        continue
      }
      if start < index { parts.append(.text(bytes[start..<index])) }
      parts.append(.special(match.id))
      index += match.length
      start = index
    }
    if start < bytes.count { parts.append(.text(bytes[start...])) }
    return parts
  }
}

/// Byte strings with ids, found by the longest prefix of a text.
struct ByteTrie: Sendable {
  private var childByEdge: [UInt64: Int32] = [:]
  private var idByNode: [Int32] = [-1]

  /// Adds a byte string; a second one that is equal takes its place.
  mutating func insert(_ bytes: some Sequence<UInt8>, id: Int32) {
    var node: Int32 = 0
    for byte in bytes {
      let edge = UInt64(node) << 8 | UInt64(byte)
      if let child = childByEdge[edge] {
        node = child
      } else {
        let child = Int32(idByNode.count)
        idByNode.append(-1)
        childByEdge[edge] = child
        node = child
      }
    }
    idByNode[Int(node)] = id
  }

  /// The node that `bytes` lead to from `start`, or nil.
  func node(after bytes: some Sequence<UInt8>, from start: Int32 = 0) -> Int32? {
    var node = start
    for byte in bytes {
      guard let child = childByEdge[UInt64(node) << 8 | UInt64(byte)] else { return nil }
      node = child
    }
    return node
  }

  /// The id and the length of the longest string below `start` that `bytes` begin with; never an empty one.
  func longestMatch(in bytes: ArraySlice<UInt8>, from start: Int32 = 0) -> (id: Int32, length: Int)? {
    var node = start
    var best: (id: Int32, length: Int)?
    for index in bytes.indices {
      guard let child = childByEdge[UInt64(node) << 8 | UInt64(bytes[index])] else { break }
      node = child
      if idByNode[Int(node)] >= 0 { best = (idByNode[Int(node)], index - bytes.startIndex + 1) }
    }
    return best
  }

  /// The id of exactly these bytes, or nil.
  func id(of bytes: some Sequence<UInt8>) -> Int32? {
    node(after: bytes).flatMap { idByNode[Int($0)] >= 0 ? idByNode[Int($0)] : nil }
  }
}
