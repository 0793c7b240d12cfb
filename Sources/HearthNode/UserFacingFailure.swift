/// Why a command ended, as the exit code tells scripts (the numbers are those of BSD's sysexits).
package enum ExitReason: Int32, Sendable, CaseIterable {
  /// All went well.
  case success = 0
  /// The command line is wrong.
  case usage = 64
  /// Rows, weights or other content that cannot be used.
  case badData = 65
  /// A file or directory that is not there or cannot be read.
  case missingInput = 66
  /// A daemon or device that does not answer.
  case unreachable = 68
  /// A model, adapter or cache that do not belong together.
  case mismatch = 69
  /// A defect of Hearth itself.
  case internalDefect = 70
  /// The output cannot be created.
  case cannotCreateOutput = 73
  /// Reading or writing failed midway, for instance because the disk is full.
  case inputOutput = 74
  /// Not enough memory (or another resource) for the plan.
  case insufficientResources = 75
  /// This device or user may not do it, or a person said no.
  case notPermitted = 77
  /// The person stopped the run.
  case interrupted = 130
}

/// A failure that a person can act on: its description is one line that says what was wrong, where, and the
/// next step.
package protocol UserFacingFailure: Error, CustomStringConvertible {
  /// Decides the exit code.
  var reason: ExitReason { get }
}

/// What can go wrong in the wiring of a run, beyond the failures of the parts.
package enum RunFailure: UserFacingFailure, Equatable {
  /// An input path that is not there or cannot be read; `role` says what it should have been.
  case missingInput(role: String, path: String, detail: String)
  /// An input that is there and cannot be used.
  case badInput(role: String, path: String, detail: String)
  /// The output directory cannot be created or written.
  case cannotCreateOutput(path: String, detail: String)
  /// The output directory holds something that a new run would overwrite.
  case outputOccupied(path: String, detail: String)
  /// The plan needs more memory than allowed. All values are bytes.
  case memoryBudgetExceeded(needed: Int, budget: Int, detail: String)
  /// The cache would not fit on its disk. All values are bytes.
  case diskBudgetExceeded(needed: Int, free: Int, path: String)
  /// The adapter and the run's state would not fit on their disk. All values are bytes.
  case outputDiskExceeded(adapter: Int, state: Int, free: Int, path: String)
  /// The trained values of a household's job do not fit on its owner's disk.
  case resultDiskExceeded(needed: Int, free: Int, path: String)
  /// The adapter was trained on another backbone.
  case backboneMismatch(adapter: String, expected: String, found: String, model: String)
  /// The directory holds no run that can be resumed.
  case notResumable(path: String, detail: String)
  /// Reading or writing failed midway.
  case inputOutput(path: String, detail: String)
  /// The person stopped the run; its state after `step` of `steps` is in `runDirectory`.
  case interrupted(runDirectory: String, step: Int, steps: Int)

  /// Decides the exit code.
  package var reason: ExitReason {
    switch self {
    case .missingInput: .missingInput
    case .badInput: .badData
    case .cannotCreateOutput, .outputOccupied: .cannotCreateOutput
    case .memoryBudgetExceeded: .insufficientResources
    case .diskBudgetExceeded, .outputDiskExceeded, .resultDiskExceeded: .inputOutput
    case .backboneMismatch: .mismatch
    case .notResumable: .missingInput
    case .inputOutput: .inputOutput
    case .interrupted: .interrupted
    }
  }

  /// One line for people: what, where, and the next step.
  package var description: String {
    switch self {
    case .missingInput(let role, let path, let detail): "\(role) '\(path)': \(detail)"
    case .badInput(let role, let path, let detail): "\(role) '\(path)': \(detail)"
    case .cannotCreateOutput(let path, let detail):
      "cannot write to '\(path)': \(detail); choose another directory with --output"
    case .outputOccupied(let path, let detail):
      "'\(path)' \(detail); choose another directory with --output, or go on with --resume '\(path)'"
    case .memoryBudgetExceeded(let needed, let budget, let detail):
      "the plan needs at least \(ByteCount(needed)) of memory and \(ByteCount(budget)) are allowed (\(detail)); "
        + "use a smaller --micro-batch, --max-length or --threads, or a larger --memory-budget"
    case .diskBudgetExceeded(let needed, let free, let path):
      "the activation cache needs \(ByteCount(needed)) and \(ByteCount(free)) are free at '\(path)'; "
        + "make room, use --cache int8, or choose another disk with --cache-directory"
    case .outputDiskExceeded(let adapter, let state, let free, let path):
      "the adapter needs \(ByteCount(adapter)), the run's state \(ByteCount(state)), and \(ByteCount(free)) are free "
        + "at '\(path)'; make room, choose another disk with --output, or a technique that trains less"
    case .resultDiskExceeded(let needed, let free, let path):
      "the trained values need \(ByteCount(needed)) in the daemon's directory until the adapter is written, and "
        + "\(ByteCount(free)) are free at '\(path)'; make room there, or choose a technique that trains less"
    case .backboneMismatch(let adapter, let expected, let found, let model):
      "adapter '\(adapter)' was trained on the backbone \(expected.prefix(16)) and '\(model)' is "
        + "\(found.prefix(16)); pass the right one with --model"
    case .notResumable(let path, let detail): "'\(path)' cannot be resumed: \(detail)"
    case .inputOutput(let path, let detail): "'\(path)': \(detail)"
    case .interrupted(let runDirectory, let step, let steps):
      "stopped after step \(step) of \(steps); go on with: hearth train --resume '\(runDirectory)'"
    }
  }
}
