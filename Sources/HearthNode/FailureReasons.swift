import ActivationCache
import FineTuning
import Glibc
import HearthStorage
import LanguageModels

// Each part has its own failures; only here is it decided which exit code each one means.

extension DataFailure: UserFacingFailure {
  /// Columns are named on the command line; everything else is the file's.
  package var reason: ExitReason {
    switch self {
    case .unknownColumn, .undecidedColumn, .columnUsedTwice: .usage
    case .emptyFile, .unsupportedEncoding, .tooManyRows, .malformedRow, .noUsableRows, .oneLabel,
      .tooManyLabels, .unknownLabel, .emptySplit:
      .badData
    }
  }
}

extension FileFailure: UserFacingFailure {
  private static let readingOperations = [
    "open", "read", "map", "examine", "list directory", "open directory",
  ]

  /// Told by the system's error: what is not there, what may not be made, and what broke midway.
  package var reason: ExitReason {
    switch self {
    case .system(let operation, _, let code):
      if isDiskFull { return .inputOutput }
      if isMissing { return .missingInput }
      guard [EACCES, EPERM, EROFS].contains(code) else { return .inputOutput }
      return Self.readingOperations.contains(operation) ? .missingInput : .cannotCreateOutput
    case .wrongKind: return .missingInput
    case .tooLarge, .shortened: return .badData
    case .locked: return .insufficientResources
    }
  }
}

extension CheckpointFailure: UserFacingFailure {
  /// A file that is not there is missing; a file with the wrong content is bad data.
  package var reason: ExitReason {
    switch self {
    case .missingShard, .unreadable: .missingInput
    default: .badData
    }
  }
}

extension ModelFailure: UserFacingFailure {
  /// A directory that lacks a file is missing it; one with the wrong content is bad data.
  package var reason: ExitReason {
    switch self {
    case .missingFile: .missingInput
    case .foreignWeights, .configuration, .tokenizer: .badData
    case .checkpoint(let failure): failure.reason
    }
  }
}

extension ConfigurationFailure: UserFacingFailure {
  /// A configuration that cannot be used is bad data.
  package var reason: ExitReason { .badData }
}

extension TokenizerFailure: UserFacingFailure {
  /// A length that leaves no room is the command line's; the rest is the files'.
  package var reason: ExitReason {
    if case .maximumLength = self { .usage } else { .badData }
  }
}

extension CacheFailure: UserFacingFailure {
  /// A cache of another run is a mismatch; a full or broken disk is input and output.
  package var reason: ExitReason {
    switch self {
    case .foreign, .unsupportedVersion, .notACache: .mismatch
    case .diskFull, .storage, .tooManyShards: .inputOutput
    case .locked: .insufficientResources
    }
  }
}

extension TrainingFailure: UserFacingFailure {
  /// Decides the exit code.
  package var reason: ExitReason {
    switch self {
    case .activationOverflow, .diverged: .badData
    case .activationsMissing: .inputOutput
    case .cache(let failure): failure.reason
    case .exchange: .unreachable
    case .foreignState, .malformedBoundary: .mismatch
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

extension PEFTFailure: UserFacingFailure {
  /// Decides the exit code.
  package var reason: ExitReason {
    switch self {
    case .unknownTensor, .wrongShape: .mismatch
    case .unreadable, .setting, .halfPair, .noPairs: .badData
    }
  }
}

extension MergeFailure: UserFacingFailure {
  /// Decides the exit code.
  package var reason: ExitReason { .badData }
}

extension SideNetworkFailure: UserFacingFailure {
  /// Decides the exit code.
  package var reason: ExitReason { .usage }
}
