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
}
