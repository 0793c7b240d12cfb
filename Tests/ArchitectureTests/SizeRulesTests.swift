import Testing

private func parsed(_ text: String, path: String = "Sources/FineTuning/A.swift") -> ParsedSource {
  ParsedSource(SourceFile(path, text))
}

@Suite("Files and functions")
struct SizeRulesTests {
  @Test("of the checkout are short enough, and every exemption is still needed")
  func checkout() {
    let violations = sizeViolations(in: Checkout.swiftSources + Checkout.cSources, limits: SizeLimits())
    #expect(violations.isEmpty, "\(report(violations))")
    #expect(Checkout.swiftSources.flatMap(functions).count > 100)
  }

  @Test("are refused when too long")
  func tooLong() {
    let body = String(repeating: "  x += 1\n", count: 69)
    let atLimit = parsed("struct A {\n" + "func f() {\n" + body.dropLast(9) + "}\n}\n")
    let over = parsed("struct A {\nfunc f(\n  _ x: Int\n) {\n" + body + "}\n}\n")
    #expect(sizeViolations(in: [atLimit], limits: SizeLimits()).isEmpty)
    #expect(
      sizeViolations(in: [over], limits: SizeLimits()).map(\.description)
        == ["Sources/FineTuning/A.swift:2: 'f' has 73 lines, 70 are allowed"])
    let initializer = parsed("extension A {\n  private init(x: Int) throws {\n" + body + "  }\n}\n")
    #expect(sizeViolations(in: [initializer], limits: SizeLimits()).map(\.line) == [2])
    let computed = parsed("struct A {\n  var count: Int {\n" + body + "  }\n}\n")
    #expect(sizeViolations(in: [computed], limits: SizeLimits()).map(\.line) == [2])
    let file = parsed(String(repeating: "let x = 1\n", count: 801))
    #expect(
      sizeViolations(in: [file], limits: SizeLimits()).map(\.message) == [
        "the file has 801 lines, 800 are allowed"
      ])
    let c = parsed("static void f(int x)\n{\n" + body + "}\n", path: "Sources/CKernels/a.c")
    #expect(sizeViolations(in: [c], limits: SizeLimits()).map(\.line) == [1])
  }

  @Test("may be exempt up to a length, until they no longer need it")
  func exemptions() {
    let long = parsed("func f() {\n" + String(repeating: "  x += 1\n", count: 80) + "}\n")
    let key = "Sources/FineTuning/A.swift f"
    #expect(sizeViolations(in: [long], limits: SizeLimits(functionExemptions: [key: 82])).isEmpty)
    #expect(sizeViolations(in: [long], limits: SizeLimits(functionExemptions: [key: 81])).count == 1)
    let short = parsed("func f() {\n}\n")
    let stale = sizeViolations(in: [short], limits: SizeLimits(functionExemptions: [key: 82]))
    #expect(stale.map(\.message) == ["the exemption '\(key)' is no longer needed; delete it"])
  }

  @Test("are found by name and line, whatever braces stand in strings and comments")
  func spans() {
    let source = parsed(
      """
      struct A {  // {
        let open = "{ \\(x.map { "}" }) {"
        func first<T>(_ x: T) -> String where T: B {
          let raw = #"{"#
          return x.map { "\\($0)" }
        }
        init() { self.init { 1 } }
        var stored = 1
        let other: Int
        @inlinable
        static func == (
          a: A, b: A
        ) -> Bool
        where A: B {
          true
        }
      }
      protocol P {
        func required()
        var count: Int { get }
      }
      """)
    #expect(
      functions(of: source) == [
        FunctionSpan(name: "first", line: 3, lineCount: 4), FunctionSpan(name: "init", line: 7, lineCount: 1),
        FunctionSpan(name: "==", line: 10, lineCount: 7),
        FunctionSpan(name: "count", line: 20, lineCount: 1),
      ])
  }
}
