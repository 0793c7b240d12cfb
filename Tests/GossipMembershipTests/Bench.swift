import Determinism
import GossipMembership
import MeshModel
import WireCoding

/// One device under test, with names for the others and a clock that the test moves.
struct Bench {
  /// What the device sent, decoded.
  struct Sent: Equatable {
    let receiver: DeviceID
    let path: Way
    let message: GossipMessage
  }

  enum Way { case datagram, session, exchange }

  static let own = name(0)
  var membership: Membership
  var monotonic: Int64 = 0
  var asleep: Int64 = 0
  private(set) var sent: [Sent] = []
  private(set) var effects: [GossipEffect] = []

  init(seed: UInt64 = 1, profile: GossipProfile = .household, boot: UInt32 = 7) {
    membership = Membership(
      own: Bench.record(0, boot: boot), profile: profile, generator: SeededGenerator(seed: seed),
      at: ClockReading(monotonic: .zero, sinceBoot: .zero))
  }

  /// A device that knows `others` other members, all alive and with sessions, and has nothing left to say.
  static func settled(with others: Int, seed: UInt64 = 1, profile: GossipProfile = .household) -> Bench {
    var bench = Bench(seed: seed, profile: profile)
    bench.give(.roster((0...others).map { name($0) }))
    if others > 0 {
      for index in 1...others {
        bench.give(.reachable(name(index)))
        bench.give(
          .viewExchange(GossipMessage.records([record(index)], wanted: []).encoded, from: name(index)))
      }
    }
    bench.run(seconds: 30, everybodyAnswers: true)
    bench.clear()
    return bench
  }

  static func name(_ index: Int) -> DeviceID {
    DeviceID(bytes: [UInt8(index >> 8), UInt8(index & 255)] + [UInt8](repeating: 9, count: 14))!
  }

  static func incarnation(boot: UInt32, _ counter: UInt64 = 0) -> Incarnation {
    Incarnation(value: UInt64(boot) << 32 | counter)
  }

  static func record(
    _ index: Int, boot: UInt32 = 7, _ counter: UInt64 = 0, traits: DeviceTraits = .plain,
    leader: DeviceID? = nil
  ) -> MemberRecord {
    MemberRecord(
      device: name(index), incarnation: incarnation(boot: boot, counter),
      addresses: [HouseholdLab.address(index & 127)], traits: traits, leader: leader)
  }

  var now: ClockReading {
    ClockReading(
      monotonic: MonotonicInstant(nanoseconds: monotonic),
      sinceBoot: MonotonicInstant(nanoseconds: monotonic + asleep))
  }

  mutating func clear() {
    sent = []
    effects = []
  }

  mutating func give(_ input: GossipInput) {
    for effect in membership.handle(input, at: now) {
      effects.append(effect)
      switch effect {
      case .datagram(let device, let bytes): note(device, .datagram, bytes)
      case .sessionMessage(let device, let bytes): note(device, .session, bytes)
      case .viewExchange(let device, let bytes): note(device, .exchange, bytes)
      default: break
      }
    }
  }

  private mutating func note(_ device: DeviceID, _ path: Way, _ bytes: [UInt8]) {
    guard bytes.count <= GossipLimits.messageBytes, let message = try? GossipMessage(decoding: bytes) else {
      preconditionFailure("a message of \(bytes.count) bytes that does not decode")
    }
    sent.append(Sent(receiver: device, path: path, message: message))
  }

  mutating func give(_ message: GossipMessage, from index: Int, over path: MessagePath = .datagram) {
    give(.message(message.encoded, from: Bench.name(index), over: path))
  }

  mutating func exchange(_ message: GossipMessage, from index: Int) {
    give(.viewExchange(message.encoded, from: Bench.name(index)))
  }

  /// Moves the clock from deadline to deadline; the others answer every ping, or are silent.
  mutating func run(seconds: Double, everybodyAnswers: Bool = false, silent: Set<Int> = []) {
    let end = monotonic + Int64(seconds * 1e9)
    while membership.nextDeadline.nanoseconds <= end {
      monotonic = max(monotonic, membership.nextDeadline.nanoseconds)
      let before = sent.count
      give(.tick)
      guard everybodyAnswers else { continue }
      for message in sent[before...] {
        guard case .ping(let sequence, _) = message.message else { continue }
        guard !silent.contains(where: { Bench.name($0) == message.receiver }) else { continue }
        let answer = GossipMessage.ack(sequence: sequence, membership.digest(), [])
        give(
          .message(
            answer.encoded, from: message.receiver, over: message.path == .datagram ? .datagram : .session))
      }
    }
    monotonic = end
  }

  func state(_ index: Int) -> MemberState? { membership.member(Bench.name(index))?.record.state }

  var pings: [Sent] {
    sent.filter { if case .ping = $0.message { true } else { false } }
  }

  /// All news in what was sent.
  var news: [News] {
    sent.flatMap { sent -> [News] in
      switch sent.message {
      case .ping(_, let news), .ack(_, _, let news), .pingRequest(_, _, let news), .news(let news): news
      default: []
      }
    }
  }

  static func accusation(
    of index: Int, boot: UInt32 = 7, _ counter: UInt64 = 0, by accuser: Int, isFinal: Bool = false
  )
    -> News
  {
    .accusation(
      Accusation(
        device: name(index), incarnation: incarnation(boot: boot, counter), isFinal: isFinal,
        accuser: name(accuser)))
  }
}
