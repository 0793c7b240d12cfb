import HouseholdTrust
import MeshModel
import MeshProtocol
import MeshTransport
import Testing

/// The contract of `MeshEndpoint`, held by whatever carries the sessions.
@Suite("A mesh endpoint", .timeLimit(.minutes(1)))
struct EndpointConformanceTests {
  @Test("opens a session that both sides know the same of", arguments: TransportKind.allCases)
  func opensASession(_ kind: TransportKind) async throws {
    var mesh = try TestMesh(kind, devices: 2)
    let a = try await mesh.start(0, boot: 3)
    let b = try await mesh.start(1, boot: 5)
    a.perform(.dial(b.address, .control, expecting: b.device))
    let here = try await a.awaitOpened().info
    let there = try await b.awaitOpened().info
    #expect(here.peer == b.device && there.peer == a.device)
    #expect(here.boot.counter == 5 && there.boot.counter == 3)
    #expect(here.isInitiator && !there.isInitiator)
    #expect(here.purpose == .control && there.purpose == .control)
    #expect(here.standing == .full && there.standing == .full)
    #expect(here.wireVersion == WireVersions.current.newest)
    #expect(here.listening == b.address && there.listening == a.address)
    #expect(here.remote == b.address)
    #expect(here.handshakeTime > .zero)
    await shutdown(a, b)
  }

  @Test("delivers frames in the order in which they were sent", arguments: TransportKind.allCases)
  func order(_ kind: TransportKind) async throws {
    var mesh = try TestMesh(kind, devices: 2)
    let a = try await mesh.start(0)
    let b = try await mesh.start(1)
    let (here, there) = try await connect(a, b)
    let kinds: [FrameKind] = [.gossip, .viewExchange, .trustLog, .echoRequest, .echoReply]
    let frames = (0..<300).map { index in
      MeshFrame(
        kinds[index % kinds.count], channel: UInt16(index), request: UInt32(index) << 12,
        body: [UInt8](repeating: UInt8(truncatingIfNeeded: index), count: index * 7))
    }
    a.transport.perform(frames.map { .send(here, $0) })
    b.transport.perform(frames.reversed().map { .send(there, $0) })
    for frame in frames { #expect(try await b.awaitFrame(there) == frame) }
    for frame in frames.reversed() { #expect(try await a.awaitFrame(here) == frame) }
    await shutdown(a, b)
  }

  @Test("carries the longest body and the empty one", arguments: TransportKind.allCases)
  func lengths(_ kind: TransportKind) async throws {
    var mesh = try TestMesh(kind, devices: 2)
    let a = try await mesh.start(0)
    let b = try await mesh.start(1)
    let (here, there) = try await connect(a, b, .bulk)
    // A record has 65,535 bytes at most (Noise §3), 16 of them a tag, and a frame's header has 8.
    #expect(MeshFrame.bodyByteCount == 65_511)
    for count in [0, 1, 65_510, 65_511] {
      let frame = MeshFrame(.bulk, body: (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31) })
      a.perform(.send(here, frame))
      #expect(try await b.awaitFrame(there) == frame)
    }
    await shutdown(a, b)
  }

  @Test("slows the sender down when the reader is slow, and loses nothing", arguments: TransportKind.allCases)
  func backPressure(_ kind: TransportKind) async throws {
    var mesh = try TestMesh(kind, devices: 2)
    let a = try await mesh.start(0)
    let b = try await mesh.start(1)
    let (here, there) = try await connect(a, b, .bulk)
    // More than both queues and the kernel take, before the reader reads at all.
    let count = 1500
    let body = [UInt8](repeating: 9, count: 60_000)
    var sent = 0
    var waits = 0
    func send() {
      while sent < count, a.transport.room(in: here) >= body.count {
        a.perform(.send(here, MeshFrame(.bulk, request: UInt32(sent), body: body)))
        sent += 1
      }
    }
    send()
    #expect(sent < count, "nothing held the sender back")
    #expect(sent >= 4 << 20 / body.count, "less than a queue was taken")
    for index in 0..<count {
      // The reader goes on only when the sender can do no more.
      send()
      let frame = try await b.awaitFrame(there)
      try #require(frame.request == UInt32(index) && frame.body.count == body.count)
      if sent < count, a.transport.room(in: here) < body.count, index % 64 == 0 { waits += 1 }
    }
    #expect(sent == count && waits > 0)
    try await a.await { event in event == .writable(here) ? () : nil }
    #expect(a.transport.counters[.queueFull] == 0)
    await shutdown(a, b)
  }

  @Test("refuses frames over the high mark and counts them", arguments: TransportKind.allCases)
  func highMark(_ kind: TransportKind) async throws {
    var mesh = try TestMesh(kind, devices: 2)
    let a = try await mesh.start(0)
    let b = try await mesh.start(1)
    let (here, _) = try await connect(a, b)
    // In one call, so that nothing leaves in between; a control queue takes 1 MiB.
    let frame = MeshFrame(.gossip, body: [UInt8](repeating: 1, count: 60_000))
    for _ in 0..<4 { a.transport.perform(Array(repeating: .send(here, frame), count: 400)) }
    try await a.awaitDrop(.queueFull)
    #expect(a.transport.counters[.queueFull] > 0)
    await shutdown(a, b)
  }

  @Test("closes with its reason after what was sent before", arguments: TransportKind.allCases)
  func goodbye(_ kind: TransportKind) async throws {
    var mesh = try TestMesh(kind, devices: 2)
    let a = try await mesh.start(0)
    let b = try await mesh.start(1)
    let (here, there) = try await connect(a, b)
    for reason in [CloseReason.asleep] {
      for index in 0..<20 {
        a.perform(.send(here, MeshFrame(.gossip, request: UInt32(index), body: [1])))
      }
      a.perform(.close(here, reason), .send(here, MeshFrame(.gossip, body: [2])), .close(here, .left))
      for index in 0..<20 { #expect(try await b.awaitFrame(there).request == UInt32(index)) }
      #expect(try await b.awaitClosed(there) == reason)
      #expect(try await a.awaitClosed(here) == reason)
    }
    #expect(a.transport.room(in: here) == 0)
    // The session is over: this goes nowhere, and nothing more is told of it.
    a.perform(.send(here, MeshFrame(.gossip, body: [3])), .close(here, .left))
    await shutdown(a, b)
    while let event = await a.next() { Issue.record("after the end: \(event)") }
    while let event = await b.next() { Issue.record("after the end: \(event)") }
  }

  @Test("says why dialling failed", arguments: TransportKind.allCases)
  func dialFailures(_ kind: TransportKind) async throws {
    var mesh = try TestMesh(kind, devices: 3)
    let a = try await mesh.start(0)
    let b = try await mesh.start(1)
    let gone = try await mesh.start(2)
    let nobody = gone.address
    await shutdown(gone)
    a.perform(.dial(nobody, .control, expecting: nil))
    #expect(try await a.awaitDialFailure() == .refused)
    a.perform(.dial(b.address, .control, expecting: mesh.device(2)))
    #expect(try await a.awaitDialFailure() == .otherDevice(b.device))
    a.perform(.dial(a.address, .control, expecting: nil))
    #expect(try await a.awaitDialFailure() == .thisDevice)
    await shutdown(a, b)
    a.perform(.dial(b.address, .control, expecting: nil))
  }

  @Test("gives a device of another household nothing", arguments: TransportKind.allCases)
  func stranger(_ kind: TransportKind) async throws {
    var mesh = try TestMesh(kind, devices: 1)
    var other = try TestMesh(kind, devices: 1, seed: 2, beside: mesh)
    let a = try await mesh.start(0)
    let stranger = try await other.start(0)
    stranger.perform(.dial(a.address, .control, expecting: nil))
    let failure = try await stranger.awaitDialFailure()
    #expect([.handshakeClosed, .notOfHousehold].contains(failure))
    try await a.awaitDrop(.handshakeRefused)
    #expect(a.transport.counters[.handshakeRefused] == 1 && a.transport.counters.opened == 0)
    await shutdown(a, stranger)
  }

  @Test(
    "closes the sessions of a device that is revoked, and opens no more", arguments: TransportKind.allCases)
  func revocation(_ kind: TransportKind) async throws {
    var mesh = try TestMesh(kind, devices: 3)
    let a = try await mesh.start(0)
    let b = try await mesh.start(1)
    let c = try await mesh.start(2)
    let (toB, fromB) = try await connect(a, b)
    let (toC, fromC) = try await connect(c, a)
    try mesh.revoke(1)
    a.transport.update(trust: mesh.households[0].snapshot)
    #expect(try await a.awaitClosed(toB) == .revoked)
    #expect(try await b.awaitClosed(fromB) == .revoked)
    b.perform(.dial(a.address, .control, expecting: nil))
    let failure = try await b.awaitDialFailure()
    #expect(failure == .handshakeClosed)
    a.perform(.dial(b.address, .control, expecting: nil))
    #expect(try await a.awaitDialFailure() == .revoked(b.device))
    // The others stay.
    c.perform(.send(toC, MeshFrame(.gossip, body: [4])))
    #expect(try await a.awaitFrame(fromC).body == [4])
    await shutdown(a, b, c)
  }

  @Test(
    "opens a session for updates only with a device that has an old key", arguments: TransportKind.allCases)
  func updateOnly(_ kind: TransportKind) async throws {
    var mesh = try TestMesh(kind, devices: 2)
    try mesh.rotateNetworkKey()
    let a = try await mesh.start(0)
    let b = try await mesh.start(1)
    a.perform(.dial(b.address, .control, expecting: b.device))
    let (here, info) = try await a.awaitOpened()
    let (there, other) = try await b.awaitOpened()
    #expect(info.standing == .updateOnly && other.standing == .updateOnly)
    a.perform(.send(here, MeshFrame(.gossip, body: [1])))
    try await a.awaitDrop(.notPermitted)
    a.perform(.send(here, MeshFrame(.trustLog, body: [2])), .send(here, MeshFrame(.trustLog, body: [3])))
    #expect(try await b.awaitFrame(there).body == [2])
    #expect(try await b.awaitFrame(there).body == [3])
    a.perform(.sendDatagram(to: b.device, body: [4]))
    try await a.awaitDrop(.unknownDatagram)
    // With the log the device has the key, and the next session is a whole one.
    mesh.inform(1)
    b.transport.update(trust: mesh.households[1].snapshot)
    b.perform(.dial(a.address, .control, expecting: a.device))
    #expect(try await b.awaitOpened().info.standing == .full)
    await shutdown(a, b)
  }

  @Test("finds the key from before a split in which both sides changed it", arguments: TransportKind.allCases)
  func keysOfASplit(_ kind: TransportKind) async throws {
    var mesh = try TestMesh(kind, devices: 2)
    try mesh.splitNetworkKey(with: 1)
    let a = try await mesh.start(0)
    let b = try await mesh.start(1)
    for _ in 0..<2 {
      a.perform(.dial(b.address, .control, expecting: b.device))
      let (here, info) = try await a.awaitOpened()
      let (there, other) = try await b.awaitOpened()
      #expect(info.standing == .updateOnly && other.standing == .updateOnly)
      a.perform(.close(here, .renewed))
      #expect(try await b.awaitClosed(there) == .renewed)
    }
    #expect(b.transport.counters[.handshakeRefused] == 2)
    // After the logs are one, so is the key.
    mesh.exchange(0, 1)
    a.transport.update(trust: mesh.households[0].snapshot)
    b.transport.update(trust: mesh.households[1].snapshot)
    b.perform(.dial(a.address, .control, expecting: a.device))
    #expect(try await b.awaitOpened().info.standing == .full)
    await shutdown(a, b)
  }

  @Test(
    "opens a session for the status only when no wire version is common", arguments: TransportKind.allCases)
  func statusOnly(_ kind: TransportKind) async throws {
    var mesh = try TestMesh(kind, devices: 2)
    let a = try await mesh.start(0, versions: WireVersions(oldest: 3, newest: 4))
    let b = try await mesh.start(1, versions: WireVersions(oldest: 1, newest: 2))
    a.perform(.dial(b.address, .control, expecting: b.device))
    let (here, info) = try await a.awaitOpened()
    let (there, other) = try await b.awaitOpened()
    #expect(info.standing == .statusOnly && other.standing == .statusOnly)
    #expect(info.offeredVersions == WireVersions(oldest: 1, newest: 2))
    #expect(other.offeredVersions == WireVersions(oldest: 3, newest: 4))
    a.perform(.send(here, MeshFrame(.trustLog, body: [1])))
    try await a.awaitDrop(.notPermitted)
    a.perform(.send(here, MeshFrame(.echoRequest, request: 7, body: [])))
    #expect(try await b.awaitFrame(there).kind == .echoRequest)
    a.perform(.close(here, .renewed))
    #expect(try await b.awaitClosed(there) == .renewed)
    await shutdown(a, b)
  }

  @Test("keeps control and bulk apart", arguments: TransportKind.allCases)
  func purposes(_ kind: TransportKind) async throws {
    var mesh = try TestMesh(kind, devices: 2)
    let a = try await mesh.start(0)
    let b = try await mesh.start(1)
    let (control, _) = try await connect(a, b)
    let (bulk, there) = try await connect(a, b, .bulk)
    a.perform(.send(control, MeshFrame(.bulk, body: [1])))
    try await a.awaitDrop(.notPermitted)
    a.perform(.send(bulk, MeshFrame(.gossip, body: [1])))
    try await a.awaitDrop(.notPermitted)
    a.perform(.send(bulk, MeshFrame(.bulk, body: [2])))
    #expect(try await b.awaitFrame(there).body == [2])
    for kind in [FrameKind.burst, .burstReport] {
      a.perform(.send(control, MeshFrame(kind, body: [3])))
      try await a.awaitDrop(.notPermitted)
      a.perform(.send(bulk, MeshFrame(kind, body: [3])))
      #expect(try await b.awaitFrame(there).kind == kind)
    }
    await shutdown(a, b)
  }

  @Test("carries datagrams under the keys of the control session", arguments: TransportKind.allCases)
  func datagrams(_ kind: TransportKind) async throws {
    var mesh = try TestMesh(kind, devices: 2)
    let a = try await mesh.start(0)
    let b = try await mesh.start(1)
    a.perform(.sendDatagram(to: b.device, body: [1]))
    try await a.awaitDrop(.unknownDatagram)
    let (here, _) = try await connect(a, b)
    // 1,200 bytes less 28 of overhead.
    let longest = [UInt8](repeating: 5, count: 1172)
    a.perform(.sendDatagram(to: b.device, body: longest))
    var got = try await b.awaitDatagram()
    #expect(got.from == a.device && got.body == longest)
    b.perform(.sendDatagram(to: a.device, body: [6]))
    got = try await a.awaitDatagram()
    #expect(got.from == b.device && got.body == [6])
    a.perform(.close(here, .left))
    _ = try await a.awaitClosed(here)
    a.perform(.sendDatagram(to: b.device, body: [7]))
    try await a.awaitDrop(.unknownDatagram)
    await shutdown(a, b)
  }

  @Test("says goodbye to all when it shuts down, and ends its stream", arguments: TransportKind.allCases)
  func shutsDown(_ kind: TransportKind) async throws {
    var mesh = try TestMesh(kind, devices: 2)
    let a = try await mesh.start(0)
    let b = try await mesh.start(1)
    let (control, controlThere) = try await connect(a, b)
    let (bulk, bulkThere) = try await connect(b, a, .bulk)
    await a.transport.shutdown()
    var ends: [SessionID: CloseReason] = [:]
    while let event = await a.next() {
      if case .closed(let session, let reason) = event { ends[session] = reason }
    }
    #expect(ends.count == 2 && ends.values.allSatisfy { $0 == .shuttingDown })
    #expect(ends[control] != nil && ends[bulkThere] != nil)
    var others: [SessionID: CloseReason] = [:]
    while others.count < 2 {
      if case .closed(let session, let reason)? = await b.next() { others[session] = reason }
    }
    #expect(others == [controlThere: .shuttingDown, bulk: .shuttingDown])
    await shutdown(b)
  }

  @Test("takes no more sessions than it may", arguments: TransportKind.allCases)
  func sessionLimit(_ kind: TransportKind) async throws {
    var mesh = try TestMesh(kind, devices: 2)
    let a = try await mesh.start(0)
    let b = try await mesh.start(1) { $0.limits.sessionsPerDevice = 2 }
    let (first, firstThere) = try await connect(a, b)
    _ = try await connect(a, b, .bulk)
    a.perform(.dial(b.address, .bulk, expecting: b.device))
    let third = try await a.awaitOpened().session
    #expect(try await a.awaitClosed(third) == .overLimit)
    // A place is free again when the owner has read that one closed.
    a.perform(.close(first, .left))
    #expect(try await b.awaitClosed(firstThere) == .left)
    _ = try await connect(a, b, .bulk)
    await shutdown(a, b)
  }
}
