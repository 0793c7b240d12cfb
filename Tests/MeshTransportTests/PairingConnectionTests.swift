import CryptoPrimitives
import Determinism
import Foundation
import HouseholdTrust
import MeshModel
import MeshProtocol
import MeshTransport
import SecureChannel
import Synchronization
import Testing

/// Joining a household over a connection.
@Suite("Pairing over sockets", .timeLimit(.minutes(1)))
struct PairingConnectionTests {
  private struct Refused: Error {}

  /// Joins in a thread of its own, as a command does.
  private func join(
    _ port: UInt16, code: String, name: String = "new device", stores: Bool = true
  ) async throws -> Household {
    try await withCheckedThrowingContinuation { continuation in
      Thread.detachNewThread {
        continuation.resume(
          with: Result {
            var entropy = SystemEntropy()
            let joiner = PairingJoiner(
              by: .code(try pairingCode(code)), keys: DeviceKeys(entropy: &entropy), name: name,
              at: DeviceClocks.now().sinceBoot, entropy: &entropy)
            return try PairingDialler.join(at: NetworkAddress(.v4(loopback), port: port), joiner) { _ in
              if !stores { throw Refused() }
            }
          })
      }
    }
  }

  @Test("makes a member of a device that knows the code, which can then open sessions")
  func joins() async throws {
    var mesh = try TestMesh(.network, devices: 1)
    var admin = mesh.households[0]
    let a = try await mesh.start(0)
    let desk = PairingDesk(trust: admin.snapshot)
    let network = try #require(a.transport as? NetworkTransport)
    network.receivePairing(at: desk)
    desk.open(try pairingCode("4821-9037"), discriminator: 0x123)
    async let joined = join(network.localPort, code: "48219037", name: "kitchen")
    var requests = desk.requests.makeAsyncIterator()
    let request = try #require(await requests.next())
    #expect(request.request.name == "kitchen" && request.remote.isLoopback)
    var entropy = SystemEntropy()
    _ = try admin.admit(request.request, binding: request.binding, entropy: &entropy)
    #expect(await request.welcome(Welcome(admin.log)) == nil)
    let household = try await joined
    #expect(household.id == admin.id && admin.log.isMember(household.device))
    network.update(trust: admin.snapshot)
    var configuration = TransportConfiguration(boot: BootID(counter: 1, nonce: 5))
    configuration.hosts = [.v4(loopback)]
    let b = TestEndpoint(
      try await NetworkTransport.start(configuration, trust: household.snapshot), household.device)
    _ = try await connect(b, a)
    // The code is burnt.
    await #expect(throws: PairingDialFailure.self) { _ = try await join(network.localPort, code: "48219037") }
    await shutdown(a, b)
  }

  @Test("turns away who guesses, and three guesses burn the code")
  func guesses() async throws {
    var mesh = try TestMesh(.network, devices: 1)
    let a = try await mesh.start(0)
    let network = try #require(a.transport as? NetworkTransport)
    let desk = PairingDesk(trust: mesh.households[0].snapshot)
    network.receivePairing(at: desk)
    desk.open(try pairingCode("4821-9037"), discriminator: 1)
    for _ in 0..<3 {
      await #expect(throws: PairingDialFailure.self) {
        _ = try await join(network.localPort, code: "11111111")
      }
    }
    #expect(!desk.withWindow { $0.isOpen(at: DeviceClocks.now().sinceBoot) })
    await #expect(throws: PairingDialFailure.self) { _ = try await join(network.localPort, code: "48219037") }
    await shutdown(a)
  }

  @Test("puts a wrong guess on the disk before it is answered, and burns the code when it cannot")
  func guessesAreKept() async throws {
    var mesh = try TestMesh(.network, devices: 1)
    let a = try await mesh.start(0)
    let network = try #require(a.transport as? NetworkTransport)
    let kept = Atomic(0)
    let isFull = Atomic(false)
    let desk = PairingDesk(trust: mesh.households[0].snapshot) {
      kept.add(1, ordering: .sequentiallyConsistent)
      return !isFull.load(ordering: .sequentiallyConsistent)
    }
    network.receivePairing(at: desk)
    desk.open(try pairingCode("4821-9037"), discriminator: 1)
    await #expect(throws: PairingDialFailure.self) {
      _ = try await join(network.localPort, code: "11111111")
    }
    #expect(kept.load(ordering: .sequentiallyConsistent) == 1)
    #expect(desk.withWindow { $0.isOpen(at: DeviceClocks.now().sinceBoot) })
    isFull.store(true, ordering: .sequentiallyConsistent)
    await #expect(throws: PairingDialFailure.self) {
      _ = try await join(network.localPort, code: "22222222")
    }
    #expect(kept.load(ordering: .sequentiallyConsistent) == 2)
    #expect(!desk.withWindow { $0.isOpen(at: DeviceClocks.now().sinceBoot) })
    await shutdown(a)
  }

  @Test("is refused where nobody has invited, and where nobody listens")
  func closed() async throws {
    var mesh = try TestMesh(.network, devices: 1)
    let a = try await mesh.start(0)
    await #expect(throws: PairingDialFailure.self) {
      _ = try await join(a.transport.localPort, code: "48219037")
    }
    #expect(a.transport.counters[.handshakeRefused] == 1)
    let port = a.transport.localPort
    await shutdown(a)
    await #expect(throws: PairingDialFailure.refused(NetworkAddress(.v4(loopback), port: port))) {
      _ = try await join(port, code: "48219037")
    }
  }

  @Test("keeps nothing when the person declines, or the device cannot store it")
  func declines() async throws {
    var mesh = try TestMesh(.network, devices: 1)
    var admin = mesh.households[0]
    let a = try await mesh.start(0)
    let network = try #require(a.transport as? NetworkTransport)
    let desk = PairingDesk(trust: admin.snapshot)
    network.receivePairing(at: desk)
    var requests = desk.requests.makeAsyncIterator()
    desk.open(try pairingCode("4821-9037"), discriminator: 1)
    let port = network.localPort
    let declined = Task { try await join(port, code: "48219037") }
    try #require(await requests.next()).decline()
    await #expect(throws: PairingDialFailure.pairing(.refused(.declined))) { _ = try await declined.value }
    desk.open(try pairingCode("1357-2468"), discriminator: 1)
    let unstored = Task { try await join(port, code: "13572468", stores: false) }
    let request = try #require(await requests.next())
    var entropy = SystemEntropy()
    _ = try admin.admit(request.request, binding: request.binding, entropy: &entropy)
    #expect(await request.welcome(Welcome(admin.log)) == .brokenOff)
    await #expect(throws: PairingDialFailure.self) { _ = try await unstored.value }
    await shutdown(a)
  }
}

/// The code with these digits.
private func pairingCode(_ digits: String) throws -> PairingCode {
  guard let code = PairingCode(typed: digits) else { throw NotACode() }
  return code
}

private struct NotACode: Error {}
