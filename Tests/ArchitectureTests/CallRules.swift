/// A word that code may not use, where, and what to write instead.
struct BannedCall: Sendable {
  let words: String
  let replacement: String
  /// Targets whose sources may use it after all.
  var exceptIn: Set<String> = []
  /// Targets that the ban is for; nil means all.
  var onlyIn: Set<String>?
  /// Whether tests are under the ban too.
  var includesTests = true
  /// A word on the same line that makes it good.
  var unlessWith: String?
}

/// Targets that write to the terminal.
private let commands: Set<String> = ["hearth", "hearth-benchmark"]
/// Targets to which time is an argument.
private let timeless: Set<String> = [
  "Determinism", "CryptoPrimitives", "TensorKernels", "NeuralNetworks", "LanguageModels", "ActivationCache",
  "FineTuning", "WireCoding", "MeshModel", "MeshProtocol", "HouseholdTrust", "SecureChannel",
  "GossipMembership", "PeerDiscovery", "MeshPeer", "MeshSimulator",
]

/// Every ban of the house.
let bannedCalls: [BannedCall] = [
  BannedCall(words: "Date()", replacement: "take the time as an argument, or measure with ContinuousClock"),
  BannedCall(words: "Task.sleep", replacement: "wait for the event itself"),
  BannedCall(words: "Thread.sleep", replacement: "wait for the event itself"),
  BannedCall(words: "usleep(", replacement: "wait for the event itself"),
  BannedCall(words: "nanosleep(", replacement: "wait for the event itself"),
  BannedCall(words: "sleep(", replacement: "wait for the event itself"),
  BannedCall(words: ".random(", replacement: "draw from a SeededGenerator (using:)", unlessWith: "using:"),
  BannedCall(words: ".shuffled(", replacement: "shuffle with a SeededGenerator", unlessWith: "using:"),
  BannedCall(words: ".randomElement(", replacement: "draw from a SeededGenerator", unlessWith: "using:"),
  BannedCall(words: "SystemRandomNumberGenerator", replacement: "pass a SeededGenerator in"),
  BannedCall(
    words: "print(", replacement: "return the text; only the commands write to the terminal",
    exceptIn: commands,
    includesTests: false),
  BannedCall(
    words: "debugPrint(", replacement: "return the text; only the commands write to the terminal",
    exceptIn: commands, includesTests: false),
  BannedCall(words: "try!", replacement: "throw, or turn the failure into a precondition with its values"),
  BannedCall(words: "fatalError(", replacement: "preconditionFailure with the values, or a typed failure"),
  BannedCall(words: "unowned(unsafe)", replacement: "own it, or hold it weakly"),
  BannedCall(
    words: "ContinuousClock", replacement: "take the time as an argument", onlyIn: timeless,
    includesTests: false),
  BannedCall(
    words: "SuspendingClock", replacement: "take the time as an argument", onlyIn: timeless,
    includesTests: false),
  BannedCall(
    words: "clock_gettime", replacement: "take the time as an argument", onlyIn: timeless,
    includesTests: false),
]

/// Banned calls in a Swift file.
func callViolations(in source: ParsedSource) -> [Violation] {
  guard let target = source.file.target else { return [] }
  var violations: [Violation] = []
  for ban in bannedCalls {
    if source.file.isInTests ? !ban.includesTests : ban.exceptIn.contains(target) { continue }
    if let onlyIn = ban.onlyIn, !onlyIn.contains(target) { continue }
    for line in source.lines(with: ban.words) {
      if let good = ban.unlessWith, source.code[line - 1].contains(good) { continue }
      violations.append(
        Violation(
          path: source.file.path, line: line, message: "'\(ban.words)' is banned: \(ban.replacement)"))
    }
  }
  return violations
}

/// Marks of unfinished work in comments of Swift and C, or anywhere in other code.
func unfinishedViolations(in file: SourceFile) -> [Violation] {
  let lines: [String]
  if file.isSwift || file.isC {
    lines = ParsedSource(file).comments
  } else if file.fileExtension == "py" || file.text.hasPrefix("#!") {
    lines = file.text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
  } else {
    return []
  }
  let marks = ["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"]
  return lines.enumerated().flatMap { index, line in
    marks.filter { containsWords(line, $0) }.map { mark in
      Violation(path: file.path, line: index + 1, message: "'\(mark)': finish it, or write an issue")
    }
  }
}

/// Promises to the compiler that no comment justifies.
///
/// The line `Safety:` stands in the comment directly above, or beside the code.
func safetyViolations(in source: ParsedSource) -> [Violation] {
  var violations: [Violation] = []
  for promise in ["@unchecked Sendable", "nonisolated(unsafe)", "@safe"] {
    for line in source.lines(with: promise) where !hasSafetyComment(source, line: line) {
      violations.append(
        Violation(
          path: source.file.path, line: line,
          message: "'\(promise)' needs a comment line 'Safety: why it holds'"))
    }
  }
  return violations
}

private func hasSafetyComment(_ source: ParsedSource, line: Int) -> Bool {
  var index = line - 1
  if source.comments[index].contains("Safety:") { return true }
  while index > 0 {
    index -= 1
    let hasComment = !source.comments[index].allSatisfy { $0 == " " }
    let code = source.code[index].split(separator: " ").joined()
    guard hasComment || code.hasPrefix("@") else { return false }
    if source.comments[index].contains("Safety:") { return true }
  }
  return false
}

/// Tests whose body checks nothing, neither itself nor through a function of the same file.
func idleTestViolations(in source: ParsedSource) -> [Violation] {
  guard source.file.isInTests else { return [] }
  let spans = functions(of: source)
  var idle = spans.map { (span: $0, words: words(inBodyOf: $0, of: source)) }
  // The macros, functions whose name says so, and, round by round, whatever calls one that checks.
  var checking: Set<String> = []
  func checks(_ word: String) -> Bool {
    ["expect", "require", "record", "confirmation", "check", "verify"].contains { word.hasPrefix($0) }
      || checking.contains(word)
  }
  while let next = idle.firstIndex(where: { $0.words.contains(where: checks) }) {
    checking.insert(idle.remove(at: next).span.name)
  }
  return source.lines(with: "@Test").compactMap { line in
    guard let test = spans.first(where: { $0.line >= line }), idle.contains(where: { $0.span == test })
    else { return nil }
    return Violation(path: source.file.path, line: line, message: "test '\(test.name)' checks nothing")
  }
}

/// The names that the body of a function uses.
private func words(inBodyOf span: FunctionSpan, of source: ParsedSource) -> Set<String> {
  let code = source.code[(span.line - 1)..<(span.line - 1 + span.lineCount)].joined(separator: "\n")
  let body = code.drop { $0 != "{" }
  return Set(body.split { !isNameByte($0.utf8.first ?? 0) }.map(String.init))
}
