/// A file of the checkout: its path from the root, and its text.
struct SourceFile: Sendable {
  let path: String
  let text: String

  init(_ path: String, _ text: String) {
    self.path = path
    self.text = text
  }

  /// The folder directly under Sources or Tests that the file belongs to.
  var target: String? {
    let parts = path.split(separator: "/")
    return parts.count > 2 && (parts[0] == "Sources" || parts[0] == "Tests") ? String(parts[1]) : nil
  }

  var name: String { String(path.split(separator: "/").last ?? "") }
  var fileExtension: String { name.contains(".") ? String(name.split(separator: ".").last ?? "") : "" }
  var isSwift: Bool { fileExtension == "swift" }
  var isC: Bool { ["c", "cpp", "h"].contains(fileExtension) }
  var isInSources: Bool { path.hasPrefix("Sources/") }
  var isInTests: Bool { path.hasPrefix("Tests/") }
}

/// A broken rule: where, and what to do instead.
struct Violation: Equatable, CustomStringConvertible {
  let path: String
  let line: Int
  let message: String

  var description: String { "\(path):\(line): \(message)" }
}

/// The text of a Swift or C file parted into what runs and what comments say.
///
/// Both parts keep the lines of the text; what belongs to the other part, and the content of string literals,
/// is blank. Rules can then look for a word without meeting it in a comment, a message or a bad sample.
struct ParsedSource {
  let file: SourceFile
  /// Code without comments and without the content of string literals.
  let code: [String]
  /// Comments, with their slashes.
  let comments: [String]

  init(_ file: SourceFile) {
    self.file = file
    var splitter = CommentSplitter(Array(file.text.utf8), hasSwiftStrings: file.isSwift)
    splitter.run()
    code = Self.lines(of: splitter.code)
    comments = Self.lines(of: splitter.comments)
  }

  /// The 1-based lines of `code` that hold the words, which must not touch other letters of a name.
  func lines(with words: String) -> [Int] {
    code.indices.filter { containsWords(code[$0], words) }.map { $0 + 1 }
  }

  private static func lines(of bytes: [UInt8]) -> [String] {
    bytes.split(separator: 10, omittingEmptySubsequences: false).map { String(decoding: $0, as: UTF8.self) }
  }
}

/// True when the line holds the words, not as part of a longer name.
func containsWords(_ line: String, _ words: String) -> Bool {
  let line = Array(line.utf8)
  let words = Array(words.utf8)
  guard let first = words.first, let last = words.last, line.count >= words.count else { return false }
  for start in 0...(line.count - words.count) where line[start] == first {
    let end = start + words.count
    guard line[start..<end].elementsEqual(words) else { continue }
    let touchesBefore = isNameByte(first) && start > 0 && isNameByte(line[start - 1])
    let touchesAfter = isNameByte(last) && end < line.count && isNameByte(line[end])
    if !touchesBefore, !touchesAfter { return true }
  }
  return false
}

/// True for the bytes of an identifier.
func isNameByte(_ byte: UInt8) -> Bool {
  (48...57).contains(byte) || (65...90).contains(byte) || (97...122).contains(byte) || byte == 95
    || byte >= 128
}

/// Parts bytes into code and comments of equal length.
private struct CommentSplitter {
  private let bytes: [UInt8]
  private let hasSwiftStrings: Bool
  private var position = 0
  private(set) var code: [UInt8]
  private(set) var comments: [UInt8]

  init(_ bytes: [UInt8], hasSwiftStrings: Bool) {
    self.bytes = bytes
    self.hasSwiftStrings = hasSwiftStrings
    code = bytes.map { $0 == 10 ? 10 : 32 }
    comments = code
  }

  mutating func run() { scan(until: nil) }

  private func byte(_ offset: Int = 0) -> UInt8? {
    position + offset < bytes.count ? bytes[position + offset] : nil
  }

  /// Reads code, up to the parenthesis that closes an interpolation when `closing` is given.
  private mutating func scan(until closing: UInt8?) {
    var depth = 0
    while let current = byte() {
      if current == UInt8(ascii: "/"), byte(1) == UInt8(ascii: "/") {
        lineComment()
      } else if current == UInt8(ascii: "/"), byte(1) == UInt8(ascii: "*") {
        blockComment()
      } else if let marks = openingMarks() {
        string(marks: marks)
      } else if !hasSwiftStrings, current == UInt8(ascii: "'") {
        string(marks: 0)
      } else {
        if current == UInt8(ascii: "(") { depth += 1 }
        if current == UInt8(ascii: ")") {
          if depth == 0, closing != nil { return }
          depth -= 1
        }
        code[position] = current
        position += 1
      }
    }
  }

  private mutating func lineComment() {
    while let current = byte(), current != 10 {
      comments[position] = current
      position += 1
    }
  }

  private mutating func blockComment() {
    var depth = 0
    repeat {
      let next = byte(1)
      if byte() == UInt8(ascii: "/"), next == UInt8(ascii: "*") {
        depth = hasSwiftStrings ? depth + 1 : 1
        copyComment(2)
      } else if byte() == UInt8(ascii: "*"), next == UInt8(ascii: "/") {
        depth -= 1
        copyComment(2)
      } else {
        copyComment(1)
      }
    } while depth > 0 && position < bytes.count
  }

  private mutating func copyComment(_ count: Int) {
    for _ in 0..<count where position < bytes.count {
      if bytes[position] != 10 { comments[position] = bytes[position] }
      position += 1
    }
  }

  /// The number of `#` before an opening quote at the current position, nil when no string starts here.
  private func openingMarks() -> Int? {
    var marks = 0
    while hasSwiftStrings, byte(marks) == UInt8(ascii: "#") { marks += 1 }
    return byte(marks) == UInt8(ascii: "\"") ? marks : nil
  }

  /// Passes over a string literal; code inside its interpolations stays code.
  private mutating func string(marks: Int) {
    position += marks
    let quote = bytes[position]
    let isMultiline = hasSwiftStrings && byte(1) == quote && byte(2) == quote
    let quotes = isMultiline ? 3 : 1
    code[position] = UInt8(ascii: "\"")
    position += quotes
    while let current = byte() {
      if current == UInt8(ascii: "\\"), has(UInt8(ascii: "#"), count: marks, at: 1) {
        position += 1 + marks
        if hasSwiftStrings, byte() == UInt8(ascii: "(") {
          position += 1
          scan(until: UInt8(ascii: ")"))
        }
        position += 1
      } else if has(quote, count: quotes, at: 0), has(UInt8(ascii: "#"), count: marks, at: quotes) {
        code[position] = UInt8(ascii: "\"")
        position += quotes + marks
        return
      } else if current == 10, !isMultiline {
        return
      } else {
        position += 1
      }
    }
  }

  private func has(_ wanted: UInt8, count: Int, at offset: Int) -> Bool {
    (0..<count).allSatisfy { byte(offset + $0) == wanted }
  }
}
