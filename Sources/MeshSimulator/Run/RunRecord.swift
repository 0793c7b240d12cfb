package import Determinism
import MeshModel
package import MeshPeer
import MeshProtocol

/// The rules that hold in every run, whatever happens to the network.
package enum SimulationRule: String, Hashable, Sendable, CaseIterable {
  /// When faults are over for 30 s, devices that can reach each other believe the same.
  case viewsAgree = "views-agree"
  /// Nobody has a session with a device that it knows to be revoked.
  case noRevokedSession = "no-revoked-session"
  /// Every table and queue stays below its limit.
  case boundedQueues = "bounded-queues"
  /// No datagram is larger than the limit.
  case smallDatagrams = "small-datagrams"
  /// The membership log never gets shorter on any disk.
  case logGrowsOnly = "log-grows-only"
  /// A device's incarnation never goes back, over all its starts.
  case incarnationGrowsOnly = "incarnation-grows-only"
  /// A frame that was sent before a session gave way to a younger one arrives on it.
  case renewalLosesNoFrame = "renewal-loses-no-frame"
  /// No session is older than its limit; where both sides can dial, none is much older than a day.
  case sessionsStayYoung = "sessions-stay-young"
  /// A device's boot counter goes up with every start.
  case bootCounterGrows = "boot-counter-grows"
  /// Where only packets are lost, nobody is taken for unreachable.
  case noFalseRemoval = "no-false-removal"
  /// Two running devices with one identity are noticed.
  case cloneIsNoticed = "clone-is-noticed"
  /// A device whose datagrams are blocked is in, and its path is shown as blocked.
  case blockedPathIsShown = "blocked-path-is-shown"
  /// Every device that is not in has a reason.
  case absenceHasReason = "absence-has-reason"
}

/// A broken rule of a run.
package struct Violation<Rule: Hashable & Sendable>: Hashable, Sendable {
  /// When it was noticed.
  package let time: MonotonicInstant
  /// Which rule.
  package let rule: Rule
  /// Who and what.
  package let text: String

  /// When it was noticed, in seconds from the start of the run.
  package var seconds: Double { Double(time.nanoseconds) * 1e-9 }
}

/// What a run found and measured.
package struct RunRecord: Sendable {
  /// Most violations that are kept.
  package static let violationLimit = 100

  /// Broken rules, in their order.
  package internal(set) var violations: [Violation<SimulationRule>] = []
  /// Events that happened.
  package internal(set) var eventCount = 0
  /// Sessions that were opened, both ends counted.
  package internal(set) var sessionCount = 0
  /// Sessions that a device closed because they were old.
  package internal(set) var renewals = 0
  /// How often the last session with a device ended.
  package internal(set) var disconnections = 0
  /// Seconds from a crash to each other device's "unreachable".
  package internal(set) var detections: [Double] = []
  /// Seconds from a device's return to everybody having it in again and it them.
  package internal(set) var returns: [DeviceReturn] = []
  /// How often a running device that could be reached was taken for unreachable.
  package internal(set) var falseRemovals = 0
  /// How often a device was suspected.
  package internal(set) var suspicions = 0
  /// The links that devices measured, in the order in which they were done.
  package internal(set) var links: [MeasuredLink] = []
  /// Bytes that a device sends each second while nothing happens, the average over all.
  package internal(set) var idleBytesPerSecond: Double?
  /// The same for what goes to all at once.
  package internal(set) var idleMulticastBytesPerSecond: Double?
  /// How often each device reported a clone.
  package internal(set) var cloneReports = 0
  /// Seconds from the end of the faults to the last disagreement; 0 when there was none.
  package internal(set) var agreementTime = 0.0
  /// The last disagreement that was seen after the faults.
  package internal(set) var lastDisagreement: String?

  /// Whether every rule held.
  package var hasPassed: Bool { violations.isEmpty }

  mutating func note(handshake info: SessionInfo) { sessionCount += 1 }
}

/// A link as a device measured it.
package struct MeasuredLink: Hashable, Sendable {
  /// The device that measured.
  package let from: Int
  /// What it found.
  package let measurement: LinkMeasurement

  init(from: Int, _ measurement: LinkMeasurement) {
    self.from = from
    self.measurement = measurement
  }
}

/// A return of a device to the household.
package struct DeviceReturn: Hashable, Sendable {
  /// From where.
  package enum Kind: String, Hashable, Sendable {
    /// Its process started.
    case start
    /// Its process was stopped, or its machine slept.
    case wake
  }

  /// From where.
  package let kind: Kind
  /// Which device.
  package let device: Int
  /// How long it took, in seconds.
  package let seconds: Double
}
