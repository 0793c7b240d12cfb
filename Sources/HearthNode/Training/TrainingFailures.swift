import FineTuning

extension TrainingFailure: UserFacingFailure {
  /// Decides the exit code.
  package var reason: ExitReason {
    switch self {
    case .activationOverflow, .diverged: .badData
    case .activationsMissing, .cache: .inputOutput
    case .foreignState: .mismatch
    }
  }
}

extension AdapterFailure: UserFacingFailure {
  /// Decides the exit code.
  package var reason: ExitReason {
    switch self {
    case .unreadable, .tensor: .badData
    case .damaged: .mismatch
    }
  }
}

extension SideNetworkFailure: UserFacingFailure {
  /// Decides the exit code.
  package var reason: ExitReason { .usage }
}
