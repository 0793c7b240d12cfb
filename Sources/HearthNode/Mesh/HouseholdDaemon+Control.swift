import CryptoPrimitives
import Determinism
import HearthStorage
import HouseholdTrust
import MeshModel
import MeshProtocol
import MeshTransport
import SecureChannel

extension HouseholdDaemon {
  /// Answers one command; ends when the answer does or the command has gone.
  func answer(_ request: LocalControlRequest) async {
    do {
      let message = try ControlCoding.decode(ControlRequest.self, request.line)
      switch message.command {
      case .status: try await answerStatus(request, watch: message.watch ?? false)
      case .invite: try await invite(request, message)
      case .answer: try await decide(request, message)
      case .revoke: try await revoke(request, message)
      case .leave: try await leaveHousehold(request)
      }
    } catch {
      var event = ControlEvent(.failed)
      event.message = "\(error)"
      try? await request.answer(ControlCoding.line(event))
    }
    await request.finish()
  }

  private func answerStatus(_ request: LocalControlRequest, watch isWatching: Bool) async throws {
    let (id, reports) = watch()
    defer { endWatch(id) }
    // A command that has gone must not be kept until something happens.
    let closed = Task { [weak self] in
      await request.closed()
      await self?.endWatch(id)
    }
    defer { closed.cancel() }
    for await report in reports {
      var event = ControlEvent(.status)
      event.status = report
      try await request.answer(ControlCoding.line(event))
      if !isWatching { return }
    }
  }

  // MARK: - Invitations

  private func invite(_ request: LocalControlRequest, _ message: ControlRequest) async throws {
    guard peer.household.isAdmin else { throw HouseholdFailure.notAdmin("inviting a device") }
    var entropy = SystemEntropy()
    var event = ControlEvent(.invited)
    if message.token == true {
      event.invitation = try openToken(isAdmin: message.admin ?? false, entropy: &entropy)
      event.seconds = Int(PairingLimits.tokenTime.inSeconds)
      try await request.answer(ControlCoding.line(event))
      return
    }
    let code = PairingCode(entropy: &entropy)
    let discriminator = 1 + entropy.integer(as: UInt16.self) % Preamble.largestDiscriminator
    event.invitation = code.shown()
    event.seconds = Int(PairingLimits.codeTime.inSeconds)
    let copy = code.copy()
    desk.withWindow { [now = sinceBootNow()] window in
      window.open(copy, discriminator: discriminator, at: now)
    }
    handle(.pairing(discriminator))
    try await request.answer(ControlCoding.line(event))
    inviting = InvitingCommand(request: request, isAdmin: message.admin ?? false)
    await request.closed()
    inviting = nil
    desk.withWindow { $0.burnCode() }
    handle(.pairing(nil))
  }

  private func openToken(isAdmin: Bool, entropy: inout SystemEntropy) throws -> String {
    let token = InviteToken(household: peer.household.id, admin: peer.own, entropy: &entropy)
    let text = token.text()
    var book = try directory.inviteBook()
    let expiry = DeviceClocks.wallSeconds() + UInt64(PairingLimits.tokenTime.inSeconds)
    var bytes = Array(text.utf8)
    let stored = StoredInvite(
      id: token.id, expiry: expiry, makesAdmin: isAdmin, token: SecretBytes(wiping: &bytes))
    book.expire(now: DeviceClocks.wallSeconds())
    let copy = token.copy()
    let isOpen = desk.withWindow { [now = sinceBootNow()] in $0.open(copy, at: now) }
    guard isOpen, book.open(stored) else {
      throw HouseholdFailure.refused(
        "\(PairingLimits.openTokens) invite tokens are open; wait until one is used or a day old")
    }
    try directory.store(book)
    return text
  }

  /// Opens the tokens again that were kept when the daemon ended.
  func restoreInvitations() {
    do {
      var book = try directory.inviteBook()
      let now = DeviceClocks.wallSeconds()
      book.expire(now: now)
      for invite in book.invites {
        let text = invite.token.withUnsafeBytes { String(decoding: $0, as: UTF8.self) }
        let token = try InviteToken(text: text)
        let left = Duration.seconds(Int64(invite.expiry > now ? invite.expiry - now : 0))
        desk.withWindow { [start = sinceBootNow()] window in
          _ = window.open(token, end: start.advanced(by: left), at: start)
        }
      }
    } catch {
      log.warning("invitations-not-restored", metadata: ["error": "\(error)"])
    }
  }

  /// A device has proved to know an invitation: the person decides, or has decided by making a token.
  func ask(_ pairing: PairingRequest) async {
    let device = DeviceID(of: pairing.request.signingKey)
    guard let inviting else {
      return await admit(pairing, isAdmin: false)
    }
    admissions[device.description] = pairing
    var event = ControlEvent(.asked)
    event.name = pairing.request.name
    event.device = device.description
    event.address = "\(pairing.remote)"
    do {
      try await inviting.request.answer(ControlCoding.line(event))
    } catch {
      pairing.decline()
    }
  }

  private func decide(_ request: LocalControlRequest, _ message: ControlRequest) async throws {
    guard let device = message.device, let pairing = admissions.removeValue(forKey: device) else {
      throw HouseholdFailure.refused("no device waits for an answer; it may have given up, let it join again")
    }
    if message.accept == true {
      await admit(pairing, isAdmin: inviting?.isAdmin ?? false)
    } else {
      pairing.decline()
      try? await inviting?.request.answer(ControlCoding.line(ControlEvent(.declined)))
    }
    try await request.answer(ControlCoding.line(ControlEvent(.done)))
  }

  private func admit(_ pairing: PairingRequest, isAdmin: Bool) async {
    var household = peer.household
    var entropy = SystemEntropy()
    var event = ControlEvent(.admitted)
    event.name = pairing.request.name
    event.device = DeviceID(of: pairing.request.signingKey).description
    do throws(TrustFailure) {
      let entries = try household.admit(
        pairing.request, binding: pairing.binding, isAdmin: isAdmin, entropy: &entropy)
      handle(.trust(entries))
      if let failure = await pairing.welcome(Welcome(peer.household.log)) {
        event.event = .failed
        event.message =
          "\(pairing.request.name) is in the household's log, but did not confirm: \(failure); let it join again, or 'hearth revoke' it"
      }
    } catch {
      pairing.decline()
      event.event = .failed
      event.message = "\(error)"
    }
    log.info(
      "admission", metadata: ["peer": "\(pairing.request.name)", "outcome": "\(event.event.rawValue)"])
    try? await inviting?.request.answer(ControlCoding.line(event))
    await inviting?.request.finish()
  }

  // MARK: - Removal

  private func revoke(_ request: LocalControlRequest, _ message: ControlRequest) async throws {
    guard peer.household.isAdmin else { throw HouseholdFailure.notAdmin("removing a device") }
    let device = try member(named: message.device ?? "")
    var household = peer.household
    var entropy = SystemEntropy()
    let entries = try household.revoke(device, reason: .removed, entropy: &entropy)
    let name = name(of: device)
    handle(.trust(entries))
    var event = ControlEvent(.done)
    event.name = name
    event.device = device.description
    try await request.answer(ControlCoding.line(event))
  }

  private func leaveHousehold(_ request: LocalControlRequest) async throws {
    var household = peer.household
    let entry = try household.leave()
    handle(.trust([entry]))
    try await request.answer(ControlCoding.line(ControlEvent(.done)))
    await request.finish()
    await stop(.left)
    try directory.erase()
  }

  /// The member with this name, id, or start of an id.
  private func member(named text: String) throws(HouseholdFailure) -> DeviceID {
    let log = peer.household.log
    let found = log.members.filter { id in
      log.certificate(of: id)?.name == text
        || (text.count >= 4 && id.description.hasPrefix(text.lowercased()))
    }
    guard let first = found.first else { throw .unknownDevice(text) }
    guard found.count == 1 else { throw .ambiguousDevice(text, found.map { name(of: $0) }) }
    return first
  }
}

/// The command that shows an open code, and hears of the devices that use it.
struct InvitingCommand: Sendable {
  let request: LocalControlRequest
  let isAdmin: Bool
}
