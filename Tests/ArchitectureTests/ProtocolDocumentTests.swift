import Testing

@Suite("The protocol's document")
struct ProtocolDocumentTests {
  private static let targets: Set = [
    "WireCoding", "MeshModel", "MeshProtocol", "SecureChannel", "CryptoPrimitives", "GossipMembership",
    "PeerDiscovery", "AvahiDiscovery", "MeshPeer", "MeshTransport", "HouseholdTrust", "HearthNode",
  ]

  private static func isListed(_ type: String) -> Bool {
    ["Limits", "Timing", "Profile"].contains { type.hasSuffix($0) }
  }

  private let sample = [
    DeclaredConstant(path: "A.swift", line: 3, name: "RecordLimits.tag", expression: "16"),
    DeclaredConstant(
      path: "A.swift", line: 4, name: "RecordLimits.all", expression: "65_535 - tag - B.header"),
    DeclaredConstant(path: "A.swift", line: 5, name: "B.header", expression: "8"),
    DeclaredConstant(path: "A.swift", line: 6, name: "RecordLimits.time", expression: ".seconds(24 * 3_600)"),
  ]

  private func violations(_ rows: String) -> [String] {
    limitViolations(
      document: SourceFile("docs/P.md", rows), constants: sample, isListedType: Self.isListed
    ).map(\.message)
  }

  @Test("has a row for every named limit of the mesh, with its number")
  func limits() throws {
    let sources = Checkout.swiftSources.filter {
      $0.file.isInSources && $0.file.target.map(Self.targets.contains) == true
        && ($0.file.target != "HearthNode" || $0.file.path.hasPrefix("Sources/HearthNode/Mesh/"))
    }
    let violations = limitViolations(
      document: try Checkout.file("docs/PROTOCOL.md"), constants: sources.flatMap(declaredConstants),
      isListedType: Self.isListed)
    #expect(violations.isEmpty, "\(report(violations))")
  }

  @Test(
    "has a row for every counter, close reason and reason of absence",
    arguments: [
      ("Sources/MeshProtocol/Transport.swift", "DropReason"),
      ("Sources/MeshProtocol/Session.swift", "CloseReason"),
      ("Sources/MeshModel/AbsenceReason.swift", "AbsenceReason"),
    ])
  func codes(path: String, enumeration: String) throws {
    let violations = unnamedCodes(
      document: try Checkout.file("docs/PROTOCOL.md"), in: ParsedSource(try Checkout.file(path)),
      enumeration: enumeration)
    #expect(violations.isEmpty, "\(report(violations))")
  }

  @Test("accepts rows that agree with the sources, computed ones too")
  func right() {
    let rows = """
      | `RecordLimits.tag` | 16 B | x |
      | `RecordLimits.all` | 65,511 B | x |
      | `RecordLimits.time` | 24 h | x |
      """
    #expect(violations(rows).isEmpty)
  }

  @Test("refuses a wrong number, a wrong dimension, an unknown constant and a limit without a row")
  func wrong() {
    #expect(
      violations(
        "| `RecordLimits.tag` | 17 B | x |\n| `RecordLimits.all` | 65,511 s | x |\n| `C.d` | 1 | x |") == [
          "RecordLimits.tag is 16.0, not 17.0", "RecordLimits.all is 65511.0, not 65511.0 s",
          "no constant is called C.d; name the one that holds the limit",
          "RecordLimits.time (A.swift:6) has no row",
        ])
  }

  @Test(
    "reads limits as people write them",
    arguments: [
      ("1,200 B", Quantity(numbers: [1200])), ("64 KiB / 1 MiB", Quantity(numbers: [65_536, 1_048_576])),
      ("0 s, 300 ms", Quantity(numbers: [0, 0.3], isTime: true)), ("0.25", Quantity(numbers: [0.25])),
      ("30 days", Quantity(numbers: [2_592_000], isTime: true)),
    ])
  func texts(text: String, expected: Quantity) {
    #expect(quantity(ofText: text) == expected)
  }

  @Test("refuses what is no limit", arguments: ["", "many", "3 apples", "1 s, 2 B", "1 2 s"])
  func badTexts(text: String) { #expect(quantity(ofText: text) == nil) }

  @Test("finds constants inside types, nested ones with all names, and computes what their text says")
  func declarations() {
    let text = """
      package enum Limits {
        /// One.
        package static let one: Duration = .milliseconds(300)
        package struct Inner: Sendable {
          package var marks = QueueMarks(low: 64 << 10, high: 1 << 20)
          func f() { let no = 1 }
        }
        package static let rounds: [Duration] = [
          .zero, .seconds(1),
        ]
        package static let mask: UInt16 = 0xFFF
      }
      """
    let constants = declaredConstants(in: ParsedSource(SourceFile("Sources/MeshPeer/A.swift", text)))
    let evaluator = LimitEvaluator(constants)
    #expect(constants.map(\.name) == ["Limits.one", "Limits.Inner.marks", "Limits.rounds", "Limits.mask"])
    #expect(
      constants.map { evaluator.value(of: $0.expression, in: $0.type) } == [
        Quantity(numbers: [0.3], isTime: true), Quantity(numbers: [65_536, 1_048_576]),
        Quantity(numbers: [0, 1], isTime: true), Quantity(numbers: [4095]),
      ])
    #expect(evaluator.value(of: "Int(crypto_box_MACBYTES)", in: "Limits") == nil)
  }

  @Test("names only tests that exist, in the threat model")
  func threatModel() throws {
    let document = try Checkout.file("docs/THREAT-MODEL.md")
    let violations = missingTests(in: document) { try? Checkout.file($0).text }
    #expect(violations.isEmpty, "\(report(violations))")
    #expect(document.text.contains("](../Tests/"))
  }

  @Test("misses tests that are not in the linked file")
  func missingEvidence() {
    let document = SourceFile(
      "docs/T.md",
      "| [A](../Tests/A/A.swift) \"one holds\", `twoHolds` |\n| [A](../Tests/A/A.swift) \"one holds\", `threeHolds` |\n| [A](../Tests/A/A.swift) \"three\" |\nno \"link\""
    )
    let found = missingTests(in: document) {
      $0 == "Tests/A/A.swift" ? "@Test(\"one holds\")\nfunc threeHolds()" : nil
    }
    #expect(found.map(\.line) == [1, 3])
  }

  @Test("misses a code that has no row")
  func missingCode() {
    let source = ParsedSource(
      SourceFile("Sources/A/A.swift", "package enum E: String {\n  case a = \"a-b\"\n  case c = 3\n}\n"))
    let document = SourceFile("docs/P.md", "| `a-b` | x |\n")
    #expect(unnamedCodes(document: document, in: source, enumeration: "E").map(\.line) == [3])
    #expect(unnamedCodes(document: document, in: source, enumeration: "F").count == 1)
  }
}
