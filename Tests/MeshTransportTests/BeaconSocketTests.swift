import Foundation
import Glibc
import MeshModel
import MeshTransport
import Testing

/// Beacons on the loopback interface, whose broadcast address is 127.255.255.255.
@Suite("Beacon sockets", .timeLimit(.minutes(1)))
struct BeaconSocketTests {
  private let interface = BeaconInterface(name: "lo", index: 1, broadcast: 0x7FFF_FFFF, hasIPv6: false)

  @Test("reach all processes of the port by broadcast, and one by unicast")
  func broadcast() async throws {
    let a = try await BeaconSocket(port: 0)
    let b = try await BeaconSocket(port: a.port)
    a.update(interfaces: [interface])
    #expect(await a.send([1, 2, 3]).isEmpty)
    var atA = a.received.makeAsyncIterator()
    var atB = b.received.makeAsyncIterator()
    let here = try #require(await atA.next())
    let there = try #require(await atB.next())
    #expect(here.bytes == [1, 2, 3] && there.bytes == [1, 2, 3])
    #expect(here.source.isLoopback && here.source.port == a.port)
    await b.shutdown()
    await a.send([4], to: NetworkAddress(.v4(0x7F00_0001), port: a.port))
    #expect(await atA.next()?.bytes == [4])
    await a.shutdown()
    #expect(await atA.next() == nil)
  }

  @Test("drop what is longer than a beacon may be")
  func tooLong() async throws {
    let a = try await BeaconSocket(port: 0)
    let socket = RawDatagrams()
    var received = a.received.makeAsyncIterator()
    socket.send([UInt8](repeating: 1, count: BeaconSocket.byteCount + 1), to: a.port)
    socket.send([UInt8](repeating: 2, count: BeaconSocket.byteCount), to: a.port)
    #expect(await received.next()?.bytes == [UInt8](repeating: 2, count: 512))
    await a.shutdown()
  }

  @Test("say which interface does not work, and use the others")
  func failures() async throws {
    let a = try await BeaconSocket(port: 0)
    let gone = BeaconInterface(name: "gone0", index: 99_999, broadcast: 0x7FFF_FFFF, hasIPv6: true)
    let failures = a.update(interfaces: [interface, gone])
    if a.hasIPv6 {
      #expect(failures.count == 1 && failures.allSatisfy { "\($0)".contains("gone0") })
    }
    let sending = await a.send([7])
    #expect(sending.allSatisfy { "\($0)".contains("gone0") })
    var received = a.received.makeAsyncIterator()
    #expect(await received.next()?.bytes == [7])
    await a.shutdown()
  }

  /// The loopback interface has no link-local address, so this needs another one, in a network namespace:
  /// `ip netns exec NAME env HEARTH_BEACON_INTERFACE=veth0 swift test --filter BeaconSocketTests`.
  @Test(
    "reach all processes of the port by IPv6 multicast, with the interface in the source",
    .enabled(if: ProcessInfo.processInfo.environment["HEARTH_BEACON_INTERFACE"] != nil))
  func multicast() async throws {
    let name = try #require(ProcessInfo.processInfo.environment["HEARTH_BEACON_INTERFACE"])
    let index = if_nametoindex(name)
    try #require(index != 0, "there is no interface \(name)")
    let here = BeaconInterface(name: name, index: index, broadcast: nil, hasIPv6: true)
    let a = try await BeaconSocket(port: 0)
    let b = try await BeaconSocket(port: a.port)
    #expect(a.hasIPv6)
    #expect(a.update(interfaces: [here]).isEmpty && b.update(interfaces: [here]).isEmpty)
    #expect(await a.send([1, 2]).isEmpty)
    var received = b.received.makeAsyncIterator()
    let beacon = try #require(await received.next())
    #expect(beacon.bytes == [1, 2] && beacon.source.isLinkLocal)
    guard case .v6(_, _, let scope) = beacon.source.host else {
      Issue.record("not IPv6: \(beacon.source)")
      return
    }
    #expect(scope == index)
    // The source is good for an answer as it is.
    await b.send([3], to: beacon.source)
    // Off and on again: nothing comes while the group is left.
    b.update(interfaces: [])
    #expect(b.update(interfaces: [here]).isEmpty)
    await a.send([4])
    while let next = await received.next() { if next.bytes == [4] { break } }
    await a.shutdown()
    await b.shutdown()
  }
}
