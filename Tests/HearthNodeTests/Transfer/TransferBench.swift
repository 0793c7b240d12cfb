import ComputeRuntime
import CryptoPrimitives
import DistributedTraining
import Foundation
import HearthNode
import HearthStorage
import HouseholdTrust
import MeshModel
import MeshProtocol
import MeshTransport
import Synchronization
import TrainingCoordination
import WireCoding

/// What carries the sessions of a test.
enum Carriage: String, CaseIterable, Sendable {
  case sockets, memory
}

/// Devices of one household with their transports and desks, on this machine.
final class TransferBench: Sendable {
  let devices: [TransferDevice]

  /// A household of `count` devices.
  init(_ carriage: Carriage, devices count: Int) async throws {
    var entropy = SeededEntropy(seed: 4)
    var admin = try Household(
      creating: RecoveryPhrase(entropy: &entropy), keys: DeviceKeys(entropy: &entropy), name: "device 0",
      entropy: &entropy)
    var keys: [DeviceKeys] = []
    for index in 1..<count {
      keys.append(DeviceKeys(entropy: &entropy))
      let request = try AdmissionRequest(keys: keys[index - 1], name: "device \(index)", binding: [7])
      _ = try admin.admit(request, binding: [7], entropy: &entropy)
    }
    let households = [admin] + (try keys.map { try Household(log: admin.log, keys: $0) })
    let network = InProcessNetwork()
    let host = NetworkAddress.Host.v4(0x7F00_0001)
    var devices: [TransferDevice] = []
    for (index, household) in households.enumerated() {
      let boot = BootID(counter: 1, nonce: UInt32(index))
      let transport: any MeshEndpoint
      switch carriage {
      case .sockets:
        var configuration = TransportConfiguration(boot: boot)
        configuration.hosts = [host]
        configuration.limits.connectionBurst = 64
        transport = try await NetworkTransport.start(configuration, trust: household.snapshot)
      case .memory:
        transport = network.join(
          at: NetworkAddress(host, port: UInt16(1000 + index)), trust: household.snapshot, boot: boot,
          entropy: SeededEntropy(seed: UInt64(50 + index)))
      }
      devices.append(
        try TransferDevice(household.device, transport, NetworkAddress(host, port: transport.localPort)))
    }
    let addresses = Dictionary(uniqueKeysWithValues: devices.map { ($0.id, $0.address) })
    for device in devices { device.begin(addresses) }
    self.devices = devices
  }

  /// The devices of a plan, by place.
  var roster: [DeviceID] { devices.map(\.id) }

  /// Begins a plan epoch on all devices.
  func open(_ stamp: JobStamp = .first) -> [MeshJobChannel] {
    devices.map { $0.desk.openChannel(stamp, roster: roster) }
  }

  /// Ends everything.
  func shutdown() async {
    for device in devices {
      device.desk.shutdown()
      await device.transport.shutdown()
    }
  }
}

/// One device: its transport, its desk, and the reader of its events, which does what `MeshPeer` and the daemon do.
final class TransferDevice: Sendable {
  let id: DeviceID
  let transport: any MeshEndpoint
  let address: NetworkAddress
  let desk: BulkDesk
  let store: BlobStore
  private let state: String
  private let tap = BulkTap()
  /// Whether dialling is shut, as by a firewall.
  let refusesToDial = Mutex(false)
  private let addresses = Mutex<[DeviceID: NetworkAddress]>([:])
  private let rawDials = Mutex<[CheckedContinuation<SessionID, Never>]>([])

  init(_ id: DeviceID, _ transport: any MeshEndpoint, _ address: NetworkAddress) throws {
    self.id = id
    self.transport = transport
    self.address = address
    let box = DialBox()
    state = NSTemporaryDirectory() + "hearth-transfer-\(UUID().uuidString)"
    store = try BlobStore(stateDirectory: state, budget: 1 << 30)
    desk = BulkDesk(own: id, transport: transport, store: store) { box.dial($0) }
    transport.receiveBulk(at: tap)
    tap.desk.withLock { $0 = desk }
    box.set { [weak self] in self?.dial($0) }
  }

  func begin(_ addresses: [DeviceID: NetworkAddress]) {
    self.addresses.withLock { $0 = addresses }
    Task { [self] in
      for await event in transport.events {
        switch event {
        case .opened(let session, let info) where info.isInitiator:
          if let waiting = rawDials.withLock({ $0.popLast() }) {
            waiting.resume(returning: session)
          } else {
            desk.dialled(session, info.peer)
          }
        case .dialFailed(let address, _, _):
          if let device = addresses.first(where: { $0.value == address })?.key { desk.dialFailed(device) }
        default: break
        }
      }
    }
  }

  /// Ends without a word of its desk, as a process that is killed.
  func die() async {
    tap.desk.withLock { $0 = nil }
    await transport.shutdown()
  }

  /// A bulk session that the desk knows nothing of.
  func rawSession(to other: TransferDevice) async -> SessionID {
    await withCheckedContinuation { waiting in
      rawDials.withLock { $0.append(waiting) }
      transport.perform([.dial(other.address, .bulk, expecting: other.id)])
    }
  }

  /// What the other side answers to a frame on such a session.
  func rawAnswer(on session: SessionID, to frame: MeshFrame) async -> [UInt8] {
    await withCheckedContinuation { waiting in
      tap.waiting.withLock { $0[session] = waiting }
      transport.perform([.send(session, frame)])
    }
  }

  deinit {
    // A directory in /tmp that cannot be removed harms no test.
    try? FileManager.default.removeItem(atPath: state)
  }

  private func dial(_ device: DeviceID) {
    guard !refusesToDial.withLock({ $0 }), let address = addresses.withLock({ $0[device] }) else {
      return desk.dialFailed(device)
    }
    transport.perform([.dial(address, .bulk, expecting: device)])
  }
}

/// Takes a frame that a test waits for; the rest goes to the desk.
private final class BulkTap: BulkReceiver {
  let desk = Mutex<BulkDesk?>(nil)
  let waiting = Mutex<[SessionID: CheckedContinuation<[UInt8], Never>]>([:])

  private var receiver: BulkDesk? { desk.withLock { $0 } }

  func opened(_ session: SessionID, _ info: SessionInfo) { receiver?.opened(session, info) }

  func received(_ frame: MeshFrame, on session: SessionID) -> Bool {
    if let waiting = waiting.withLock({ $0.removeValue(forKey: session) }) {
      waiting.resume(returning: frame.body)
      return true
    }
    return receiver?.received(frame, on: session) ?? true
  }

  func writable(_ session: SessionID) { receiver?.writable(session) }
  func closed(_ session: SessionID, _ reason: CloseReason) { receiver?.closed(session, reason) }
}

/// What a desk dials through, which is there before the device.
private final class DialBox: Sendable {
  private let dialler = Mutex<(@Sendable (DeviceID) -> Void)?>(nil)

  func set(_ dial: @escaping @Sendable (DeviceID) -> Void) { dialler.withLock { $0 = dial } }
  func dial(_ device: DeviceID) { dialler.withLock { $0 }?(device) }
}

extension JobStamp {
  static let first = JobStamp(job: JobID(1, 2), term: 3, epoch: 4)
}

/// The body of a job's frame, as docs/PROTOCOL.md lays it out, right or wrong.
func jobRecord(
  _ stamp: JobStamp, kind: UInt8, step: UInt64 = 0, length: Int = 0, offset: Int = 0, data: [UInt8] = []
) -> [UInt8] {
  var writer = ByteWriter()
  stamp.encode(to: &writer)
  writer.integer(kind)
  writer.integer(step)
  writer.integer(UInt32(0))
  writer.integer(UInt32(0))
  writer.integer(UInt32(length))
  writer.integer(UInt32(offset))
  writer.raw(data)
  return writer.bytes
}

/// Runs a body that blocks on a thread of its own.
func onThread<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws -> Value {
  try await withCheckedThrowingContinuation { continuation in
    OperatingSystemThread.detached(name: "test") { continuation.resume(with: Result { try body() }) }
  }
}

/// What a body that must fail on a channel fails with.
func failure<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async -> JobChannelFailure? {
  do {
    _ = try await onThread(body)
    return nil
  } catch { return error as? JobChannelFailure }
}

/// Bytes that say where they belong.
func pattern(_ seed: Int, _ count: Int) -> [UInt8] {
  (0..<count).map { UInt8(truncatingIfNeeded: ($0 &+ seed) &* 167 &+ $0 >> 8 &+ ($0 >> 16) &* 5) }
}
