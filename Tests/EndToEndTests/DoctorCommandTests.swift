import Foundation
import Testing

@Suite struct DoctorCommandTests {
  @Test func theDoctorsReportIsOneJSONObject() throws {
    try HearthProcess.withScratch { hearth in
      let result = try hearth.run(["doctor", "--json"])
      #expect(result.exitCode == 0, "\(result.errors)")
      let events = try result.events
      #expect(events.count == 1)
      let processor = try #require(events[0]["processor"] as? [String: Any])
      #expect((processor["usable_cores"] as? Int ?? 0) >= 1)
      let memory = try #require(events[0]["memory"] as? [String: Any])
      #expect((memory["available"] as? Int ?? 0) > 0)
      let blas = try #require(events[0]["linear_algebra"] as? [String: Any])
      // A rate of kernels that do not fit the CPU is never given as if it were this machine's.
      #expect((blas["gemm_gflops"] == nil) == (blas["contradicts_cpu"] as? Bool))
      #expect(hearth.contents() == [], "the doctor leaves nothing behind")
    }
  }

  @Test func forPeopleEveryFindingSaysWhatToDo() throws {
    try HearthProcess.withScratch { hearth in
      let result = try hearth.run(["doctor"])
      #expect(result.exitCode == 0)
      for name in ["CPU:", "BLAS:", "memory:", "state directory:", "temporary files:"] {
        #expect(result.output.contains(name), "\(name)")
      }
      for line in result.output.split(separator: "\n")
      where line.hasPrefix("advice") || line.hasPrefix("PROBLEM") {
        #expect(line.contains("to do: "))
      }
    }
  }

  @Test func aStateDirectoryThatCannotBeWrittenEndsWith73() throws {
    try HearthProcess.withScratch { hearth in
      let result = try hearth.run(["doctor"], environment: ["HEARTH_HOME": "/proc/hearth"])
      #expect(result.exitCode == 73)
      #expect(result.output.contains("PROBLEM") && result.output.contains("set HEARTH_HOME"))
      let temporary = try hearth.run(["doctor"], environment: ["TMPDIR": "/proc"])
      #expect(temporary.exitCode == 73)
      #expect(temporary.output.contains("set TMPDIR"))
    }
  }

  @Test func outputThatIsNoTerminalHasNoEscapes() throws {
    try HearthProcess.withScratch { hearth in
      let result = try hearth.run(["doctor"], environment: ["TERM": "xterm-256color"])
      #expect(!result.output.contains("\u{1B}") && !result.errors.contains("\u{1B}"))
    }
  }
}
