import HearthStorage
import HouseholdTrust
import MeshModel

/// A household and this device's place in it, as commands tell it.
package struct HouseholdSummary: Codable, Sendable, Equatable {
  /// The household's id.
  package var household: String
  /// This device's id.
  package var device: String
  /// This device's name.
  package var name: String
  /// Whether this device may invite and remove others.
  package var isAdmin: Bool
  /// Whether this device is still in.
  package var isMember: Bool
  /// How many devices are in.
  package var devices: Int
  /// Whether admins contradict each other, so that only the recovery phrase can decide.
  package var isContested: Bool
  /// Where the keys lie.
  package var stateDirectory: String
  /// The recovery phrase; only once, at the creation.
  package var recoveryPhrase: String?

  init(_ household: Household, place: HouseholdPlace) {
    self.household = household.id.description
    device = household.device.description
    name = household.certificate.name
    isAdmin = household.isAdmin
    isMember = household.isMember
    devices = household.log.members.count
    isContested = household.log.view.isContested
    stateDirectory = place.stateDirectory
  }

  /// What a person reads.
  package var text: String {
    var lines = tableLines([
      ["household:", household],
      ["this device:", "\(name), \(fingerprint(device))"],
      ["may invite:", isAdmin ? "yes" : "no"],
      ["devices:", "\(devices)"],
      ["keys:", stateDirectory],
    ])
    if !isMember {
      lines.append("This device was removed from the household; run 'hearth leave', then join again.")
    }
    if isContested {
      lines.append("Admins removed each other; 'hearth household recover' with the recovery phrase decides.")
    }
    return lines.joined(separator: "\n")
  }
}

extension HouseholdOffice.Creation {
  /// What is told once, the phrase included.
  package borrowing func summary() -> HouseholdSummary {
    var summary = HouseholdSummary(household, place: place)
    summary.recoveryPhrase = phrase.revealed()
    return summary
  }

  /// What a person reads, once.
  package borrowing func text() -> String {
    let summary = summary()
    return """
      \(summary.text)

      Recovery phrase, shown only now:

          \(summary.recoveryPhrase ?? "")

      Write it on paper and keep it away from your devices. It is the only way back when every device that
      may invite is lost.

      Next: 'hearth up' starts this device, 'hearth invite' lets others join.
      """
  }
}

extension HouseholdOffice {
  /// The household as it lies on the disk.
  package func summary() throws -> HouseholdSummary { HouseholdSummary(try household(), place: place) }

  /// Leaves through the daemon or, when it is down, alone and without telling anybody.
  package func leave() throws -> LeaveSummary {
    do {
      var client = try HouseholdClient(ControlRequest(.leave), place: place)
      return LeaveSummary(told: try client.answer().told ?? 0)
    } catch is LocalControlUnavailable {
      let directory = try household()
      if directory.log.members.count > 1, !directory.isRevoked {
        throw HouseholdFailure.refused(
          "the daemon is not running, so nobody would hear of it; run 'hearth up' first, or 'hearth leave --local' "
            + "and then 'hearth revoke' on another device")
      }
      return try leaveLocally()
    }
  }

  /// Forgets the household on this device.
  package func leaveLocally() throws -> LeaveSummary {
    try erase()
    return LeaveSummary(told: 0)
  }
}

/// What `hearth leave` did.
package struct LeaveSummary: Codable, Sendable, Equatable {
  /// How many devices were told.
  package var told: Int

  /// What a person reads.
  package var text: String {
    let others = told == 1 ? "1 device was told" : "\(told) devices were told"
    return "This device has left its household; its keys are gone from the disk. \(others)."
  }
}

/// A change of the household that a command makes: through the daemon, or on the disk while it is down.
package struct HouseholdChange: Sendable {
  private let request: ControlRequest
  private let office: HouseholdOffice

  /// A change of one device.
  package init(
    _ command: ControlRequest.Command, device: String, lost: Bool = false, place: HouseholdPlace
  ) {
    var request = ControlRequest(command)
    request.device = device
    request.lost = lost
    self.request = request
    office = HouseholdOffice(place)
  }

  /// A recovery with the phrase.
  package init(recovering phrase: String, lost: [String], place: HouseholdPlace) {
    var request = ControlRequest(.recover)
    request.phrase = phrase
    request.devices = lost
    self.request = request
    office = HouseholdOffice(place)
  }

  /// The device that is meant, for a question.
  package func shownName() throws -> String {
    let household = try office.household()
    return household.shownName(of: try household.member(named: request.device ?? ""))
  }

  /// Makes the change and writes what came of it.
  package func run(json: Bool) throws {
    let done = try make()
    try OutputStream.standard.write(json ? jsonLine(done) + "\n" : done.text + "\n")
  }

  private func make() throws -> ChangeSummary {
    do {
      var client = try HouseholdClient(request, place: office.place)
      let event = try client.answer()
      return ChangeSummary(
        change: request.command.rawValue, device: event.device, name: event.name, isTold: true)
    } catch is LocalControlUnavailable {
      return try office.change { household, entropy in
        let target = try household.apply(request, entropy: &entropy).target
        return ChangeSummary(
          change: request.command.rawValue, device: target?.description,
          name: target.map { household.shownName(of: $0) }, isTold: false)
      }
    }
  }
}

/// What a change of the household did.
package struct ChangeSummary: Codable, Sendable, Equatable {
  /// revoke, promote, demote or recover.
  package var change: String
  /// The device that was changed.
  package var device: String?
  /// Its name.
  package var name: String?
  /// Whether the daemon tells the others now; otherwise they hear of it at the next `hearth up`.
  package var isTold: Bool

  /// What a person reads.
  package var text: String {
    let what: String
    switch change {
    case "revoke": what = "\(name ?? "") is removed for ever"
    case "promote": what = "\(name ?? "") may invite and remove devices"
    case "demote": what = "\(name ?? "") may not invite and remove devices any more"
    default: what = "This device may invite and remove devices again"
    }
    return isTold
      ? what + "; the others are told now." : what + "; the others hear of it when 'hearth up' runs here."
  }
}
