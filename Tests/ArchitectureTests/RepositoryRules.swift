/// Files over this many bytes need a line in a README that says why they are here.
let fileByteLimit = 1 << 20

/// Files in keys/ that may be there; whoever adds one adds it here, and so thinks twice.
let allowedKeyFiles: Set<String> = [
  "keys/README.md", "keys/households/example/README.md", "keys/households/example/household.json",
  "keys/households/example/make.py", "keys/test/seeds.txt", "keys/vectors/cpace-ristretto255-sha512.json",
  "keys/vectors/noise-xx.json",
  "keys/vectors/noise-xxpsk0.txt",
]

/// Large files that no README of their folder, or of a folder above, names.
func blobViolations(
  paths: [String], byteCount: (String) -> Int, readme: (String) -> String?
) -> [Violation] {
  paths.compactMap { path in
    let bytes = byteCount(path)
    guard bytes > fileByteLimit else { return nil }
    var folders = path.split(separator: "/").map(String.init)
    let name = folders.removeLast()
    while true {
      let place = (folders + ["README.md"]).joined(separator: "/")
      if readme(place)?.contains(name) == true { return nil }
      if folders.popLast() == nil { break }
    }
    return Violation(path: path, line: 1, message: "\(bytes) bytes, and no README says why it is here")
  }
}

/// Files in keys/ beyond the allowed ones.
func keyViolations(paths: [String]) -> [Violation] {
  paths.filter { $0.hasPrefix("keys/") && !allowedKeyFiles.contains($0) }.map {
    Violation(path: $0, line: 1, message: "not an allowed file of keys/; secrets live outside the checkout")
  }
}

/// Beginnings of secrets, each with how many letters or digits must follow to make one.
///
/// Written in two pieces so that this file does not hold what it looks for.
private let secretShapes: [(start: String, following: Int)] = [
  ("-----BEGIN " + "PRIVATE KEY", 0), ("-----BEGIN RSA " + "PRIVATE KEY", 0),
  ("-----BEGIN EC " + "PRIVATE KEY", 0), ("-----BEGIN OPENSSH " + "PRIVATE KEY", 0),
  ("-----BEGIN ENCRYPTED " + "PRIVATE KEY", 0), ("AGE-SECRET-" + "KEY-1", 20), ("AK" + "IA", 16),
  ("gh" + "p_", 30), ("github_" + "pat_", 20), ("xo" + "xb-", 10), ("h" + "f_", 30), ("s" + "k-", 32),
  ("pypi-" + "AgEI", 20),
]

/// Strings outside keys/ that look like a secret.
func secretViolations(in file: SourceFile) -> [Violation] {
  guard !file.path.hasPrefix("keys/") else { return [] }
  var violations: [Violation] = []
  for (index, line) in file.text.split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
    for shape in secretShapes {
      let isThere = String(line).components(after: shape.start).contains { rest in
        rest.prefix(shape.following).count { $0.isASCII && ($0.isLetter || $0.isNumber) } == shape.following
      }
      if isThere {
        violations.append(
          Violation(path: file.path, line: index + 1, message: "looks like a secret ('\(shape.start)…')"))
      }
    }
  }
  return violations
}

/// Targets under Sources without a test target that tests something.
func mirrorViolations(swiftFiles: [ParsedSource], executables: Set<String>) -> [Violation] {
  let targets = Set(swiftFiles.filter(\.file.isInSources).compactMap(\.file.target)).subtracting(executables)
  let tested = Set(
    swiftFiles.filter { $0.file.isInTests && !$0.lines(with: "@Test").isEmpty }.compactMap(\.file.target))
  return targets.sorted().filter { !tested.contains($0 + "Tests") }.map {
    Violation(path: "Sources/\($0)", line: 1, message: "no test in Tests/\($0)Tests")
  }
}

/// Departures from Keep a Changelog 1.1.0.
func changelogViolations(in file: SourceFile) -> [Violation] {
  let kinds: Set = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
  let lines = file.text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
  var violations: [Violation] = []
  func complain(_ index: Int, _ message: String) {
    violations.append(Violation(path: file.path, line: index + 1, message: message))
  }
  if lines.first != "# Changelog" { complain(0, "the first line is '# Changelog'") }
  let releases = lines.indices.filter { lines[$0].hasPrefix("## ") }
  if releases.first.map({ lines[$0] }) != "## [Unreleased]" {
    complain(releases.first ?? 0, "the first section is '## [Unreleased]'")
  }
  for index in releases.dropFirst() where !isReleaseHeading(lines[index]) {
    complain(index, "a release is '## [1.2.3] - 2026-01-31'")
  }
  for index in lines.indices
  where lines[index].hasPrefix("### ") && !kinds.contains(String(lines[index].dropFirst(4))) {
    complain(index, "'\(lines[index].dropFirst(4))' is none of \(kinds.sorted().joined(separator: ", "))")
  }
  return violations
}

private func isReleaseHeading(_ line: String) -> Bool {
  let parts = line.split(separator: " ")
  guard parts.count == 4, parts[1].hasPrefix("["), parts[1].hasSuffix("]"), parts[2] == "-" else {
    return false
  }
  let version = parts[1].dropFirst().dropLast().split(separator: ".", omittingEmptySubsequences: false)
  let date = parts[3].split(separator: "-", omittingEmptySubsequences: false)
  return version.count == 3 && version.allSatisfy { Int($0) != nil }
    && date.map(\.count) == [4, 2, 2] && date.allSatisfy { Int($0) != nil }
}
