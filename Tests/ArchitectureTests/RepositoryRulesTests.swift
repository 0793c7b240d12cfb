import Testing

private func parsed(_ path: String, _ text: String) -> ParsedSource { ParsedSource(SourceFile(path, text)) }

@Suite("The repository")
struct RepositoryRulesTests {
  @Test("documents every declaration that other targets see, and names types after what they are")
  func documentation() {
    let violations = Checkout.swiftSources.flatMap {
      documentationViolations(in: $0) + nameViolations(in: $0)
    }
    #expect(violations.isEmpty, "\(report(violations))")
  }

  @Test("holds no large file without a reason, no key and no secret")
  func content() {
    let readmes = Dictionary(
      uniqueKeysWithValues: Checkout.files.filter { $0.name == "README.md" }.map { ($0.path, $0.text) })
    let violations =
      blobViolations(paths: Checkout.paths, byteCount: Checkout.byteCount, readme: { readmes[$0] })
      + keyViolations(paths: Checkout.paths) + Checkout.files.flatMap(secretViolations)
    #expect(violations.isEmpty, "\(report(violations))")
    #expect(Checkout.paths.contains("Package.swift"))
  }

  @Test("has a test target for every source target")
  func mirror() {
    let violations = mirrorViolations(
      swiftFiles: Checkout.swiftSources, executables: ["hearth", "hearth-benchmark"])
    #expect(violations.isEmpty, "\(report(violations))")
  }

  @Test("has links that lead somewhere")
  func links() {
    let documents = Checkout.files.filter { $0.fileExtension == "md" }
    let texts = Dictionary(uniqueKeysWithValues: documents.map { ($0.path, $0.text) })
    let paths = Set(Checkout.paths)
    let violations = documents.flatMap { document in
      linkViolations(
        in: document,
        exists: { path in paths.contains(path) || paths.contains { $0.hasPrefix(path + "/") } },
        anchors: { headingAnchors(texts[$0] ?? "") })
    }
    #expect(violations.isEmpty, "\(report(violations))")
  }

  @Test("keeps a changelog")
  func changelog() throws {
    let violations = changelogViolations(in: try Checkout.file("CHANGELOG.md"))
    #expect(violations.isEmpty, "\(report(violations))")
  }

  @Test(
    "refuses declarations without a summary",
    arguments: [
      "package func f() {}", "public struct A {}", "  package static let x = 1",
      "// plain\npackage final class A {}", "///\npackage var x: Int { 1 }",
      "@inlinable\npackage init() {}", "/// Far away.\n\npublic enum A {}",
    ])
  func undocumented(text: String) {
    #expect(documentationViolations(in: parsed("Sources/FineTuning/A.swift", text)).count == 1)
  }

  @Test(
    "accepts documented and inner declarations",
    arguments: [
      "/// One.\npackage func f() {}", "/// One.\n@inlinable\n@inline(__always)\npublic init() {}",
      "func f() {}",
      "package import TensorKernels", "package extension A {\n}", "let package = Package(name: \"x\")",
    ])
  func documented(text: String) {
    #expect(documentationViolations(in: parsed("Sources/FineTuning/A.swift", text)).isEmpty)
  }

  @Test("refuses names that accept anything")
  func names() {
    #expect(nameViolations(in: parsed("Sources/A/A.swift", "final class CacheManager {}")).count == 1)
    #expect(nameViolations(in: parsed("Sources/A/A.swift", "enum Utils {}")).count == 1)
    #expect(nameViolations(in: parsed("Sources/A/StringHelpers.swift", "")).count == 1)
    #expect(nameViolations(in: parsed("Sources/A/A.swift", "struct CacheIndex {}\n// class Helper")).isEmpty)
  }

  @Test("refuses large files, keys and secrets")
  func badContent() {
    let sizes = ["a/big.bin": fileByteLimit + 1, "b/big.bin": fileByteLimit + 1, "c": 1]
    let blobs = blobViolations(
      paths: sizes.keys.sorted(), byteCount: { sizes[$0] ?? 0 },
      readme: { $0 == "b/README.md" ? "big.bin is a fixture" : nil })
    #expect(blobs.map(\.path) == ["a/big.bin"])
    #expect(keyViolations(paths: ["keys/README.md", "keys/device.key"]).map(\.path) == ["keys/device.key"])
    let secret = SourceFile("docs/a.md", "x\n-----BEGIN " + "PRIVATE KEY-----\n")
    #expect(secretViolations(in: secret).map(\.line) == [2])
    let token = SourceFile("scripts/a", "token=gh" + "p_" + String(repeating: "a1", count: 18))
    #expect(secretViolations(in: token).count == 1)
    #expect(secretViolations(in: SourceFile("docs/a.md", "task-oriented, hf_ prefix")).isEmpty)
  }

  @Test("refuses a source target without tests")
  func badMirror() {
    let sources = [
      parsed("Sources/A/A.swift", "struct A {}"), parsed("Sources/B/B.swift", "struct B {}"),
      parsed("Tests/ATests/ATests.swift", "@Test func a() {}"),
      parsed("Tests/BTests/BTests.swift", "// @Test"),
    ]
    #expect(mirrorViolations(swiftFiles: sources, executables: []).map(\.path) == ["Sources/B"])
  }

  @Test("refuses links that lead nowhere, by file and by heading")
  func badLinks() {
    let file = SourceFile(
      "docs/A.md",
      """
      [good](B.md) [up](../README.md#two-words) [web](https://example.org/x) [here](#here)
      [bad](C.md) [bad](B.md#nothing) `[code](none)`
      ```
      [code](none)
      ```
      # Here
      """)
    let there: Set = ["docs/A.md", "docs/B.md", "README.md"]
    let violations = linkViolations(
      in: file, exists: there.contains,
      anchors: {
        $0 == "README.md"
          ? headingAnchors("## Two `words`!\n") : headingAnchors($0 == file.path ? file.text : "")
      })
    #expect(violations.map(\.line) == [2, 2])
  }

  @Test("refuses a changelog of another form")
  func badChangelog() {
    let good = "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- x\n\n## [0.1.0] - 2026-01-31\n"
    #expect(changelogViolations(in: SourceFile("CHANGELOG.md", good)).isEmpty)
    for (from, to) in [
      ("# Changelog", "# History"), ("[Unreleased]", "[2.0.0] - 2026-01-01"), ("Added", "New"),
      ("2026-01-31", "January"),
    ] {
      #expect(changelogViolations(in: SourceFile("CHANGELOG.md", good.replacing(from, with: to))).count >= 1)
    }
  }
}
