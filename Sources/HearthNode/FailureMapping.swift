/// How a failure ends a command: one line for the person, a code for scripts.
package struct CommandEnd: Sendable, Equatable {
  /// One line that says what was wrong, where, and the next step.
  package var message: String
  /// Decides the exit code.
  package var reason: ExitReason

  /// The end that `error` brings: a failure that says itself how to end, or else a defect.
  package init(_ error: any Error) {
    if let failure = error as? any UserFacingFailure {
      message = Self.oneLine(failure.description)
      reason = failure.reason
    } else {
      message = Self.oneLine("this is a defect of Hearth, please report it: \(error)")
      reason = .internalDefect
    }
  }

  /// Paths and file contents may hold line breaks and control characters; a message stays one line.
  private static func oneLine(_ text: String) -> String {
    String(text.unicodeScalars.map { $0.value < 32 || $0.value == 127 ? " " : Character($0) })
  }
}

extension CommandEnd: Encodable {
  private enum Keys: String, CodingKey { case event, message, reason, exitCode }

  /// The last line of a failed command under `--json`.
  package func encode(to encoder: any Encoder) throws {
    var keys = encoder.container(keyedBy: Keys.self)
    try keys.encode("failed", forKey: .event)
    try keys.encode(message, forKey: .message)
    try keys.encode("\(reason)", forKey: .reason)
    try keys.encode(reason.rawValue, forKey: .exitCode)
  }
}
