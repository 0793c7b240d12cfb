private let accessWords = ["public", "package", "open"]
private let declarationWords: Set<String> = [
  "func", "var", "let", "struct", "class", "enum", "protocol", "typealias", "init", "subscript", "actor",
  "associatedtype", "macro",
]

/// Declarations for other targets that have no summary.
func documentationViolations(in source: ParsedSource) -> [Violation] {
  guard source.file.isInSources else { return [] }
  var violations: [Violation] = []
  for (index, line) in source.code.enumerated() {
    let words = line.split { " (<:?{".contains($0) }.map(String.init)
    guard let access = words.firstIndex(where: accessWords.contains),
      words[..<access].allSatisfy({ $0.hasPrefix("@") || $0 == "indirect" || $0 == "final" || $0 == "static" }
      ),
      let keyword = words[access...].first(where: declarationWords.contains),
      !words.contains("import")
    else { continue }
    if !hasSummary(source, above: index) {
      violations.append(
        Violation(path: source.file.path, line: index + 1, message: "this \(keyword) has no '///' summary"))
    }
  }
  return violations
}

/// True when documentation stands above the line, with nothing but attributes between.
private func hasSummary(_ source: ParsedSource, above index: Int) -> Bool {
  var index = index
  while index > 0 {
    index -= 1
    let comment = source.comments[index].drop { $0 == " " }
    if comment.hasPrefix("///") {
      return comment.dropFirst(3).contains { $0 != " " } || hasSummary(source, above: index)
    }
    let code = source.code[index].drop { $0 == " " }
    let isBetween =
      code.hasPrefix("@") || code.hasPrefix(")") || code.hasPrefix("#if") || comment.hasPrefix("//")
    if !isBetween { return false }
  }
  return false
}

/// Names that accept anything, and so say nothing.
let emptyNames = ["Manager", "Helper", "Helpers", "Util", "Utils", "Utilities", "Utility", "Common", "Misc"]

/// Types and files with a name that says nothing.
func nameViolations(in source: ParsedSource) -> [Violation] {
  func saysNothing(_ name: String) -> Bool {
    emptyNames.contains { name.hasSuffix($0) || name.hasPrefix($0 + "+") }
  }
  var violations: [Violation] = []
  let stem = String(source.file.name.split(separator: ".").first ?? "")
  if saysNothing(stem) {
    violations.append(
      Violation(path: source.file.path, line: 1, message: "name the file after what is in it"))
  }
  let kinds: Set = ["struct", "class", "enum", "protocol", "actor", "typealias"]
  for (index, line) in source.code.enumerated() {
    let words = line.split { " :<({=,".contains($0) }.map(String.init)
    for (word, next) in zip(words, words.dropFirst()) where kinds.contains(word) && saysNothing(next) {
      violations.append(
        Violation(
          path: source.file.path, line: index + 1, message: "'\(next)' accepts anything; name the noun"))
    }
  }
  return violations
}

/// Links of a Markdown file that lead nowhere.
///
/// `exists` tells whether a path from the root is there, `anchors` gives the headings of a Markdown file.
func linkViolations(
  in file: SourceFile, exists: (String) -> Bool, anchors: (String) -> Set<String>
) -> [Violation] {
  var violations: [Violation] = []
  for (index, line) in proseLines(file.text).enumerated() {
    for piece in line.components(after: "](") {
      guard let end = piece.firstIndex(of: ")") else { continue }
      let target = piece[..<end].split(separator: " ").first.map(String.init) ?? ""
      if target.contains("://") || target.hasPrefix("mailto:") { continue }
      let parts = target.split(separator: "#", maxSplits: 1, omittingEmptySubsequences: false).map(
        String.init)
      let path = parts[0].isEmpty ? file.path : resolved(parts[0], from: file.path)
      let hasAnchor = parts.count > 1 && path.hasSuffix(".md")
      if !exists(path) || (hasAnchor && !anchors(path).contains(parts[1])) {
        violations.append(
          Violation(path: file.path, line: index + 1, message: "link to '\(target)' leads nowhere"))
      }
    }
  }
  return violations
}

/// The anchors that GitHub gives to the headings of a Markdown text.
func headingAnchors(_ text: String) -> Set<String> {
  Set(
    proseLines(text).filter { $0.hasPrefix("#") }.map { line in
      let title = line.drop { $0 == "#" || $0 == " " }.lowercased()
      return String(
        title.filter { $0.isLetter || $0.isNumber || " -_".contains($0) }.map { $0 == " " ? "-" : $0 })
    })
}

/// The lines of a Markdown text with code blocks and inline code blanked.
private func proseLines(_ text: String) -> [String] {
  var isCode = false
  return text.split(separator: "\n", omittingEmptySubsequences: false).map { line in
    if line.drop(while: { $0 == " " }).hasPrefix("```") {
      isCode.toggle()
      return ""
    }
    if isCode { return "" }
    // In headings the code's text is part of the anchor.
    if line.hasPrefix("#") { return String(line.filter { $0 != "`" }) }
    let parts = line.split(separator: "`", omittingEmptySubsequences: false)
    return parts.enumerated().map { $0 % 2 == 0 ? String($1) : "" }.joined()
  }
}

/// A relative link as a path from the root.
private func resolved(_ link: String, from path: String) -> String {
  var parts = path.split(separator: "/").dropLast().map(String.init)
  for part in link.split(separator: "/") {
    if part == ".." { _ = parts.popLast() } else if part != "." { parts.append(String(part)) }
  }
  return parts.joined(separator: "/")
}
