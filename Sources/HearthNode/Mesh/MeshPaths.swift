import Glibc

/// Where the daemon keeps things, and where its local socket is.
package enum MeshPaths {
  /// The port that a daemon takes unless told otherwise; it is the same for TCP and UDP.
  package static let defaultPort: UInt16 = 24326

  /// The local socket of the daemon of a state directory.
  ///
  /// It lies in the state directory, which only its owner can enter; a path that is too long for a socket goes to
  /// XDG_RUNTIME_DIR, named after the state directory.
  package static func controlSocket(stateDirectory: String, environment: [String: String]) -> String {
    let path = "\(stateDirectory)/control"
    guard path.utf8.count > longestSocketPath, let runtime = environment["XDG_RUNTIME_DIR"] else {
      return path
    }
    var sum: UInt64 = 0xCBF2_9CE4_8422_2325
    for byte in stateDirectory.utf8 { sum = (sum ^ UInt64(byte)) &* 0x100_0000_01B3 }
    return "\(runtime)/hearth-\(String(sum, radix: 16)).control"
  }

  /// sockaddr_un has 108 bytes, the last of which ends the path.
  private static let longestSocketPath = 107
}

/// Why a household command cannot do what it was asked.
package enum HouseholdFailure: UserFacingFailure, Equatable {
  /// Neither HEARTH_HOME, XDG_STATE_HOME nor HOME is set.
  case noStateDirectory
  /// A command of an admin on a device that is none.
  case notAdmin(String)
  /// No device of the household goes by this name.
  case unknownDevice(String)
  /// Several devices go by this name.
  case ambiguousDevice(String, [String])
  /// The text is neither a code nor a token.
  case notAnInvitation(String)
  /// Nobody with an open invitation was found.
  case noInviterFound(seconds: Int)
  /// The daemon refused.
  case refused(String)
  /// An address that cannot be read.
  case badAddress(String)
  /// The person said no to a device.
  case declined(String)
  /// An invitation ended without a new device; the text says why.
  case invitationEnded(String)
  /// A question to the person got no answer, since the input has ended.
  case noAnswerTyped(String)

  /// Decides the exit code.
  package var reason: ExitReason {
    switch self {
    case .noStateDirectory: .cannotCreateOutput
    case .notAdmin, .refused, .declined: .notPermitted
    case .unknownDevice, .ambiguousDevice, .notAnInvitation, .badAddress, .noAnswerTyped: .usage
    case .noInviterFound, .invitationEnded: .unreachable
    }
  }

  /// One line: what was wrong and the next step.
  package var description: String {
    switch self {
    case .noStateDirectory:
      "there is no place for this device's keys: set HEARTH_HOME to a directory that only you can read"
    case .notAdmin(let what):
      "\(what) takes an admin's device, and this is none; do it on the device that invited this one"
    case .unknownDevice(let name): "no device of the household is called '\(name)'; 'hearth peers' lists them"
    case .ambiguousDevice(let name, let choices):
      "'\(name)' may be \(choices.joined(separator: " or ")); use the longer name"
    case .notAnInvitation(let text):
      "'\(text.prefix(20))' is neither a code of 8 digits nor an invite token; run 'hearth invite' on a device of the household"
    case .noInviterFound(let seconds):
      "no device with an open invitation was found in \(seconds) s; run 'hearth up' and 'hearth invite' there, check that both are on one network, or give its address with --address"
    case .refused(let why), .invitationEnded(let why): why
    case .declined(let name): "'\(name)' was turned away; run 'hearth invite' again for another try"
    case .noAnswerTyped(let question):
      "nobody answered '\(question)'; run the command in a terminal, or answer beforehand with --yes"
    case .badAddress(let text): "'\(text)' is no address; write HOST:PORT, for instance 192.168.1.20:24326"
    }
  }
}
