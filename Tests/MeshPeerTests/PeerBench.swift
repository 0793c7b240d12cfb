import CryptoPrimitives
import Determinism
import GossipMembership
import HouseholdTrust
import MeshModel
import MeshPeer
import MeshProtocol
import PeerDiscovery
import Testing
import WireCoding

/// A household of three and the device of it that is under test, driven by hand.
struct PeerBench {
  static let port: UInt16 = 7_946

  var peer: MeshPeer
  var now = MonotonicInstant(nanoseconds: 1_000_000_000_000)
  /// How long the machine has slept since it was switched on.
  var asleep = Duration.zero
  /// The households of all devices, in ascending order of their names; the first two are admins.
  let households: [Household]
  let own: Int

  /// The device with the `own`-th smallest name of a household of three.
  init(own: Int = 0, known: [KnownPeer] = [], start: Bool = true) throws {
    households = try Self.makeHouseholds()
    self.own = own
    let traits = DeviceTraits(
      power: .mains, attachment: .wired, cores: 4, memoryMebibytes: 8_192, isAvailable: true,
      wireVersions: .current, version: "test")
    peer = MeshPeer(
      household: households[own], boot: BootID(counter: 3, nonce: 9),
      settings: MeshPeer.Settings(discovery: DiscoveryPlan.Settings(port: Self.port), traits: traits),
      known: known, generator: SeededGenerator(seed: 5), at: ClockReading(monotonic: now, sinceBoot: now))
    if start { _ = handle(.start) }
  }

  private static func makeHouseholds() throws -> [Household] {
    var entropy = SeededEntropy(seed: 12)
    let keys = (0..<3).map { _ in DeviceKeys(entropy: &entropy) }.sorted { $0.device < $1.device }
    var first = try Household(
      creating: RecoveryPhrase(entropy: &entropy), keys: keys[0], name: "first", entropy: &entropy)
    for index in 1..<3 {
      let request = try AdmissionRequest(keys: keys[index], name: "device \(index)", binding: [])
      _ = try first.admit(request, binding: [], isAdmin: index == 1, entropy: &entropy)
    }
    return try keys.map { try Household(log: first.log, keys: $0) }
  }

  /// The device with the `index`-th smallest name.
  func device(_ index: Int) -> DeviceID { households[index].device }

  func address(_ index: Int) -> NetworkAddress {
    NetworkAddress(.v4(0x0A00_0001 + UInt32(index)), port: Self.port)
  }

  mutating func handle(_ input: MeshInput) -> [MeshEffect] {
    peer.handle(input, at: ClockReading(monotonic: now, sinceBoot: now.advanced(by: asleep)))
  }

  /// Answers every echo that was asked for, and so on until none is; all that came of it.
  @discardableResult
  mutating func answerEchoes(_ asked: [MeshEffect]) -> [MeshEffect] {
    var effects: [MeshEffect] = []
    var open = asked.sent(.echoRequest)
    while !open.isEmpty {
      let (session, frame) = open.removeFirst()
      let next = hear(session.value, MeshFrame(.echoReply, request: frame.request, body: []))
      effects += next
      open += next.sent(.echoRequest)
    }
    return effects
  }

  mutating func wait(_ time: Duration) { now = now.advanced(by: time) }

  /// Opens a control session with another device.
  @discardableResult
  mutating func open(
    _ session: UInt64, with other: Int, isInitiator: Bool, standing: SessionStanding = .full,
    boot: BootID = BootID(counter: 1, nonce: 1), versions: WireVersions = .current
  ) -> [MeshEffect] {
    let info = SessionInfo(
      peer: device(other), boot: boot, purpose: .control, standing: standing, wireVersion: 1,
      offeredVersions: versions, isInitiator: isInitiator, remote: address(other),
      listening: address(other), handshakeTime: .milliseconds(3))
    return handle(.transport(.opened(SessionID(session), info)))
  }

  /// Lets a frame arrive; by default one that says nothing new.
  @discardableResult
  mutating func hear(_ session: UInt64, _ frame: MeshFrame? = nil) -> [MeshEffect] {
    handle(.transport(.frame(SessionID(session), frame ?? MeshFrame(.echoRequest, request: 77, body: []))))
  }

  /// The status of another device.
  func status(_ other: Int) throws -> DeviceStatus {
    let status = peer.status(at: ClockReading(monotonic: now, sinceBoot: now))
    return try #require(status.devices.first { $0.device == device(other) })
  }

  /// The summary that a device with this household sends.
  func summary(of household: Household, wantsReply: Bool = false) -> MeshFrame {
    MeshFrame(
      .trustLog, body: LogMessage.summary(household.log.summary, wantsReply: wantsReply).encodedBytes)
  }

  /// A frame with log entries.
  func frame(with entries: [LogEntry]) -> MeshFrame {
    MeshFrame(.trustLog, body: LogMessage.entries(entries).encodedBytes)
  }
}

extension [MeshEffect] {
  /// The sessions that are closed, with the reasons.
  var closed: [String] {
    compactMap {
      if case .transport(.close(let session, let reason)) = $0 { "\(session) \(reason)" } else { nil }
    }
  }

  /// The frames of a kind that are sent, with their sessions.
  func sent(_ kind: FrameKind) -> [(session: SessionID, frame: MeshFrame)] {
    compactMap { effect in
      guard case .transport(.send(let session, let frame)) = effect, frame.kind == kind else { return nil }
      return (session, frame)
    }
  }

  var reports: [MeshReport] { compactMap { if case .report(let report) = $0 { report } else { nil } } }

  var dialled: [NetworkAddress] {
    compactMap { if case .transport(.dial(let address, _, _)) = $0 { address } else { nil } }
  }

  var stored: [KnownPeer] { compactMap { if case .storePeer(let peer) = $0 { peer } else { nil } } }
}

extension LogMessage {
  /// The message's bytes.
  var encodedBytes: [UInt8] {
    var writer = ByteWriter()
    encode(to: &writer)
    return writer.bytes
  }

  /// Reads a message from exactly these bytes.
  init(decodingBytes bytes: [UInt8]) throws { try self.init(decoding: bytes) }
}
