import CryptoPrimitives
import Determinism
import HearthStorage
import HouseholdTrust
import Logging
import MeshModel
import MeshPeer
import MeshProtocol
import MeshTransport
import PeerDiscovery
import SecureChannel

/// What a daemon knows of its open invitation and of the devices that wait for an answer.
struct Invitations: Sendable {
  /// The command that shows an open code, and hears of the devices that use it.
  struct Command: Sendable {
    let number: UInt64
    let request: LocalControlRequest
    let isAdmin: Bool
    let discriminator: UInt16
  }

  /// How long tokens are offered after a device has asked.
  static let tokenOffer: Duration = .seconds(15)

  var command: Command?
  var lastNumber: UInt64 = 0
  var waiting: [DeviceID: PairingRequest] = [:]
  /// Until when open tokens are announced; nil while nobody asks.
  var offerEnd: MonotonicInstant?
}

extension HouseholdDaemon {
  /// Opens an invitation; one by code stays open as long as the command that shows it.
  func invite(_ request: LocalControlRequest, _ message: ControlRequest) async throws {
    guard peer.household.isAdmin else { throw HouseholdFailure.notAdmin("inviting a device") }
    if desk.withWindow({ [now = DeviceClocks.now().sinceBoot] in $0.isShut(at: now) }) {
      throw HouseholdFailure.refused(
        "\(PairingLimits.failures) wrong codes were typed within an hour; wait until that is an hour ago, and look "
          + "who is on the network")
    }
    var entropy = SystemEntropy()
    var event = ControlEvent(.invited)
    event.port = Int(doors.transport.localPort)
    if message.token == true {
      event.invitation = try openToken(isAdmin: message.admin ?? false, entropy: &entropy)
      event.seconds = Int(PairingLimits.tokenTime.inSeconds)
      try await request.answer(ControlCoding.line(event))
      return
    }
    closeInvitation("another 'hearth invite' took the place of this one")
    let code = PairingCode(entropy: &entropy)
    // 0 is what a device says that has found none.
    let discriminator = 1 + UInt16(entropy.integer(as: UInt32.self) % UInt32(Beacon.discriminatorLimit))
    event.invitation = code.shown()
    event.seconds = Int(PairingLimits.codeTime.inSeconds)
    let now = DeviceClocks.now().sinceBoot
    desk.withWindow { $0.open(code.copy(), discriminator: discriminator, at: now) }
    invitations.lastNumber += 1
    let command = Invitations.Command(
      number: invitations.lastNumber, request: request, isAdmin: message.admin ?? false,
      discriminator: discriminator)
    invitations.command = command
    handle(.pairing(discriminator))
    try? await request.answer(ControlCoding.line(event))
    await request.closed()
    if invitations.command?.number == command.number { endInvitation() }
  }

  /// Ends the open code and tells its command why.
  func closeInvitation(_ reason: String) {
    guard let command = invitations.command else { return }
    endInvitation()
    var event = ControlEvent(.failed)
    event.message = reason
    event.reason = ExitReason.unreachable.rawValue
    Task { [request = command.request] in
      try? await request.answer(ControlCoding.line(event))
      await request.finish()
    }
  }

  private func endInvitation() {
    invitations.command = nil
    desk.withWindow { $0.burnCode() }
    for (device, pairing) in invitations.waiting where pairing.token == nil {
      invitations.waiting[device] = nil
      pairing.decline()
    }
    handle(.pairing(nil))
  }

  /// Ends what has run out.
  func watchInvitations() {
    if invitations.command != nil, invitations.waiting.isEmpty,
      desk.withWindow({ [now = DeviceClocks.now().sinceBoot] in $0.discriminator(at: now) }) == nil
    {
      closeInvitation("the code has run out, or three wrong ones were typed; run 'hearth invite' again")
    }
    if let end = invitations.offerEnd, end <= DeviceClocks.now().monotonic {
      invitations.offerEnd = nil
      if invitations.command == nil { handle(.pairing(nil)) }
    }
  }

  /// Announces open tokens for a while when a device asks for invitations: for a whole day would cost every device
  /// on the network power.
  func offerTokens(to bytes: [UInt8]) {
    guard invitations.command == nil, let question = try? Beacon.decode(bytes),
      question.beacon.kind == .pairingQuestion,
      desk.withWindow({ [now = DeviceClocks.now().sinceBoot] in !$0.openTokens(at: now).isEmpty })
    else { return }
    if invitations.offerEnd == nil { handle(.pairing(0)) }
    invitations.offerEnd = DeviceClocks.now().monotonic.advanced(by: Invitations.tokenOffer)
  }

  // MARK: - Tokens

  private func openToken(isAdmin: Bool, entropy: inout SystemEntropy) throws -> String {
    let token = InviteToken(household: peer.household.id, admin: peer.own, entropy: &entropy)
    let text = token.text()
    let now = DeviceClocks.wallSeconds()
    var bytes = Array(text.utf8)
    let stored = StoredInvite(
      id: token.id, expiry: now + UInt64(PairingLimits.tokenTime.inSeconds), makesAdmin: isAdmin,
      token: SecretBytes(wiping: &bytes))
    let hasRoom = try doors.directory.updateInvites { book in
      book.expire(now: now)
      return book.open(stored)
    }
    guard hasRoom else {
      throw HouseholdFailure.refused(
        "\(PairingLimits.openTokens) invite tokens are open; wait until one is used or a day old")
    }
    let start = DeviceClocks.now().sinceBoot
    _ = desk.withWindow { $0.open(token.copy(), at: start) }
    return text
  }

  /// Puts a wrong guess on the disk, on whatever thread it was made; false when that cannot be done.
  static func keepFailure(in directory: HouseholdDirectory, log: Logger) -> Bool {
    do {
      let now = DeviceClocks.wallSeconds()
      try directory.updateInvites { book in
        book.expire(now: now)
        book.noteFailure(at: now)
      }
      return true
    } catch {
      log.warning("guess-not-stored", metadata: ["error": "\(error)"])
      return false
    }
  }

  /// Opens the tokens again that were kept when the daemon ended, and counts the wrong guesses of its last hour.
  func restoreInvitations() {
    do {
      var book = try doors.directory.inviteBook()
      let now = DeviceClocks.wallSeconds()
      book.expire(now: now)
      let failures = book.failures.map { failure in
        // One from the future shows that the clock was set back: it counts as new.
        DeviceClocks.now().sinceBoot.advanced(by: .seconds(-Int64(clamping: now - min(now, failure))))
      }
      desk.withWindow { $0.restore(failures: failures) }
      for invite in book.invites {
        let text = invite.token.withUnsafeBytes { String(decoding: $0, as: UTF8.self) }
        let token = try InviteToken(text: text)
        // A clock that was set back never makes a token live longer than a new one.
        let left = min(
          Duration.seconds(Int64(clamping: invite.expiry - min(now, invite.expiry))), PairingLimits.tokenTime)
        let start = DeviceClocks.now().sinceBoot
        _ = desk.withWindow { $0.open(token.copy(), end: start.advanced(by: left), at: start) }
      }
    } catch {
      log.warning("invitations-not-restored", metadata: ["error": "\(error)"])
    }
  }

  // MARK: - Devices that ask

  /// A device has proved to know an invitation: the person decides, or has decided by making a token.
  func ask(_ pairing: PairingRequest) async {
    if let token = pairing.token { return await redeem(token, pairing) }
    guard let command = invitations.command else { return pairing.decline() }
    let device = DeviceID(of: pairing.request.signingKey)
    invitations.waiting[device] = pairing
    log.info("asked", metadata: ["peer": "\(pairing.request.name) (\(device.short))"])
    Task {
      if let failure = await pairing.end() { await giveUp(device, pairing, failure) }
    }
    var event = ControlEvent(.asked)
    event.name = pairing.request.name
    event.device = device.description
    event.address = "\(pairing.remote)"
    try? await command.request.answer(ControlCoding.line(event))
  }

  /// A token is good for one device; on the disk it is gone before that device is in the log.
  private func redeem(_ id: [UInt8], _ pairing: PairingRequest) async {
    do {
      guard let invite = try doors.directory.updateInvites({ $0.take(id: id) }) else {
        return pairing.decline()
      }
      _ = await admit(pairing, isAdmin: invite.makesAdmin)
    } catch {
      log.error("admission", metadata: ["peer": "\(pairing.request.name)", "error": "\(error)"])
      pairing.decline()
    }
  }

  /// The device did not wait for the answer.
  private func giveUp(_ device: DeviceID, _ pairing: PairingRequest, _ failure: PairingFailure) async {
    guard invitations.waiting[device] === pairing else { return }
    invitations.waiting[device] = nil
    closeInvitation(
      "'\(pairing.request.name)' did not wait for the answer (\(failure)); run 'hearth invite' again")
  }

  /// The person's answer.
  func decide(_ request: LocalControlRequest, _ message: ControlRequest) async throws {
    guard let device = message.device,
      let key = invitations.waiting.keys.first(where: { $0.description == device }),
      let pairing = invitations.waiting.removeValue(forKey: key), let command = invitations.command
    else {
      throw HouseholdFailure.refused("no device waits for an answer; it may have given up, let it join again")
    }
    var event: ControlEvent
    if message.accept == true {
      event = await admit(pairing, isAdmin: command.isAdmin)
    } else {
      pairing.decline()
      log.info("admission", metadata: ["peer": "\(pairing.request.name)", "outcome": "declined"])
      event = ControlEvent(.declined)
    }
    event.name = pairing.request.name
    event.device = device
    invitations.command = nil
    handle(.pairing(nil))
    try? await command.request.answer(ControlCoding.line(event))
    await command.request.finish()
    try await request.answer(ControlCoding.line(event))
  }

  private func admit(_ pairing: PairingRequest, isAdmin: Bool) async -> ControlEvent {
    var household = peer.household
    var entropy = SystemEntropy()
    var event = ControlEvent(.admitted)
    let name = pairing.request.name
    do throws(TrustFailure) {
      let entries = try household.admit(
        pairing.request, binding: pairing.binding, isAdmin: isAdmin, entropy: &entropy)
      handle(.trust(entries))
      if let storeFailure {
        pairing.decline()
        event = ControlEvent(.failed)
        event.message = storeFailure.description
      } else if let failure = await pairing.welcome(Welcome(peer.household.log)) {
        event = ControlEvent(.failed)
        event.message =
          "'\(name)' is in the household's log but did not confirm (\(failure)); if it does not appear in "
          + "'hearth peers', run 'hearth revoke' for it and invite it again"
      }
    } catch {
      pairing.decline()
      event = ControlEvent(.failed)
      event.message = error.description
    }
    log.info("admission", metadata: ["peer": "\(name)", "outcome": "\(event.event.rawValue)"])
    return event
  }
}
