package import Determinism
package import MeshModel

/// Something that a scenario does to the home.
package enum Fault: Hashable, Sendable {
  /// A machine is switched on if it is off, and its process starts.
  case start(Int)
  /// The process ends in order and says that it comes back.
  case shutDown(Int)
  /// The process dies; its kernel closes its connections, and what it wrote is kept.
  case kill(Int)
  /// The machine loses power, and with it what was not synced.
  case losePower(Int)
  /// The machine loses power at its next write, between writing and syncing.
  case losePowerAtNextWrite(Int)
  /// The process is stopped (SIGSTOP, a starved machine).
  case stop(Int)
  /// A stopped process goes on.
  case proceed(Int)
  /// The machine falls asleep.
  case suspend(Int)
  /// The machine wakes up.
  case resume(Int)
  /// A machine moves to another address.
  case move(Int, NetworkAddress.Host)
  /// A second machine starts from a copy of a device's disk.
  case clone(of: Int, on: Int)

  /// All links get these conditions.
  case conditions(LinkConditions)
  /// One direction gets these conditions.
  case link(from: Int, to: Int, LinkConditions)
  /// One direction delivers nothing for a while, and everything afterwards.
  case clog(from: Int, to: Int, Duration)
  /// Only devices of one group hear each other.
  case partition([Int])
  /// One direction is cut.
  case cut(from: Int, to: Int)
  /// One direction is mended.
  case uncut(from: Int, to: Int)
  /// A device's datagrams are blocked, or not.
  case udpBlocked(Int, Bool)
  /// A device's firewall changes.
  case inbound(Int, InboundRule)
  /// Multicast and broadcast are blocked, or not.
  case multicastBlocked(Bool)
  /// The network is whole again.
  case mend

  /// A device measures its links.
  case measureLinks(Int)

  /// An admin removes a device for ever and makes a new network key.
  case revoke(Int, by: Int)
  /// An admin makes a new network key.
  case renewKey(by: Int)
  /// Nothing: marks when faults are over, and views must agree from 30 s later to the end.
  case settled
}

/// A fault and its time.
package struct ScenarioStep: Hashable, Sendable {
  /// When.
  package let time: MonotonicInstant
  /// What.
  package let fault: Fault

  /// A step.
  package init(_ seconds: Double, _ fault: Fault) {
    time = MonotonicInstant(nanoseconds: Int64(seconds * 1e9))
    self.fault = fault
  }
}

/// One run, completely: what a seed and a scenario's name stand for.
package struct SimulationPlan: Sendable {
  /// The scenario's name.
  package var scenario: String
  /// The seed.
  package var seed: UInt64
  /// Devices of the household.
  package var deviceCount: Int
  /// Further machines, for clones.
  package var spareCount = 0
  /// Whose identity the further machines have.
  package var cloneOf = 0
  /// How long it lasts.
  package var duration: Duration
  /// How links are at the start.
  package var conditions = LinkConditions()
  /// Whether multicast DNS works beside Hearth's own beacon.
  package var hasMulticastDNS = true
  /// Whether sessions are opened by the real handshake and its cryptography.
  package var usesRealHandshake = false
  /// What happens, in order of time.
  package var steps: [ScenarioStep] = []
  /// Whether nothing happens but loss, so that nobody may ever be taken for unreachable.
  package var isLossOnly = false
  /// When the idle traffic is measured; nil when it is not.
  package var idleWindow: ClosedRange<Double>?
  /// Devices whose datagrams are blocked to the end: they must be in, and shown as blocked.
  package var expectedBlocked: [Int] = []
  /// Wire versions of devices that do not speak the current ones.
  package var oddVersions: [Int: WireVersions] = [:]
  /// Devices that break the rules, in tests of the checkers.
  package var misbehaviours: [PlannedMisbehaviour] = []
  /// A limit that takes the place of all larger ones, in tests of the checkers.
  package var strictestLimit = Int.max
  /// How old a session may be: a device's day, and time for the dial.
  package var sessionAgeLimit: Duration = .seconds(24 * 3_600 + 120)
  /// Whether the first violation ends the run.
  package var stopsAtViolation = false

  /// A run in which nothing is planned yet.
  package init(scenario: String, seed: UInt64, deviceCount: Int, duration: Duration) {
    precondition((1...Self.deviceLimit).contains(deviceCount), "\(deviceCount) simulated devices")
    self.scenario = scenario
    self.seed = seed
    self.deviceCount = deviceCount
    self.duration = duration
  }

  /// The wire versions that a device speaks.
  package func versions(of device: Int) -> WireVersions { oddVersions[device] ?? .current }

  /// What a device tells about itself: every third runs on battery, every second is wireless.
  package func traits(of device: Int) -> DeviceTraits {
    DeviceTraits(
      power: device % 3 == 2 ? .battery : .mains, attachment: device % 2 == 1 ? .wireless : .wired,
      cores: UInt16(2 + device % 7), memoryMebibytes: UInt32(2_048 << (device % 4)), isAvailable: true,
      wireVersions: versions(of: device), version: "simulated")
  }

  /// Most devices of a simulated household.
  package static let deviceLimit = 32
}

/// A device that breaks a rule.
package struct PlannedMisbehaviour: Hashable, Sendable {
  /// Which.
  package var device: Int
  /// How.
  package var kind: Misbehaviour

  /// A device and its misbehaviour.
  package init(device: Int, kind: Misbehaviour) {
    self.device = device
    self.kind = kind
  }
}
