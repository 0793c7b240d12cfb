import MeshModel
import MeshProtocol
import MeshTransport
import SecureChannel
import Testing
import WireCoding

/// What a member that breaks the rules gets, and how sessions live and end over sockets.
@Suite("A session over sockets", .timeLimit(.minutes(1)))
struct SessionRulesTests {
  @Test("drops a frame of an unknown kind or with flags, and goes on")
  func unknownFrames() async throws {
    var mesh = try TestMesh(.network, devices: 2)
    let b = try await mesh.start(1)
    let member = try RawMember(mesh.households[0], .control, to: b.transport.localPort)
    let session = try await b.awaitOpened().session
    let good = MeshFrame(.gossip, request: 7, body: [1]).encoded
    for (index, value) in [(0, 0), (0, 13), (0, 255), (1, 1), (1, 128)] {
      var bad = good
      bad[index] = UInt8(value)
      member.connection.send(member.framed(bad))
    }
    member.connection.send(member.framed([UInt8](good.prefix(7))))
    member.connection.send(member.framed(good))
    #expect(try await b.awaitFrame(session) == MeshFrame(.gossip, request: 7, body: [1]))
    #expect(b.transport.counters[.malformedFrame] == 6)
    await shutdown(b)
  }

  @Test("closes at a record that is not authentic, out of order, repeated, or shorter than a tag")
  func brokenRecords() async throws {
    var mesh = try TestMesh(.network, devices: 2)
    let b = try await mesh.start(1)
    let changes: [@Sendable ([UInt8], [UInt8]) -> [UInt8]] = [
      { first, second in first + second.dropLast() + [second[second.count - 1] ^ 1] },
      { first, second in second + first },
      { first, _ in first + first },
      { first, _ in first + [15, 0] + [UInt8](repeating: 0, count: 15) },
      { first, _ in first + [0, 0] },
    ]
    for (index, change) in changes.enumerated() {
      let member = try RawMember(mesh.households[0], .control, to: b.transport.localPort)
      let session = try await b.awaitOpened().session
      let first = member.framed(MeshFrame(.gossip, request: 1, body: [1]))
      let second = member.framed(MeshFrame(.gossip, request: 2, body: [2]))
      member.connection.send(change(first, second))
      #expect(try await b.awaitClosed(session) == .brokenRecord, "change \(index)")
      #expect(member.connection.isClosedByPeer())
    }
    #expect(b.transport.counters[.brokenRecord] == UInt64(changes.count))
    await shutdown(b)
  }

  @Test("takes what comes behind the handshake in the same packet")
  func earlyFrames() async throws {
    var mesh = try TestMesh(.network, devices: 2)
    let b = try await mesh.start(1)
    for purpose in [SessionPurpose.control, .bulk] {
      let kind = purpose == .bulk ? FrameKind.bulk : .gossip
      let member = try RawMember(mesh.households[0], purpose, to: b.transport.localPort)
      for count in 0..<50 {
        member.connection.send(member.framed(MeshFrame(kind, request: UInt32(count), body: [])))
      }
      let session = try await b.awaitOpened().session
      for count in 0..<50 { #expect(try await b.awaitFrame(session).request == UInt32(count)) }
    }
    await shutdown(b)
  }

  @Test("opens a datagram once: replays, changes and strangers are counted")
  func datagrams() async throws {
    var mesh = try TestMesh(.network, devices: 2)
    let b = try await mesh.start(1)
    let port = b.transport.localPort
    let member = try RawMember(mesh.households[0], .control, to: port)
    _ = try await b.awaitOpened()
    let socket = RawDatagrams()
    let first = member.sealed(datagram: [1])
    socket.send(first, to: port)
    #expect(try await b.awaitDatagram().body == [1])
    for _ in 0..<3 { socket.send(first, to: port) }
    for _ in 0..<3 { try await b.awaitDrop(.replayedDatagram) }
    // Every byte of a datagram counts: 12 of header, 1 of body, 16 of tag.
    let second = member.sealed(datagram: [2])
    #expect(second.count == 29)
    for index in second.indices {
      var changed = second
      changed[index] ^= 0x10
      socket.send(changed, to: port)
    }
    // Out of order, up to 2,048 late, and each still once (RFC 6479).
    let late = (0..<2048).map { _ in member.sealed(datagram: [3]) }
    let tooLate = second
    socket.send(late[2047], to: port)
    #expect(try await b.awaitDatagram().body == [3])
    socket.send(late[1], to: port)
    #expect(try await b.awaitDatagram().body == [3])
    socket.send(tooLate, to: port)
    try await b.awaitDrop(.replayedDatagram)
    socket.send([], to: port)
    socket.send([UInt8](repeating: 0x11, count: 1300), to: port)
    let last = member.sealed(datagram: [4])
    socket.send(last, to: port)
    #expect(try await b.awaitDatagram().body == [4])
    let counters = b.transport.counters
    #expect(counters.receivedDatagrams == 4)
    #expect(
      counters[.brokenDatagram] + counters[.unknownDatagram] + counters[.replayedDatagram] == 3 + 29 + 1 + 2)
    // Kind and index are the first four bytes: no session is found by a changed one.
    #expect(counters[.unknownDatagram] == 4 + 2)
    await shutdown(b)
  }

  @Test("is kept alive by changes of key while nobody speaks")
  func keepAlive() async throws {
    var mesh = try TestMesh(.network, devices: 2)
    let b = try await mesh.start(1) {
      $0.timing.keepAlive = .milliseconds(100)
      $0.timing.silence = .milliseconds(1500)
    }
    let member = try RawMember(mesh.households[0], .control, to: b.transport.localPort)
    let session = try await b.awaitOpened().session
    // Longer than the silence that would end it: both sides say only that they live.
    for _ in 0..<20 {
      #expect(try member.nextMessage()?.isEmpty == true)
      member.connection.send(member.keepAlive())
    }
    member.connection.send(member.framed(MeshFrame(.gossip, body: [5])))
    #expect(try await b.awaitFrame(session).body == [5])
    // Now this side falls silent.
    #expect(try await b.awaitClosed(session) == .silent)
    #expect(member.connection.isClosedByPeer())
    await shutdown(b)
  }

  @Test("ends as disconnected when the other side vanishes, and frees its index")
  func vanishes() async throws {
    var mesh = try TestMesh(.network, devices: 2)
    let b = try await mesh.start(1)
    var member: RawMember? = try RawMember(mesh.households[0], .control, to: b.transport.localPort)
    let session = try await b.awaitOpened().session
    b.perform(.sendDatagram(to: mesh.device(0), body: [1]))
    #expect(member != nil)
    member = nil
    #expect(try await b.awaitClosed(session) == .disconnected)
    b.perform(.sendDatagram(to: mesh.device(0), body: [1]))
    try await b.awaitDrop(.unknownDatagram)
    #expect(b.transport.counters.sentDatagrams == 1)
    await shutdown(b)
  }

  @Test("hears the goodbye's reason, and an unknown reason as disconnected")
  func goodbyes() async throws {
    var mesh = try TestMesh(.network, devices: 2)
    let b = try await mesh.start(1)
    for (byte, reason) in [(7, CloseReason.left), (8, .asleep), (200, .disconnected)] {
      let member = try RawMember(mesh.households[0], .control, to: b.transport.localPort)
      let session = try await b.awaitOpened().session
      member.connection.send(member.framed(MeshFrame(.goodbye, body: [UInt8(byte)])))
      #expect(try await b.awaitClosed(session) == reason)
    }
    let member = try RawMember(mesh.households[0], .control, to: b.transport.localPort)
    let session = try await b.awaitOpened().session
    b.perform(.close(session, .duplicate))
    #expect(try member.nextMessage() == MeshFrame(.goodbye, body: [2]).encoded)
    #expect(member.connection.isClosedByPeer())
    await shutdown(b)
  }

  @Test("is accepted on IPv4 and IPv6 at one port")
  func families() async throws {
    var mesh = try TestMesh(.network, devices: 2)
    let a = try await mesh.start(0) { $0.hosts = [.v4(loopback), .v6(high: 0, low: 1, scope: 0)] }
    let b = try await mesh.start(1) { $0.hosts = [.v4(loopback), .v6(high: 0, low: 1, scope: 0)] }
    let network = try #require(b.transport as? NetworkTransport)
    let port = network.localPort
    #expect(network.listeningAddresses.allSatisfy { $0.port == port && $0.isLoopback })
    for address in network.listeningAddresses {
      a.perform(.dial(address, .control, expecting: b.device))
      let info = try await a.awaitOpened().info
      #expect(info.remote == address && info.listening == address)
      _ = try await b.awaitOpened()
      a.perform(.sendDatagram(to: b.device, body: [9]))
      #expect(try await b.awaitDatagram().body == [9])
    }
    await shutdown(a, b)
  }

  @Test("needs a port that is free")
  func portInUse() async throws {
    var mesh = try TestMesh(.network, devices: 2)
    let a = try await mesh.start(0)
    let taken = a.transport.localPort
    await #expect(throws: TransportFailure.portUnavailable(a.address, code: 98)) {
      _ = try await mesh.start(1) { $0.port = taken }
    }
    await shutdown(a)
  }
}
