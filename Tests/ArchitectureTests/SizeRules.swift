/// Longest file and longest function, in lines.
struct SizeLimits: Sendable {
  var fileLines = 800
  var functionLines = 70
  /// Larger files that are known: path to lines; may only shrink, and empty is the aim.
  var fileExemptions: [String: Int] = [:]
  /// Longer functions that are known: "path name" to lines; may only shrink, and empty is the aim.
  var functionExemptions: [String: Int] = [:]
}

/// A function, initialiser, accessor block or C function with a body.
struct FunctionSpan: Equatable {
  let name: String
  let line: Int
  let lineCount: Int
}

/// The functions of a Swift or C file, by their braces.
func functions(of source: ParsedSource) -> [FunctionSpan] {
  var found: [FunctionSpan] = []
  /// Open braces: the function that starts there, nil for other blocks.
  var open: [(name: String, line: Int)?] = []
  var header = ""
  var headerLine = 1
  for (index, line) in source.code.enumerated() {
    if source.file.isSwift, startsDeclaration(line), !onlyIntroduces(header) { header = "" }
    for character in line {
      switch character {
      case "{":
        let name = source.file.isSwift ? swiftFunctionName(header) : cFunctionName(header, depth: open.count)
        open.append(name.map { ($0, headerLine) })
        header = ""
      case "}":
        if let top = open.popLast(), let function = top {
          found.append(
            FunctionSpan(name: function.name, line: function.line, lineCount: index + 2 - function.line))
        }
        header = ""
      case ";":
        header = ""
      default:
        if header.isEmpty {
          if character == " " { continue }
          headerLine = index + 1
        }
        header.append(character)
      }
    }
    if !header.isEmpty { header += " " }
    if !source.file.isSwift, line.hasPrefix("#") { header = "" }
  }
  return found.sorted { ($0.line, $0.name) < ($1.line, $1.name) }
}

/// True when a Swift line begins a declaration, so that a header before it belongs to something without a body.
private func startsDeclaration(_ line: String) -> Bool {
  let words = line.split { " (<?!:".contains($0) }.map(String.init)
  let keywords: Set = [
    "func", "init", "deinit", "subscript", "var", "let", "case", "struct", "enum", "class",
  ]
  guard let first = words.first else { return false }
  return isModifier(first) || keywords.contains(first)
}

/// True when the header so far is attributes and modifiers of what follows, or stops inside parentheses.
private func onlyIntroduces(_ header: String) -> Bool {
  let isOpen = header.count { $0 == "(" } > header.count { $0 == ")" }
  return isOpen || header.split(separator: " ").allSatisfy { isModifier(String($0)) }
}

/// The name of the function that the text before an opening brace declares.
private func swiftFunctionName(_ header: String) -> String? {
  let words = header.split { " (<?!".contains($0) }.map(String.init)
  for (index, word) in words.enumerated() {
    if word == "func" { return index + 1 < words.count ? words[index + 1] : nil }
    if ["init", "deinit", "subscript"].contains(word) {
      // A call of an initialiser is followed by a brace only as a trailing closure: `.init { }`, `self.init(`.
      return words[..<index].allSatisfy(isModifier) ? word : nil
    }
  }
  if let keyword = words.firstIndex(of: "var"), words[..<keyword].allSatisfy(isModifier),
    !header.contains("=")
  {
    return words[(keyword + 1)...].first.map { $0.hasSuffix(":") ? String($0.dropLast()) : $0 }
  }
  return nil
}

private func isModifier(_ word: String) -> Bool {
  word.hasPrefix("@") || word.hasSuffix(")")
    || [
      "public", "package", "internal", "fileprivate", "private", "static", "class", "final", "override",
      "convenience", "required", "mutating", "nonmutating", "borrowing", "consuming", "isolated",
      "nonisolated",
      "lazy", "weak", "unowned", "indirect", "inline", "usableFromInline", "set",
    ].contains(word)
}

/// The name of the C function whose body opens at the outermost level.
private func cFunctionName(_ header: String, depth: Int) -> String? {
  let opening = header.firstIndex(of: "(")
  guard depth == 0, let opening, !header.contains("=") else { return nil }
  return header[..<opening].split { !isNameByte($0.utf8.first ?? 0) }.last.map(String.init)
}

/// Files and functions over the limits, and exemptions that are no longer needed.
func sizeViolations(in sources: [ParsedSource], limits: SizeLimits) -> [Violation] {
  var violations: [Violation] = []
  var usedExemptions: Set<String> = []
  func check(_ lines: Int, limit: Int, exemption: Int?, key: String, at path: String, line: Int, what: String)
  {
    guard lines > limit else { return }
    if exemption != nil { usedExemptions.insert(key) }
    guard lines > exemption ?? limit else { return }
    violations.append(
      Violation(
        path: path, line: line, message: "\(what) has \(lines) lines, \(exemption ?? limit) are allowed"))
  }
  for source in sources {
    let path = source.file.path
    let lineCount = source.code.count - (source.code.last?.isEmpty == true ? 1 : 0)
    check(
      lineCount, limit: limits.fileLines, exemption: limits.fileExemptions[path], key: path, at: path,
      line: 1,
      what: "the file")
    for function in functions(of: source) {
      let key = "\(path) \(function.name)"
      check(
        function.lineCount, limit: limits.functionLines, exemption: limits.functionExemptions[key], key: key,
        at: path, line: function.line, what: "'\(function.name)'")
    }
  }
  for key in (Array(limits.fileExemptions.keys) + limits.functionExemptions.keys).sorted()
  where !usedExemptions.contains(key) {
    violations.append(
      Violation(
        path: String(key.split(separator: " ")[0]), line: 1,
        message: "the exemption '\(key)' is no longer needed; delete it"))
  }
  return violations
}
