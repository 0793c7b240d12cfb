import Testing

private func parsed(_ path: String, _ text: String) -> ParsedSource { ParsedSource(SourceFile(path, text)) }

@Suite("Calls and promises")
struct CallRulesTests {
  @Test("of the checkout are none of the banned ones")
  func checkout() {
    let violations = Checkout.swiftSources.flatMap {
      callViolations(in: $0) + safetyViolations(in: $0) + idleTestViolations(in: $0)
    }
    #expect(violations.isEmpty, "\(report(violations))")
  }

  @Test("leave nothing unfinished in the checkout")
  func unfinished() {
    let violations = Checkout.files.flatMap(unfinishedViolations)
    #expect(violations.isEmpty, "\(report(violations))")
  }

  @Test(
    "refuse bad samples",
    arguments: [
      ("Sources/HearthNode/A.swift", "let now = Date()"),
      ("Tests/HearthNodeTests/A.swift", "try await Task.sleep(for: .seconds(1))"),
      ("Sources/ComputeRuntime/A.swift", "usleep(100)"),
      ("Tests/ComputeRuntimeTests/A.swift", "Thread.sleep(forTimeInterval: 1)"),
      ("Sources/ComputeRuntime/A.swift", "sleep(1)"),
      ("Sources/NeuralNetworks/A.swift", "let x = Float.random(in: 0..<1)"),
      ("Tests/NeuralNetworksTests/A.swift", "let x = list.shuffled()"),
      ("Sources/FineTuning/A.swift", "print(loss)"),
      ("Sources/FineTuning/A.swift", "let x = try! load()"),
      ("Tests/FineTuningTests/A.swift", "let x = try! load()"),
      ("Sources/FineTuning/A.swift", "default: fatalError()"),
      ("Sources/FineTuning/A.swift", "unowned(unsafe) let owner: Owner"),
      ("Sources/FineTuning/A.swift", "let start = ContinuousClock().now"),
    ])
  func banned(path: String, text: String) {
    #expect(!callViolations(in: parsed(path, text)).isEmpty)
  }

  @Test(
    "accept good samples",
    arguments: [
      ("Sources/NeuralNetworks/A.swift", "let x = Float.random(in: 0..<1, using: &generator)"),
      ("Sources/hearth/A.swift", "print(line)"),
      ("Sources/HearthNode/A.swift", "let start = ContinuousClock().now"),
      (
        "Sources/FineTuning/A.swift",
        "// print(x) would be wrong\nlet text = \"try! Date()\"; blueprint(x); oversleep(1)"
      ),
    ])
  func accepted(path: String, text: String) {
    #expect(callViolations(in: parsed(path, text)).isEmpty)
  }

  @Test("refuse marks of unfinished work in comments and scripts, not in strings")
  func marks() {
    let mark = "TO" + "DO"
    #expect(unfinishedViolations(in: SourceFile("Sources/A/A.swift", "x = 1  // \(mark): more")).count == 1)
    #expect(unfinishedViolations(in: SourceFile("scripts/a", "#!/bin/bash\n# \(mark)\n")).map(\.line) == [2])
    #expect(unfinishedViolations(in: SourceFile("Sources/A/A.swift", "let x = \"\(mark)\"")).isEmpty)
  }

  @Test("ask for a safety line where the compiler cannot check")
  func safety() {
    let path = "Sources/FineTuning/A.swift"
    #expect(safetyViolations(in: parsed(path, "final class A: @unchecked Sendable {}")).count == 1)
    #expect(
      safetyViolations(in: parsed(path, "// Safety: no.\n\nstruct A: @unchecked Sendable {}")).count == 1)
    let good = "/// A view.\n///\n/// - Safety: borrowed.\n@frozen\nstruct A: @unchecked Sendable {}"
    #expect(safetyViolations(in: parsed(path, good)).isEmpty)
    #expect(
      safetyViolations(in: parsed(path, "nonisolated(unsafe) var x = 1  // Safety: one thread.")).isEmpty)
  }

  @Test("refuse a test that checks nothing")
  func idleTests() {
    let path = "Tests/FineTuningTests/A.swift"
    let idle = "struct A {\n  @Test(\"runs\")\n  func runs() {\n    _ = run()\n  }\n}"
    #expect(idleTestViolations(in: parsed(path, idle)).map(\.message) == ["test 'runs' checks nothing"])
    #expect(idleTestViolations(in: parsed(path, idle.replacing("_ = run()", with: "#expect(run())"))).isEmpty)
    let through = idle + "\nfunc run() -> Bool {\n  #expect(1 == 1)\n  return true\n}"
    #expect(idleTestViolations(in: parsed(path, through)).isEmpty)
    let second = idle + "\nstruct B {\n  @Test func works() { #expect(true) }\n}"
    #expect(idleTestViolations(in: parsed(path, second)).map(\.line) == [2])
  }
}
