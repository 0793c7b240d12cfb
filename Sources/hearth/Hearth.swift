import ArgumentParser
import HearthNode

/// The command line of Hearth.
@main
struct Hearth: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "hearth",
    abstract:
      "Fine-tune a language model at home, with Parallel Adapters and an activation cache, or with LoRA, Houlsby, Full.",
    discussion: """
      A frozen backbone computes each text once; its activations go to a cache, and a small side network \
      (the adapter) learns from them. Later epochs skip the backbone.

      Start here:
        hearth doctor
        hearth train --model DIR --data reviews.tsv --task classify
        hearth evaluate --adapter adapter --data test.tsv
        echo "what a film" | hearth predict --adapter adapter

      Several devices:
        hearth household create && hearth up     on the first
        hearth invite                            shows a code there
        hearth join CODE && hearth up            on the next
        hearth peers                             who is here, and why somebody is not
        hearth train ...                         trains on all of them; hearth jobs, watch and stop follow it
        hearth pause && hearth resume            takes this device out of jobs for a while

      'hearth COMMAND --help' explains a command and gives an example.

      Exit codes:
        0    all went well
        64   the command line is wrong
        65   rows, weights or other content that cannot be used
        66   an input that is not there or cannot be read
        68   a daemon or device that does not answer
        69   a model, adapter, cache or household that do not belong together
        70   a defect of Hearth
        73   the output cannot be created
        74   reading or writing failed midway, for instance because the disk is full
        75   not enough memory (or another resource) for the plan
        77   this device or user may not do it, or a person said no
        130  stopped by Ctrl-C or a signal
      """,
    version: hearthVersion,
    subcommands: [
      TrainCommand.self, JobsCommand.self, WatchCommand.self, StopCommand.self, PauseCommand.self,
      ResumeCommand.self, AdoptCommand.self, EvaluateCommand.self, PredictCommand.self, GenerateCommand.self,
      InspectCommand.self,
      ConvertCommand.self, VerifyCommand.self, HouseholdCommand.self, UpCommand.self, PeersCommand.self,
      InviteCommand.self, JoinCommand.self, RevokeCommand.self, LeaveCommand.self, DoctorCommand.self,
      SimulateCommand.self, BenchCommand.self, PlanCommand.self, ProfileCommand.self,
    ])

  static func main() {
    OutputStream.reportWriteErrors()
    InterruptWatch.unblock()
    var json = false
    do {
      var command = try parseAsRoot()
      json = (command as? any ReportingCommand)?.reporting.json ?? false
      try command.run()
    } catch {
      end(error, json: json)
    }
  }

  /// Ends the process the way `error` asks for.
  private static func end(_ error: any Error, json: Bool) -> Never {
    if error is ReaderGone { exit(withError: ExitCode.success) }
    guard isOwnFailure(error) else { exit(withError: error) }
    let end = CommandEnd(error)
    // Nobody is left to tell when these writes fail; the exit code still says it.
    if json, let line = try? jsonLine(end) { try? OutputStream.standard.write(line + "\n") }
    try? OutputStream.diagnostics.write("Error: \(end.message)\n")
    exit(withError: ExitCode(end.reason.rawValue))
  }

  /// False for the argument parser's own errors: help, version, usage, bare exit codes.
  private static func isOwnFailure(_ error: any Error) -> Bool {
    if error is any UserFacingFailure { return true }
    return exitCode(for: error) == .failure && !(error is ExitCode)
  }
}

/// A command that can write JSON lines for programs beside text for people.
protocol ReportingCommand: ParsableCommand {
  var reporting: ReportingOptions { get }
}

/// How a command reports.
struct ReportingOptions: ParsableArguments {
  @Flag(
    help: """
      Write JSON to standard output, one object a line, the result last; text for people goes to standard \
      error.
      """)
  var json = false
}
