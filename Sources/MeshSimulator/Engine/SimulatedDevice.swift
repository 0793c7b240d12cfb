import Determinism
import HouseholdTrust
package import MeshModel
package import MeshPeer
package import MeshProtocol

/// What reaches a process of a simulated device.
package enum SimulatedInput: Sendable {
  /// From its transport.
  case transport(TransportEvent)
  /// From its transport's datagram socket, still sealed: the stream whose keys seal it, its counter and its body.
  case datagram(stream: Int, counter: UInt64, [UInt8])
  /// Anything else that a daemon hands to its peer.
  case peer(MeshInput)
}

/// A device of the simulated home: a machine with clocks and a disk, and at most one process on it.
package struct SimulatedDevice: Sendable {
  /// Events that a stopped process's sockets hold; datagrams beyond are dropped, as the kernel does.
  package static let heldLimit = 4_096
  /// Datagrams among them.
  package static let heldDatagramLimit = 256

  /// What the machine does.
  package enum Machine: Hashable, Sendable {
    /// It runs.
    case on
    /// It sleeps: its monotonic clock stands still, and nothing comes in or goes out.
    case suspended
    /// It has no power.
    case off
  }

  /// What the process does.
  package enum Process: Hashable, Sendable {
    /// There is none.
    case down
    /// It runs.
    case running
    /// It is stopped: the kernel goes on without it.
    case stopped
  }

  /// The device's place in the simulation.
  package let index: Int
  /// Its identity; a clone has that of another device.
  package let identity: Int
  /// Its name in the mesh.
  package let id: DeviceID
  /// Where it is.
  package var host: NetworkAddress.Host
  /// Its clocks.
  package var clock: DeviceClock
  /// Its disk.
  package var disk = SimulatedDisk()
  /// What the machine does.
  package var machine = Machine.off
  /// What the process does.
  package var process = Process.down
  /// How many processes it has had.
  package var life = 0
  /// The process.
  package var peer: MeshPeer?
  /// The start of the process.
  package var boot = BootID(counter: 0, nonce: 0)
  /// How it breaks the rules, in tests of the checkers.
  package var misbehaviour: Misbehaviour?
  /// Loses power at its next write, between writing and syncing.
  package var losesPowerAtNextWrite = false

  var plannedWake: MonotonicInstant?
  var held: [SimulationEvent] = []
  var heldDatagrams = 0
  var streams: [Int] = []
  var streamOfSession: [SessionID: Int] = [:]
  var nextSession: UInt64 = 1
  var chance: SeededGenerator
  var replay: [Int: CounterWindow] = [:]
  var sealed: [Int: UInt64] = [:]
  var closedDials: [NetworkAddress: Int] = [:]

  /// The port that every device listens on.
  package static let port: UInt16 = 24_327

  /// Where it listens.
  package var address: NetworkAddress { NetworkAddress(host, port: Self.port) }

  /// Keeps an event until the process or the machine goes on.
  mutating func hold(_ event: SimulationEvent) {
    guard held.count < Self.heldLimit else { return }
    if case .process(_, _, .datagram) = event {
      guard heldDatagrams < Self.heldDatagramLimit else { return }
      heldDatagrams += 1
    }
    held.append(event)
  }
}

/// How a device breaks the rules, so that tests can show that the checkers see it.
package enum Misbehaviour: Hashable, Sendable, CaseIterable {
  /// Throws away all gossip that comes in, so that it never answers a probe and never refutes.
  case deaf
  /// Keeps its sessions with revoked devices.
  case keepsRevoked
  /// Its disk says that it has synced and has not.
  case neverSyncs
  /// Pads its datagrams over the limit.
  case oversizedDatagrams
  /// Ends its sessions with a device at once when it has another.
  case breaksBeforeMake
  /// Forgets the membership log at every start.
  case forgetsLog
}

/// Which counters of one sender have been seen; the simulation's short form of a replay window.
struct CounterWindow: Sendable {
  private var highest: UInt64 = 0
  private var seen: UInt64 = 0

  /// Whether the counter is new; 64 counters behind the highest nothing is.
  mutating func accept(_ counter: UInt64) -> Bool {
    if counter > highest {
      let shift = counter - highest
      seen = shift >= 64 ? 1 : seen << shift | 1
      highest = counter
      return true
    }
    let behind = highest - counter
    guard behind < 64, seen & (1 << behind) == 0 else { return false }
    seen |= 1 << behind
    return true
  }
}
