/// Numbers of one dimension: what a limit is, in the sources and in the document.
struct Quantity: Equatable, CustomStringConvertible {
  /// One number, or several for marks and schedules.
  var numbers: [Double]
  /// Whether they are seconds.
  var isTime = false

  var description: String {
    numbers.map { isTime ? "\($0) s" : "\($0)" }.joined(separator: ", ")
  }
}

/// A constant of the sources: its name with those of the types around it, and what stands behind the equals sign.
struct DeclaredConstant: Equatable {
  let path: String
  let line: Int
  /// `Type.member`, with all types around it.
  let name: String
  let expression: String

  /// The types around it.
  var type: String { name.split(separator: ".").dropLast().joined(separator: ".") }
}

/// The constants of a Swift file: `static let`, and `var` with a default, directly inside a type.
func declaredConstants(in source: ParsedSource) -> [DeclaredConstant] {
  var types: [(indent: Int, name: String)] = []
  var found: [DeclaredConstant] = []
  for (index, line) in source.code.enumerated() {
    let indent = line.prefix { $0 == " " }.count
    let words = line.split { " :<({".contains($0) }.map(String.init)
    guard !words.isEmpty else { continue }
    types.removeAll { $0.indent >= indent && line.dropFirst(indent).first != "}" }
    let kinds = ["struct", "class", "enum", "extension", "actor"]
    if line.hasSuffix("{") || line.hasSuffix("}"), let kind = words.firstIndex(where: kinds.contains),
      words.count > kind + 1, !words[..<kind].contains("func")
    {
      types.append((indent, words[kind + 1]))
      continue
    }
    let isStatic = words.contains("static") && words.contains("let")
    guard isStatic || words.contains("var"), let type = types.last, indent == type.indent + 2,
      let keyword = words.firstIndex(where: { $0 == "let" || $0 == "var" }), words.count > keyword + 1,
      let equals = line.firstRange(of: " = ")
    else { continue }
    var expression = String(line[equals.upperBound...])
    var next = index + 1
    while expression.count(of: "[") > expression.count(of: "]"), next < source.code.count {
      expression += source.code[next]
      next += 1
    }
    let name = (types.map(\.name) + [words[keyword + 1]]).joined(separator: ".")
    found.append(
      DeclaredConstant(path: source.file.path, line: index + 1, name: name, expression: expression))
  }
  return found
}

/// What the document says: the first two cells of each row whose first is a constant's name.
func documentedLimits(in document: SourceFile) -> [(line: Int, name: String, text: String)] {
  document.text.split(separator: "\n", omittingEmptySubsequences: false).enumerated().compactMap {
    index, line in
    let cells = line.split(separator: "|").map { $0.drop { $0 == " " } }
    guard line.hasPrefix("| `"), cells.count >= 3, let name = cells[0].split(separator: "`").first,
      name.contains("."), name.first?.isUppercase == true
    else { return nil }
    return (index + 1, String(name), String(cells[1]))
  }
}

/// Rows of the document that no constant backs, and constants of limits that have no row.
func limitViolations(
  document: SourceFile, constants: [DeclaredConstant], isListedType: (String) -> Bool
) -> [Violation] {
  let evaluator = LimitEvaluator(constants)
  let rows = documentedLimits(in: document)
  var violations: [Violation] = []
  func fail(_ line: Int, _ message: String) {
    violations.append(Violation(path: document.path, line: line, message: message))
  }
  for row in rows {
    guard let constant = constants.first(where: { $0.name == row.name }) else {
      fail(row.line, "no constant is called \(row.name); name the one that holds the limit")
      continue
    }
    guard let told = quantity(ofText: row.text) else {
      fail(row.line, "'\(row.text)' is no limit; write a number and B, KiB, MiB, ms, s, min, h or days")
      continue
    }
    guard let actual = evaluator.value(of: constant.expression, in: constant.type) else {
      fail(row.line, "\(row.name) is '\(constant.expression)', which cannot be compared with a number")
      continue
    }
    if actual != told { fail(row.line, "\(row.name) is \(actual), not \(told)") }
  }
  let named = Set(rows.map(\.name))
  for constant in constants where isListedType(constant.type) && !named.contains(constant.name) {
    if evaluator.value(of: constant.expression, in: constant.type) == nil { continue }
    fail(1, "\(constant.name) (\(constant.path):\(constant.line)) has no row")
  }
  return violations
}

/// Stable words and numbers of wire enumerations that the document does not mention.
func unnamedCodes(document: SourceFile, in source: ParsedSource, enumeration: String) -> [Violation] {
  let lines = source.file.text.split(separator: "\n", omittingEmptySubsequences: false)
  guard let start = lines.firstIndex(where: { $0.contains("enum \(enumeration):") }) else {
    return [Violation(path: source.file.path, line: 1, message: "there is no enum \(enumeration)")]
  }
  var violations: [Violation] = []
  for (index, line) in lines.enumerated().dropFirst(start + 1) {
    if line == "}" { break }
    let words = line.split(separator: " ")
    guard words.count == 4, words[0] == "case", words[2] == "=" else { continue }
    let value = words[3].filter { $0 != "\"" }
    let row = words[3].hasPrefix("\"") ? "| `\(value)` |" : "| \(words[1]) | \(value) |"
    let isNamed =
      document.text.contains(row) || document.text.contains("| \(words[1]) (never sent) | \(value) |")
    if !isNamed {
      violations.append(
        Violation(path: source.file.path, line: index + 1, message: "\(document.path) has no row '\(row)'"))
    }
  }
  return violations
}

/// Tests that a line of the document names behind a link to their file, and that are not in it.
///
/// A test's sentence stands in double quotes, a test's function in backticks.
func missingTests(in document: SourceFile, text: (String) -> String?) -> [Violation] {
  var violations: [Violation] = []
  for (index, line) in document.text.split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
    let links = line.split(separator: "](../Tests/").dropFirst()
    guard !links.isEmpty else { continue }
    let paths = links.map { "Tests/" + ($0.split(separator: ")").first ?? "") }
    let tests = paths.compactMap(text).joined(separator: "\n")
    // Between quotes lies every second part; a function's name begins with a small letter and has a capital one.
    let sentences = everySecond(line.split(separator: "\"", omittingEmptySubsequences: false)).map {
      "\"\($0)\""
    }
    let functions = everySecond(line.split(separator: "`", omittingEmptySubsequences: false)).filter {
      $0.first?.isLowercase == true && $0.contains(where: \.isUppercase) && $0.allSatisfy(\.isLetter)
    }.map { "func \($0)(" }
    for named in sentences + functions where !tests.contains(named) {
      violations.append(
        Violation(path: document.path, line: index + 1, message: "no linked file has the test \(named)"))
    }
  }
  return violations
}

private func everySecond(_ parts: [Substring]) -> [Substring] {
  parts.enumerated().filter { $0.offset % 2 == 1 }.map(\.element)
}

/// A limit as people write it: `1,200 B`, `64 KiB / 1 MiB`, `0 s, 300 ms`.
func quantity(ofText text: String) -> Quantity? {
  let units: [String: (factor: Double, isTime: Bool)] = [
    "B": (1, false), "KiB": (1024, false), "MiB": (1_048_576, false), "ms": (0.001, true), "s": (1, true),
    "min": (60, true), "h": (3600, true), "days": (86_400, true),
  ]
  var result: Quantity?
  for part in text.replacing(" / ", with: ", ").split(separator: ", ") {
    let words = part.split(separator: " ")
    guard let first = words.first, words.count <= 2, let number = Double(first.replacing(",", with: ""))
    else {
      return nil
    }
    guard let unit = words.count == 2 ? units[String(words[1])] : (1, false) else { return nil }
    guard result == nil || result?.isTime == unit.isTime else { return nil }
    result = Quantity(numbers: (result?.numbers ?? []) + [number * unit.factor], isTime: unit.isTime)
  }
  return result
}

extension String {
  fileprivate func count(of character: Character) -> Int { count { $0 == character } }
}
