import ComputeRuntime
import Testing

@Suite("A child process")
struct ChildProcessTests {
  @Test("is answered line by line and ends when its input does")
  func lines() throws {
    let cat = try #require(ChildProcess("/bin/cat", []))
    #expect(cat.write("one\ntwo\n"))
    #expect(cat.line() == "one" && cat.line() == "two")
    cat.endInput()
    #expect(cat.line() == nil)
    #expect(cat.wait() == 0)
  }

  @Test("gives its output up to a limit, and its exit status")
  func output() throws {
    let shell = try #require(ChildProcess("/bin/sh", ["-c", "printf abcdef; echo no >&2; exit 3"]))
    #expect(shell.wholeOutput(limit: 4) == "abcd")
    #expect(shell.wait() == 3)
  }

  @Test("that takes too long is ended")
  func patience() throws {
    let cat = try #require(ChildProcess("/bin/cat", []))
    #expect(cat.wholeOutput(limit: 10, seconds: 0.01) == nil)
    #expect(cat.wait() == 128 + 9)
  }

  @Test("that is not there is none")
  func missing() { #expect(ChildProcess("/nowhere/program", []) == nil) }
}
