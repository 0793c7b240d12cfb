import Determinism
import MeshModel

/// An address that might lead to a device, and what came of trying it.
struct Candidate: Sendable {
  let address: NetworkAddress
  /// Who named it last.
  var source: DiscoveryHint.Source
  /// The announcing daemon, if one announced it.
  var instance: InstanceTag?
  /// When anybody last named it.
  var lastHeard: MonotonicInstant
  /// When a session last stood there that this device had dialled.
  var lastGood: MonotonicInstant?
  /// When it was last dialled.
  var lastDialled: MonotonicInstant?
  /// Dials without a session since something last spoke for it.
  var failures = 0
  /// How the last dial ended; nil after success and before the first.
  var outcome: DialOutcome?
  /// When to dial; nil while nothing is planned.
  var due: MonotonicInstant?
  /// Whether a running daemon has announced it since the last dial.
  var isAnnounced = false

  init(_ hint: DiscoveryHint, at now: MonotonicInstant) {
    address = hint.address
    source = hint.source
    instance = hint.instance
    lastHeard = now
    isAnnounced = hint.source.isAnnouncement
  }

  /// Notes that the address was named again; an announcement asks for a dial, but not in any number.
  mutating func hear(_ hint: DiscoveryHint, wanted: Bool, at now: MonotonicInstant) {
    lastHeard = now
    source = hint.source
    instance = hint.instance ?? instance
    guard wanted, hint.source.isAnnouncement else { return }
    let pause =
      outcome?.isFinal == true ? DiscoveryLimits.foreignPause : DiscoveryLimits.announcedRedial
    let earliest = lastDialled.map { max(now, $0.advanced(by: pause)) } ?? now
    due = min(due ?? earliest, earliest)
    failures = 0
    isAnnounced = true
  }

  /// Plans a dial at once, as if nothing had been tried.
  mutating func renew(at now: MonotonicInstant) {
    failures = 0
    due = now
  }

  /// Plans the next dial after one that failed; a final outcome waits for news, or for long.
  mutating func fail(
    _ outcome: DialOutcome, keepsTrying: Bool, generator: inout SeededGenerator, at now: MonotonicInstant
  ) {
    self.outcome = outcome
    isAnnounced = false
    failures += 1
    switch outcome {
    case .thisDevice: due = nil
    case .notOfHousehold, .revoked, .otherDevice:
      due = keepsTrying ? now.advanced(by: DiscoveryLimits.foreignPause) : nil
    case .noAnswer, .refused, .noRoute, .handshakeTimeout, .handshakeClosed, .clone:
      due = now.advanced(by: redialWait(afterFailures: failures, generator: &generator))
    }
  }

  /// Better addresses first: those that worked, the latest first, then those that a running daemon announces.
  func isBetter(than other: Candidate) -> Bool {
    let (mine, others) = (lastGood?.nanoseconds ?? .min, other.lastGood?.nanoseconds ?? .min)
    if mine != others { return mine > others }
    if isAnnounced != other.isAnnounced { return isAnnounced }
    if failures != other.failures { return failures < other.failures }
    if lastHeard != other.lastHeard { return lastHeard > other.lastHeard }
    return address < other.address
  }
}

/// The wait before an address is dialled again: 1, 2, 4, 8, 16, 20 s, shortened at random by up to a quarter so that
/// devices which failed together do not stay together.
func redialWait(afterFailures failures: Int, generator: inout SeededGenerator) -> Duration {
  let doublings = min(max(failures - 1, 0), 16)
  let step = min(DiscoveryLimits.firstRedial * (1 << doublings), DiscoveryLimits.longestRedial)
  let thousandths = 750 + generator.uniform(below: 251)
  return step * thousandths / 1000
}

/// A device of the household and the addresses at which it might be.
struct SoughtDevice: Sendable {
  let id: DeviceID
  /// Whether the household's log lists it.
  var isListed = false
  /// Whether a control session stands.
  var isConnected = false
  /// Whether one has stood since this daemon started.
  var wasConnected = false
  /// What it said when it last went.
  var said: AbsenceReason?
  /// In the order in which they became known.
  var candidates: [Candidate] = []

  /// Takes an address, in place of the least promising one when there are too many.
  ///
  /// What anybody can announce (`isProven` false) never drives out another address.
  mutating func add(_ candidate: Candidate, isProven: Bool) -> Bool {
    if candidates.count >= DiscoveryLimits.addressesPerDevice {
      guard isProven else { return false }
      var worst = 0
      for index in candidates.indices where candidates[worst].isBetter(than: candidates[index]) {
        worst = index
      }
      candidates.remove(at: worst)
    }
    candidates.append(candidate)
    return true
  }

  /// Why it is not in, from what was tried; nil while it is in.
  var absence: AbsenceReason? {
    if isConnected { return nil }
    let outcomes = candidates.compactMap(\.outcome)
    let nearest = outcomes.max { $0.nearness < $1.nearness }?.absence
    let spoke: Set<AbsenceReason> = [.handshakeTimeout, .handshakeFailed, .clone, .revoked]
    if let nearest, spoke.contains(nearest) { return nearest }
    if let said { return said }
    if candidates.isEmpty { return wasConnected ? .unreachable : .neverHeard }
    switch nearest {
    case nil: return wasConnected ? .unreachable : .notTried
    case .noAnswer, .otherDevice: return wasConnected ? .unreachable : nearest
    default: return nearest
    }
  }
}
