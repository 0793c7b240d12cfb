import ComputeRuntime
import CryptoPrimitives
import Determinism
import HouseholdTrust
package import MeshModel
package import MeshTransport
import PeerDiscovery
import SecureChannel

/// Joins this device to a household: finds who invites, proves the code or token, and keeps what comes back.
package struct HouseholdJoin: Sendable {
  /// What happens on the way, for the person who waits.
  package enum Progress: Sendable, Equatable {
    /// This device's new identity, which the inviting device shows too.
    case identity(DeviceID)
    /// Devices with an open invitation are looked for.
    case searching
    /// An address is tried.
    case trying(NetworkAddress)
    /// An address did not lead to a household.
    case failed(NetworkAddress, String)

    /// A line for a person.
    package var text: String? {
      switch self {
      case .identity(let device):
        "this device is \(fingerprint(device.description)); the other one shows it too"
      case .searching: "looking for a device with an open invitation"
      case .trying(let address): "asking \(address); say yes there"
      case .failed(let address, let reason): "\(address) did not do: \(reason)"
      }
    }
  }

  private let invitation: String
  private let name: String
  private let address: StaticPeer?
  private let searchTime: Duration
  private let office: HouseholdOffice
  private let keys: DeviceKeys
  private let isToken: Bool

  /// Checks what was typed before anything is sent; without a host, whoever invites is looked for.
  package init(
    invitation: String, name: String, host: String?, port: UInt16?, searchTime: Duration,
    office: HouseholdOffice
  ) throws {
    self.invitation = invitation
    self.name = name
    address = host.map { StaticPeer(host: $0, port: port ?? MeshPaths.defaultPort) }
    self.searchTime = searchTime
    self.office = office
    try office.requireNone()
    if invitation.lowercased().hasPrefix("hearth1") {
      _ = try InviteToken(text: invitation)
      isToken = true
    } else {
      guard PairingCode(typed: invitation) != nil else {
        throw HouseholdFailure.notAnInvitation(invitation)
      }
      isToken = false
    }
    var entropy = SystemEntropy()
    keys = DeviceKeys(entropy: &entropy)
    guard isValidDeviceName(name) else {
      throw TrustFailure.invalidName(byteCount: name.utf8.count)
    }
  }

  /// Joins; nothing is kept on this device unless it succeeds.
  package func run(progress: @escaping @Sendable (Progress) -> Void) throws -> HouseholdSummary {
    HouseholdSummary(try household(progress), place: office.place)
  }

  private func household(_ progress: @escaping @Sendable (Progress) -> Void) throws -> Household {
    progress(.identity(keys.device))
    guard let address else { return try waitForTask { try await search(progress) } }
    let addresses = resolvedAddresses(of: address)
    guard let last = addresses.last else { throw HouseholdFailure.badAddress("\(address)") }
    for candidate in addresses.dropLast() {
      progress(.trying(candidate))
      do { return try join(at: candidate, discriminator: 0) } catch {
        if Self.isFinal(error) || error.isWrongCode { throw error }
        progress(.failed(candidate, error.description))
      }
    }
    progress(.trying(last))
    return try join(at: last, discriminator: 0)
  }

  private func search(_ progress: @escaping @Sendable (Progress) -> Void) async throws -> Household {
    var entropy = SystemEntropy()
    progress(.searching)
    let search = await InvitationSearch.start(
      own: keys.device, acceptsAny: isToken, time: searchTime, seed: entropy.integer())
    var lastFailure: JoinFailure?
    var wrongFor: Set<UInt16> = []
    for await offer in search.offers where isToken || !wrongFor.contains(offer.discriminator) {
      progress(.trying(offer.address))
      switch await attempt(offer) {
      case .success(let household):
        await search.stop()
        return household
      case .failure(let failure):
        if Self.isFinal(failure) {
          await search.stop()
          throw failure
        }
        if failure.isWrongCode {
          // The same invitation at another address would cost a second guess; a neighbour's may be open too.
          wrongFor.insert(offer.discriminator)
          await search.shorten(to: Self.otherInvitationTime)
        }
        if lastFailure?.isWrongCode != true { lastFailure = failure }
        progress(.failed(offer.address, failure.description))
      }
    }
    await search.stop()
    if let lastFailure { throw lastFailure }
    throw HouseholdFailure.noInviterFound(seconds: Int(searchTime.inSeconds))
  }

  /// A pairing takes as long as a person thinks, so it has a thread of its own.
  private func attempt(_ offer: PairingOffer) async -> Result<Household, JoinFailure> {
    await withCheckedContinuation { continuation in
      OperatingSystemThread.detached(name: "hearth-join") {
        do throws(JoinFailure) {
          let household = try join(at: offer.address, discriminator: offer.discriminator)
          continuation.resume(returning: .success(household))
        } catch {
          continuation.resume(returning: .failure(error))
        }
      }
    }
  }

  private func join(at address: NetworkAddress, discriminator: UInt16) throws(JoinFailure) -> Household {
    var entropy = SystemEntropy()
    let joiner = PairingJoiner(
      by: secret(), keys: keys, name: name, discriminator: discriminator, at: DeviceClocks.now().sinceBoot,
      entropy: &entropy)
    do throws(PairingDialFailure) {
      return try PairingDialler.join(at: address, joiner) { try office.keep($0) }
    } catch {
      throw error == .pairing(.brokenOff) ? .turnedAway(address) : .pairing(error)
    }
  }

  /// The secret anew for each attempt, since each uses its own up.
  private func secret() -> PairingSecret {
    if isToken {
      guard let token = try? InviteToken(text: invitation) else {
        preconditionFailure("the token was read before")
      }
      return .token(token)
    }
    guard let code = PairingCode(typed: invitation) else {
      preconditionFailure("the code was read before")
    }
    return .code(code)
  }

  /// Whether trying elsewhere is of no use.
  private static func isFinal(_ failure: JoinFailure) -> Bool {
    switch failure {
    case .pairing(.pairing(.refused(.declined))), .pairing(.notStored): true
    default: false
    }
  }

  /// How long other invitations are still looked for after a code was wrong for one.
  private static let otherInvitationTime: Duration = .seconds(3)
}

/// Why this device could not join at an address.
package enum JoinFailure: UserFacingFailure, Equatable {
  /// The pairing failed.
  case pairing(PairingDialFailure)
  /// The device there closed the connection, as one does that has no open invitation.
  case turnedAway(NetworkAddress)

  /// Decides the exit code.
  package var reason: ExitReason {
    switch self {
    case .pairing(let failure): failure.reason
    case .turnedAway: .unreachable
    }
  }

  /// What is wrong and what to do.
  package var description: String {
    switch self {
    case .pairing(let failure): failure.description
    case .turnedAway(let address):
      "the device at \(address) closed the connection, as one does whose invitation was used or has run out; "
        + "run 'hearth invite' there and use the new code"
    }
  }

  fileprivate var isWrongCode: Bool {
    self == .pairing(.pairing(.wrongCode)) || self == .pairing(.pairing(.refused(.wrongCode)))
  }
}
