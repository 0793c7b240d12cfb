import AvahiDiscovery
import Glibc
package import HearthStorage
package import HouseholdTrust
package import MeshTransport
package import SecureChannel

// What the failures of the mesh mean for a command.

extension HouseholdStorageFailure: UserFacingFailure {
  /// Decides the exit code.
  package var reason: ExitReason {
    switch self {
    case .file(let failure): failure.reason
    case .noHousehold: .missingInput
    case .alreadyThere, .insideGitWorkTree: .cannotCreateOutput
    case .otherOwner, .openToOthers: .notPermitted
    case .otherMachine: .mismatch
    case .inUse: .insufficientResources
    case .damaged, .newerFormat: .badData
    case .bootCounterExhausted, .testOnlyKey: .badData
    case .readingOnly: .insufficientResources
    }
  }
}

extension LocalControlFailure: UserFacingFailure {
  /// Decides the exit code.
  package var reason: ExitReason {
    switch self {
    case .notRunning, .timedOut, .disconnected: .unreachable
    case .alreadyServed: .insufficientResources
    case .notASocket, .pathTooLong: .cannotCreateOutput
    case .otherUser: .notPermitted
    case .lineTooLong, .notALine: .badData
    case .system(_, let code, _): code == EACCES || code == EPERM ? .notPermitted : .inputOutput
    }
  }
}

extension TransportFailure: UserFacingFailure {
  /// Decides the exit code.
  package var reason: ExitReason { .insufficientResources }
}

extension PairingDialFailure: UserFacingFailure {
  /// Decides the exit code.
  package var reason: ExitReason {
    switch self {
    case .noAnswer, .refused, .system: .unreachable
    case .pairing(let failure): failure.reason
    case .notStored: .cannotCreateOutput
    }
  }
}

extension PairingFailure: UserFacingFailure {
  /// Decides the exit code.
  package var reason: ExitReason {
    switch self {
    case .refused(.closed), .refused(.busy), .timedOut, .brokenOff: .unreachable
    case .refused(.wrongCode), .wrongCode, .wrongToken, .refused(.declined): .notPermitted
    case .otherAdmin, .otherHousehold: .mismatch
    case .invalidName: .usage
    case .malformedPreamble, .malformed, .unexpected, .overLimit, .noise, .record, .unprovenRequest,
      .unprovenWelcome, .notAdmitted:
      .badData
    }
  }
}

extension TrustFailure: UserFacingFailure {
  /// Decides the exit code.
  package var reason: ExitReason {
    switch self {
    case .invalidName, .unknownDevice: .usage
    default: .notPermitted
    }
  }
}

extension RecoveryPhraseFailure: UserFacingFailure {
  /// Decides the exit code.
  package var reason: ExitReason { self == .otherHousehold ? .mismatch : .usage }
}

extension RecoveryFailure: UserFacingFailure {
  /// Decides the exit code.
  package var reason: ExitReason {
    switch self {
    case .phrase(let failure): failure.reason
    case .trust(let failure): failure.reason
    }
  }
}

extension InviteTokenFailure: UserFacingFailure {
  /// Decides the exit code.
  package var reason: ExitReason { .usage }
}
