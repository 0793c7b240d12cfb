import Foundation
import Testing

@Suite struct CommandLineTests {
  @Test func helpTeachesEveryCommandAndTheExitCodes() throws {
    try HearthProcess.withScratch { hearth in
      let help = try hearth.run(["--help"])
      #expect(help.exitCode == 0)
      for word in [
        "train", "evaluate", "predict", "inspect", "doctor", "generate", "convert", "verify", "Exit codes",
        "130",
      ] {
        #expect(help.output.contains(word), "\(word)")
      }
      for command in ["train", "evaluate", "predict", "inspect", "doctor", "generate", "verify"] {
        let help = try hearth.run([command, "--help"])
        #expect(help.exitCode == 0)
        #expect(help.output.contains("Example") && help.output.contains("hearth \(command)"), "\(command)")
        #expect(help.output.contains("--json"))
      }
    }
  }

  @Test func trainsHelpShowsTheDefaults() throws {
    try HearthProcess.withScratch { hearth in
      let words = try hearth.run(["train", "--help"]).output.split(whereSeparator: \.isWhitespace)
      let help = words.joined(separator: " ")
      for part in [
        "the side network (the paper's k) or Houlsby's bottleneck is, 1 to 64. (default: 8, houlsby 16)",
        "Passes over the training rows, 1 to 10000. (default: 3)", "(default: float16)", "(default: 42)",
      ] {
        #expect(help.contains(part), "\(part)")
      }
    }
  }

  @Test func theVersionIsOneLine() throws {
    try HearthProcess.withScratch { hearth in
      let version = try hearth.run(["--version"])
      #expect(version.exitCode == 0)
      #expect(version.output.split(separator: "\n").count == 1)
    }
  }

  @Test(arguments: [
    (["frobnicate"], "frobnicate"),
    (["train"], "--model is missing"),
    (["train", "--model", "m"], "--data is missing"),
    (["train", "--model", "m", "--data", "d"], "--task is missing"),
    (["train", "--model", "m", "--data", "d", "--task", "guess"], "--task"),
    (["train", "--epochs", "0"], "--epochs is 0; it must be 1 to 10000"),
    (["train", "--epochs", "three"], "--epochs"),
    (["train", "--batch", "70000"], "--batch is 70000; it must be 1 to 65536"),
    (["train", "--learning-rate", "0"], "--learning-rate is 0.0; it must be above 0"),
    (["train", "--learning-rate", "nan"], "--learning-rate is nan"),
    (["train", "--reduction", "65"], "--reduction is 65; it must be 1 to 64"),
    (["train", "--max-length", "3"], "--max-length is 3; it must be 4 to 4096"),
    (["train", "--threads", "0"], "--threads is 0; it must be 1 to 256"),
    (["train", "--validation-fraction", "1"], "--validation-fraction is 1.0; it must be 0.0 to 0.9"),
    (
      ["train", "--gradient-precision", "double"],
      "--gradient-precision is 'double'; it must be one of full, half"
    ),
    (
      ["train", "--model", "m", "--data", "d", "--task", "classify", "--technique", "full"]
        + ["--gradient-precision", "half"], "--gradient-precision half is not for --technique full"
    ),
    (["train", "--taps", "2,2"], "--taps is '2,2'"),
    (["train", "--cache", "float64"], "--cache is 'float64'; it must be one of float32, float16, int8"),
    (["train", "--technique", "ia3"], "--technique"),
    (["train", "--memory-budget", "1MiB"], "--memory-budget is 1.0 MiB; it must be at least 16 MiB"),
    (["train", "--memory-budget", "lots"], "--memory-budget"),
    (["train", "--text-column", "0"], "--text-column is '0'"),
    (["train", "--validation", "v", "--validation-fraction", "0.5"], "exclude each other"),
    (["train", "--resume", "r", "--epochs", "3"], "--epochs cannot be given with --resume"),
    (
      ["train", "--resume", "r", "--gradient-precision", "half"],
      "--gradient-precision cannot be given with --resume"
    ),
    (["train", "--resume", "r", "--keep-cache"], "--keep-cache cannot be given with --resume"),
    (
      ["train", "--model", "m", "--data", "d", "--task", "classify", "--batch", "6", "--micro-batch", "4"],
      "--micro-batch is 4 and --batch is 6"
    ),
    (
      ["train", "--model", "m", "--data", "d", "--task", "classify", "--format", "text"],
      "--format is 'text'; it must be one of tsv, csv, jsonl"
    ),
    (["evaluate", "--data", "d"], "--adapter"),
    (["predict"], "--adapter"),
    (["inspect"], "path"),
    (["generate"], "--model"),
    (["generate", "--model", "m", "--beams", "65"], "--beams is 65; it must be 1 to 64"),
    (["generate", "--model", "m", "--max-tokens", "0"], "--max-tokens is 0; it must be 1 to 4096"),
    (["generate", "--model", "m", "--length-penalty", "nan"], "--length-penalty is nan"),
    (["convert", "bert-to-bart", "--model", "m"], "--output"),
    (
      ["convert", "bert-to-bart", "--model", "m", "--output", "o", "--decoder-layers", "0"],
      "--decoder-layers is 0; it must be 1 to 256"
    ),
    (["verify"], "--model"),
  ])
  func aWrongCommandLineNamesTheOptionAndEndsWith64(arguments: [String], message: String) throws {
    try HearthProcess.withScratch { hearth in
      let result = try hearth.run(arguments)
      #expect(result.exitCode == 64)
      #expect(result.errors.contains(message), "\(result.errors)")
      #expect(result.output.isEmpty)
      #expect(hearth.contents() == [], "a wrong command line must write nothing")
    }
  }

  @Test func aMissingInputEndsWith66AndOneLine() throws {
    try HearthProcess.withScratch { hearth in
      let data = try hearth.file("data.tsv", "text\tlabel\n")
      let model = HearthProcess.fixtures.appending(path: "tiny-bert").path
      for arguments in [
        ["train", "--model", "nowhere", "--data", data, "--task", "classify"],
        ["train", "--model", data, "--data", data, "--task", "classify"],
        ["train", "--model", hearth.root.path, "--data", data, "--task", "classify"],
        ["train", "--model", model, "--data", "nothing.tsv", "--task", "classify"],
        ["train", "--model", model, "--data", hearth.root.path, "--task", "classify"],
        ["train", "--model", model, "--data", data, "--validation", "no.tsv", "--task", "classify"],
        ["train", "--resume", "nowhere"],
        ["evaluate", "--adapter", "nowhere", "--data", data],
        ["predict", "--adapter", "nowhere"],
        ["inspect", "nowhere"],
        ["generate", "--model", "nowhere"],
        ["generate", "--model", model, "no-texts"],
        ["convert", "bert-to-bart", "--model", "nowhere", "--output", "out"],
        ["verify", "--model", "nowhere"],
      ] {
        let result = try hearth.run(arguments)
        #expect(result.exitCode == 66, "\(arguments): \(result.errors)")
        #expect(result.errors.hasPrefix("Error: ") && result.errors.split(separator: "\n").count == 1)
        #expect(hearth.contents() == ["data.tsv"])
      }
    }
  }

  @Test func anOutputThatCannotBeMadeEndsWith73BeforeAnyWork() throws {
    try HearthProcess.withScratch { hearth in
      let data = try hearth.file("data.tsv", "text\tlabel\na\t0\nb\t1\n")
      let model = HearthProcess.fixtures.appending(path: "tiny-bert").path
      for output in [data, data + "/below", "/proc/hearth", hearth.root.path] {
        let result = try hearth.run(
          ["train", "--model", model, "--data", data, "--task", "classify", "--output", output])
        #expect(result.exitCode == 73, "\(output): \(result.errors)")
        #expect(result.errors.contains(output))
        #expect(hearth.contents() == ["data.tsv"])
      }
    }
  }

  @Test func underJSONAFailureIsTheLastLineToo() throws {
    try HearthProcess.withScratch { hearth in
      let result = try hearth.run(["predict", "--adapter", "nowhere", "--json"])
      let last = try result.lastEvent
      #expect(last["event"] as? String == "failed")
      #expect(last["exit_code"] as? Int == 66)
      #expect((last["message"] as? String)?.contains("nowhere") == true)
    }
  }

  @Test func aFullOutputEndsWith74() throws {
    try HearthProcess.withScratch { hearth in
      let result = try hearth.shell("\"$HEARTH\" doctor --json > /dev/full")
      #expect(result.exitCode == 74, "\(result.errors)")
      #expect(result.errors.contains("standard output"))
    }
  }
}
