import FoundationEssentials

/// What a command asks of the daemon: one JSON line.
package struct ControlRequest: Codable, Sendable, Equatable {
  /// The commands.
  package enum Command: String, Codable, Sendable {
    case status
    case diagnosis
    case links
    case invite
    case answer
    case revoke
    case promote
    case demote
    case recover
    case leave
    case submit
    case jobs
    case watchJob
    case stopJob
    case adoptJob
    case pauseDevice
    case resumeDevice
  }

  /// What to do.
  package var command: Command
  /// Go on telling (`status`).
  package var watch: Bool?
  /// An invite token in place of a code (`invite`).
  package var token: Bool?
  /// Whether the new device may admit and remove others (`invite`).
  package var admin: Bool?
  /// Which device wants to join (`answer`), or which is meant (`revoke`, `promote`, `demote`).
  package var device: String?
  /// The device was lost or stolen (`revoke`).
  package var lost: Bool?
  /// The recovery phrase as typed (`recover`).
  package var phrase: String?
  /// Devices that are removed on the way (`recover`).
  package var devices: [String]?
  /// The person's answer (`answer`).
  package var accept: Bool?
  /// What is to be trained (`submit`).
  package var submission: JobSubmission?
  /// Which job is meant, 32 hexadecimal digits (`watchJob`, `stopJob`, `adoptJob`).
  package var job: String?
  /// The person's words (`pauseDevice`).
  package var reason: String?

  /// A request.
  package init(_ command: Command) { self.command = command }
}

/// What the daemon tells a command: JSON lines, told apart by `event`.
package struct ControlEvent: Codable, Sendable, Equatable {
  /// The events.
  package enum Kind: String, Codable, Sendable {
    case status
    case diagnosis
    case links
    case invited
    case asked
    case admitted
    case declined
    case failed
    case done
    case submitted
    case jobs
    case job
  }

  /// Which event.
  package var event: Kind
  /// The household as this device sees it (`status`).
  package var status: HouseholdReport?
  /// What the daemon sees of the network (`diagnosis`).
  package var diagnosis: MeshDiagnosis?
  /// What the daemon measured of its links (`links`).
  package var links: LinkSurveyReport?
  /// The port where devices that join are received (`invited`).
  package var port: Int?
  /// The code or token to pass on (`invited`).
  package var invitation: String?
  /// How long it is good (`invited`).
  package var seconds: Int?
  /// The new device's name (`asked`, `admitted`).
  package var name: String?
  /// The new device (`asked`, `admitted`).
  package var device: String?
  /// Where it is seen (`asked`).
  package var address: String?
  /// How many devices were told (`done` of `leave`).
  package var told: Int?
  /// The new job's id (`submitted`).
  package var job: String?
  /// All jobs that the daemon knows (`jobs`).
  package var jobs: [JobReport]?
  /// Where a job is (`job`).
  package var report: JobReport?
  /// Whether this device takes part in jobs (`done` of `pauseDevice` and `resumeDevice`).
  package var pause: PauseReport?
  /// Why not (`failed`).
  package var message: String?
  /// The exit code that a command ends with (`failed`).
  package var reason: Int32?

  /// An event.
  package init(_ event: Kind) { self.event = event }
}

extension ControlEvent {
  /// What a person reads of an invitation.
  package var text: String {
    switch event {
    case .invited:
      let code = invitation ?? ""
      let minutes = (seconds ?? 0) / 60
      return code.hasPrefix("hearth1")
        ? code : "code \(code), good for \(minutes) minutes; on the other device: hearth join \(code)"
    case .asked:
      return
        "'\(name ?? "")' at \(address ?? "") wants to join; its fingerprint is \(fingerprint(device ?? ""))"
    case .admitted: return "'\(name ?? "")' is in the household"
    default: return message ?? event.rawValue
    }
  }
}

/// Lines of the local socket.
enum ControlCoding {
  static func line(_ value: some Encodable) -> [UInt8] {
    do {
      return Array(try jsonLine(value).utf8)
    } catch {
      preconditionFailure("a control message cannot be written: \(error)")
    }
  }

  static func decode<Value: Decodable>(_ type: Value.Type, _ line: [UInt8]) throws -> Value {
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    decoder.nonConformingFloatDecodingStrategy = .convertFromString(
      positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
    return try decoder.decode(type, from: Data(line))
  }
}
