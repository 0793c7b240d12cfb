import ComputeRuntime
import FoundationEssentials

/// A worker process that measures on request: ours, or PyTorch's.
final class MeasuringProcess {
  /// Longest that a worker may take for an answer, set-up included.
  static let secondsToAnswer = 900.0

  /// What it said of itself.
  let ready: TechniqueWorkerService.Ready
  private let child: ChildProcess
  private let command: String

  /// Starts a program and waits until it is ready.
  init(_ program: String, _ arguments: [String]) throws {
    command = ([program] + arguments).joined(separator: " ")
    guard let child = ChildProcess(program, arguments) else {
      throw RunFailure.missingInput(role: "worker", path: program, detail: "it cannot be started")
    }
    self.child = child
    ready = try Self.read(child, command, as: TechniqueWorkerService.Ready.self)
  }

  /// The number by which the system knows it.
  var identifier: Int32 { child.identifier }

  /// Sends one command and returns its answer.
  func ask<Answer: Decodable>(_ word: String, as type: Answer.Type) throws -> Answer {
    guard child.write(word + "\n") else { throw Self.ended(command) }
    return try Self.read(child, command, as: type)
  }

  /// Ends it.
  func close() {
    _ = child.write("quit\n")
    child.endInput()
    _ = child.wait()
  }

  private static func read<Answer: Decodable>(
    _ child: ChildProcess, _ command: String, as type: Answer.Type
  ) throws -> Answer {
    guard let line = child.line(seconds: secondsToAnswer) else { throw ended(command) }
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    guard let answer = try? decoder.decode(type, from: Data(line.utf8)) else {
      throw RunFailure.badInput(
        role: "worker's answer", path: command, detail: "it said '\(line.prefix(200))'")
    }
    return answer
  }

  private static func ended(_ command: String) -> RunFailure {
    .inputOutput(
      path: command, detail: "the worker ended without an answer; run this command to see what it says")
  }
}
