import CryptoPrimitives
import HouseholdTrust
import MeshModel
import MeshProtocol
import MeshTransport
import Testing

/// What carries the sessions of a test.
enum TransportKind: String, CaseIterable, CustomTestStringConvertible, Sendable {
  case network = "over sockets"
  case inProcess = "in process"

  var testDescription: String { rawValue }
}

/// Devices of one household, and endpoints for them.
struct TestMesh {
  private(set) var households: [Household]
  private let kind: TransportKind
  private let network: InProcessNetwork
  private var entropy: SeededEntropy
  private var started: Int

  /// A household of `count` devices; the first is its admin.
  ///
  /// Another seed is another household.
  init(_ kind: TransportKind, devices count: Int, seed: UInt64 = 1, beside other: TestMesh? = nil) throws {
    self.kind = kind
    network = other?.network ?? InProcessNetwork()
    started = other == nil ? 0 : 500
    var entropy = SeededEntropy(seed: seed)
    let phrase = RecoveryPhrase(entropy: &entropy)
    var admin = try Household(
      creating: phrase, keys: DeviceKeys(entropy: &entropy), name: "device 0", entropy: &entropy)
    var keys: [DeviceKeys] = []
    for index in 1..<max(1, count) {
      keys.append(DeviceKeys(entropy: &entropy))
      let request = try AdmissionRequest(keys: keys[index - 1], name: "device \(index)", binding: [7])
      _ = try admin.admit(request, binding: [7], entropy: &entropy)
    }
    households = [admin]
    for key in keys { households.append(try Household(log: admin.log, keys: key)) }
    self.entropy = entropy
  }

  /// The devices, in the order of the household.
  func device(_ index: Int) -> DeviceID { households[index].device }

  /// Has the admin revoke a device; only the admin knows of it at first.
  mutating func revoke(_ index: Int) throws {
    _ = try households[0].revoke(device(index), reason: .lost, entropy: &entropy)
  }

  /// Has the admin change the network key; only the admin has it at first.
  mutating func rotateNetworkKey() throws {
    try households[0].rotateNetworkKey(entropy: &entropy)
  }

  /// Has a second admin and the first one change the network key, neither knowing of the other.
  mutating func splitNetworkKey(with index: Int) throws {
    let promotion = try households[0].promote(device(index))
    _ = households[index].merge(promotion)
    try households[index].rotateNetworkKey(entropy: &entropy)
    try households[0].rotateNetworkKey(entropy: &entropy)
  }

  /// Has two devices learn all that the other knows.
  mutating func exchange(_ left: Int, _ right: Int) {
    let entries = households[right].log.entries
    _ = households[right].merge(households[left].log.entries)
    _ = households[left].merge(entries)
  }

  /// Has a device learn all that the admin knows.
  mutating func inform(_ index: Int) {
    _ = households[index].merge(households[0].log.entries)
  }

  /// Starts an endpoint of a device.
  mutating func start(
    _ index: Int, versions: WireVersions = .current, boot: UInt32 = 1,
    _ change: (inout TransportConfiguration) -> Void = { _ in }
  ) async throws -> TestEndpoint {
    started += 1
    let trust = households[index].snapshot
    var configuration = TransportConfiguration(boot: BootID(counter: boot, nonce: UInt32(started)))
    configuration.hosts = [.v4(loopback)]
    configuration.versions = versions
    // All devices of a test share one address.
    configuration.limits.connectionBurst = 64
    change(&configuration)
    switch kind {
    case .network:
      return TestEndpoint(try await NetworkTransport.start(configuration, trust: trust), trust.device)
    case .inProcess:
      let address = NetworkAddress(.v4(loopback), port: UInt16(1000 + started))
      return TestEndpoint(
        network.join(
          at: address, trust: trust, boot: configuration.boot, versions: versions,
          limits: configuration.limits, entropy: SeededEntropy(seed: UInt64(100 + started))), trust.device)
    }
  }
}

/// The address 127.0.0.1.
let loopback: UInt32 = 0x7F00_0001

/// An endpoint and the one reader of its events.
final class TestEndpoint {
  let transport: any MeshEndpoint
  let device: DeviceID
  private var iterator: AsyncStream<TransportEvent>.Iterator
  /// Events that were passed over while another was awaited.
  private(set) var passed: [TransportEvent] = []

  init(_ transport: any MeshEndpoint, _ device: DeviceID) {
    self.transport = transport
    self.device = device
    iterator = transport.events.makeAsyncIterator()
  }

  var address: NetworkAddress { NetworkAddress(.v4(loopback), port: transport.localPort) }

  func perform(_ commands: TransportCommand...) { transport.perform(commands) }

  func next() async -> TransportEvent? { await iterator.next() }

  /// Reads to the first event that `match` makes something of.
  func await<Value>(_ match: (TransportEvent) -> Value?) async throws -> Value {
    while let event = await next() {
      if let value = match(event) { return value }
      passed.append(event)
    }
    throw EventsEnded(passed: passed)
  }

  /// Reads to the next opened session.
  func awaitOpened() async throws -> (session: SessionID, info: SessionInfo) {
    try await self.await { event in
      if case .opened(let session, let info) = event { (session, info) } else { nil }
    }
  }

  /// Reads to the end of a session.
  func awaitClosed(_ session: SessionID) async throws -> CloseReason {
    try await self.await { event in
      if case .closed(session, let reason) = event { reason } else { nil }
    }
  }

  /// Reads to the next frame of a session.
  func awaitFrame(_ session: SessionID) async throws -> MeshFrame {
    try await self.await { event in
      if case .frame(session, let frame) = event { frame } else { nil }
    }
  }

  /// Reads to the next failed dial.
  func awaitDialFailure() async throws -> DialFailure {
    try await self.await { event in
      if case .dialFailed(_, _, let failure) = event { failure } else { nil }
    }
  }

  /// Reads to the next report of this drop.
  func awaitDrop(_ reason: DropReason) async throws {
    try await self.await { event in event == .dropped(reason) ? () : nil }
  }

  /// Reads to the next datagram.
  func awaitDatagram() async throws -> (from: DeviceID, body: [UInt8]) {
    try await self.await { event in
      if case .datagram(let device, let body) = event { (device, body) } else { nil }
    }
  }
}

/// The stream ended before what was awaited.
struct EventsEnded: Error {
  let passed: [TransportEvent]
}

/// Dials from one to the other; the sessions on both sides.
func connect(
  _ from: TestEndpoint, _ to: TestEndpoint, _ purpose: SessionPurpose = .control
) async throws -> (here: SessionID, there: SessionID) {
  from.perform(.dial(to.address, purpose, expecting: to.device))
  let here = try await from.awaitOpened().session
  let there = try await to.awaitOpened().session
  return (here, there)
}

/// Shuts all down.
func shutdown(_ endpoints: TestEndpoint...) async {
  for endpoint in endpoints { await endpoint.transport.shutdown() }
}
