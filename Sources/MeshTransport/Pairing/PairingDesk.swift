import CryptoPrimitives
package import Determinism
package import HouseholdTrust
package import MeshModel
import NIOCore
package import SecureChannel
import Synchronization

/// Where devices that want to join are received: the open invitations of this device, and who asks for admission.
///
/// One desk serves all pairing connections of a transport, so that many connections get no more guesses than one.
package final class PairingDesk: Sendable {
  /// Pairing connections at once.
  package static let connections = 8

  /// Devices that have proved to know an invitation and wait for a person's answer; for one reader.
  package let requests: AsyncStream<PairingRequest>

  private struct State {
    var window = PairingWindow()
    var trust: TrustSnapshot
    var connections = 0
  }

  private let versions: WireVersions
  private let keepFailure: @Sendable () -> Bool
  private let continuation: AsyncStream<PairingRequest>.Continuation
  private let state: Mutex<State>

  /// A desk of an admin's device, without invitations.
  ///
  /// `keepFailure` puts a wrong guess on the disk, so that a restart gives no new ones; it is called before the guess
  /// is answered. When it cannot (false) the code burns.
  package init(
    trust: TrustSnapshot, versions: WireVersions = .current,
    keepFailure: @escaping @Sendable () -> Bool = { true }
  ) {
    self.versions = versions
    self.keepFailure = keepFailure
    (requests, continuation) = AsyncStream.makeStream(bufferingPolicy: .bufferingOldest(Self.connections))
    state = Mutex(State(trust: trust))
  }

  /// Looks at the invitations, or changes them; instants are of the clock since boot.
  package func withWindow<Value: Sendable>(_ body: (inout PairingWindow) -> sending Value) -> Value {
    state.withLock { state in
      let before = state.window.wrongGuesses
      let value = body(&state.window)
      if state.window.wrongGuesses != before, !keepFailure() { state.window.burnCode() }
      return value
    }
  }

  /// Opens an invitation by code, in place of an earlier one.
  package func open(_ code: consuming PairingCode, discriminator: UInt16) {
    var code: PairingCode? = consume code
    state.withLock { state in
      guard let code = code.take() else { return }
      state.window.open(code, discriminator: discriminator, at: DeviceClocks.now().sinceBoot)
    }
  }

  /// Opens an invitation by token; false when as many are open as may be.
  package func open(_ token: consuming InviteToken, end: MonotonicInstant? = nil) -> Bool {
    var token: InviteToken? = consume token
    return state.withLock { state in
      guard let token = token.take() else { return false }
      return state.window.open(token, end: end, at: DeviceClocks.now().sinceBoot)
    }
  }

  /// From now on this state of the household greets who joins.
  package func update(trust: TrustSnapshot) { state.withLock { $0.trust = trust } }

  /// Takes no more requests.
  package func close() { continuation.finish() }

  /// The inviting side of a new connection; nil when nothing is open, or too many are at it.
  func begin() -> PairingMachine? {
    let trust: TrustSnapshot? = state.withLock { state in
      guard state.connections < Self.connections, state.window.isOpen(at: DeviceClocks.now().sinceBoot) else {
        return nil
      }
      state.connections += 1
      return state.trust
    }
    return trust.map { PairingMachine(desk: self, trust: $0, versions: versions) }
  }

  func end() { state.withLock { $0.connections -= 1 } }

  func ask(_ request: PairingRequest) { continuation.yield(request) }
}

/// A device that asks for admission.
package final class PairingRequest: Sendable {
  /// The keys and the name that it wants to be admitted with.
  package let request: AdmissionRequest
  /// What `Household.admit` needs beside it.
  package let binding: [UInt8]
  /// The id of the invite token that it has; nil when it has typed a code.
  package let token: [UInt8]?
  /// Where it is seen.
  package let remote: NetworkAddress

  private let answer: @Sendable (PairingAnswer) -> Void
  private let outcome: EventLoopFuture<PairingFailure?>

  init(
    request: AdmissionRequest, binding: [UInt8], token: [UInt8]?, remote: NetworkAddress,
    outcome: EventLoopFuture<PairingFailure?>, answer: @escaping @Sendable (PairingAnswer) -> Void
  ) {
    self.request = request
    self.binding = binding
    self.token = token
    self.remote = remote
    self.outcome = outcome
    self.answer = answer
  }

  /// Sends the household with the new device in its log; nil when the device has stored it.
  package func welcome(_ welcome: Welcome) async -> PairingFailure? {
    answer(.welcome(welcome))
    return await end()
  }

  /// Tells the device that the person said no.
  package func decline() { answer(.decline) }

  /// How the pairing ended; nil when the device has stored the household.
  package func end() async -> PairingFailure? {
    do { return try await outcome.get() } catch { return .brokenOff }
  }
}

/// What a person has answered.
enum PairingAnswer: Sendable {
  case welcome(Welcome)
  case decline
}

/// One pairing connection's `PairingInviter`, with the desk's window; used in one event loop.
final class PairingMachine {
  private let desk: PairingDesk
  private var inviter: PairingInviter

  init(desk: PairingDesk, trust: TrustSnapshot, versions: WireVersions) {
    self.desk = desk
    var entropy = SystemEntropy()
    inviter = PairingInviter(trust, versions: versions, at: DeviceClocks.now().sinceBoot, entropy: &entropy)
  }

  deinit { desk.end() }

  /// When to call `tick`.
  var deadline: MonotonicInstant { inviter.deadline }

  /// The id of the token that the other side has proved to have.
  var provenToken: [UInt8]? { inviter.provenToken }

  func receive(_ bytes: [UInt8]) -> [PairingEffect] {
    desk.withWindow { inviter.receive(bytes, &$0, at: DeviceClocks.now().sinceBoot) }
  }

  func tick() -> [PairingEffect] { desk.withWindow { inviter.tick(&$0, at: DeviceClocks.now().sinceBoot) } }

  func breakOff() -> [PairingEffect] { desk.withWindow { inviter.breakOff(&$0) } }

  func perform(_ answer: PairingAnswer) -> [PairingEffect] {
    switch answer {
    case .welcome(let welcome): inviter.welcome(welcome)
    case .decline: desk.withWindow { inviter.decline(&$0) }
    }
  }

  func ask(_ request: PairingRequest) { desk.ask(request) }
}
