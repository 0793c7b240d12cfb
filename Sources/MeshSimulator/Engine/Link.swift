package import Determinism

/// How one direction between two devices treats packets.
package struct LinkConditions: Hashable, Sendable {
  /// What no packet is faster than.
  package var minimumDelay: Duration = .microseconds(300)
  /// The mean of the exponentially distributed delay on top.
  package var meanExtraDelay: Duration = .microseconds(700)
  /// The share of packets that vanish, in parts per million.
  package var lossPerMillion: Int = 0
  /// The share of packets that arrive twice, in parts per million.
  package var duplicationPerMillion: Int = 0
  /// The share of packets that later ones may overtake, in parts per million.
  package var reorderPerMillion: Int = 0
  /// What the direction carries, in bytes a second.
  package var bytesPerSecond: Int = 12_500_000
  /// Bytes that may wait for their turn; packets beyond are dropped.
  package var queueLimit: Int = 256 * 1024
  /// The largest packet, IP header included; larger ones vanish without a word.
  package var largestPacket: Int = 1_500

  /// A quiet home network.
  package init() {}

  /// The same conditions with this loss.
  package func losing(perMillion: Int) -> LinkConditions {
    var changed = self
    changed.lossPerMillion = perMillion
    return changed
  }
}

/// What a link does with one packet.
package enum LinkOutcome: Equatable, Sendable {
  /// It arrives at these times: one, or two when the network duplicates it.
  case arrives([MonotonicInstant])
  /// Chance took it.
  case lost
  /// The queue before the link was full.
  case queueFull
  /// It is larger than the link carries.
  case tooLarge
}

/// One direction between two devices: its conditions, its queue and its own stream of chance.
package struct Link: Sendable {
  /// How far a reordered packet falls behind at most.
  package static let reorderWindow: Duration = .milliseconds(20)

  /// How packets are treated from now on.
  package var conditions: LinkConditions
  private var generator: SeededGenerator
  private var busyUntil = MonotonicInstant.zero
  private var clogged = MonotonicInstant.zero
  private var lastArrival = MonotonicInstant.zero

  /// A direction with its own stream of chance.
  package init(conditions: LinkConditions, generator: SeededGenerator) {
    self.conditions = conditions
    self.generator = generator
  }

  /// Lets nothing through until `time`; what is sent meanwhile waits in the queue.
  package mutating func clog(until time: MonotonicInstant) { clogged = max(clogged, time) }

  /// The fate of a packet of `byteCount` bytes that is sent at `time`.
  package mutating func send(byteCount: Int, at time: MonotonicInstant) -> LinkOutcome {
    guard byteCount <= conditions.largestPacket else { return .tooLarge }
    guard let departure = depart(byteCount: byteCount, at: time) else { return .queueFull }
    if chance(conditions.lossPerMillion) { return .lost }
    var times = [arrival(after: departure)]
    if chance(conditions.duplicationPerMillion) { times.append(arrival(after: departure)) }
    return .arrives(times)
  }

  /// The fate of a segment of a stream, which is neither duplicated nor too large: the stream cuts and filters it.
  package mutating func sendSegment(byteCount: Int, at time: MonotonicInstant) -> LinkOutcome {
    guard let departure = depart(byteCount: byteCount, at: time) else { return .queueFull }
    if chance(conditions.lossPerMillion) { return .lost }
    return .arrives([arrival(after: departure)])
  }

  private mutating func depart(byteCount: Int, at time: MonotonicInstant) -> MonotonicInstant? {
    let start = max(time, max(busyUntil, clogged))
    let waiting = time.duration(to: busyUntil).wholeNanoseconds
    let queued = waiting > 0 ? Double(waiting) * 1e-9 * Double(conditions.bytesPerSecond) : 0
    guard Int(queued) + byteCount <= conditions.queueLimit else { return nil }
    let sending = Int64(byteCount) * 1_000_000_000 / Int64(max(conditions.bytesPerSecond, 1))
    busyUntil = start.advanced(by: .nanoseconds(sending))
    return busyUntil
  }

  private mutating func arrival(after departure: MonotonicInstant) -> MonotonicInstant {
    let mean = conditions.meanExtraDelay.wholeNanoseconds
    let extra = mean > 0 ? Int64(generator.exponential() * Double(mean)) : 0
    let plain = departure.advanced(by: conditions.minimumDelay + .nanoseconds(extra))
    if chance(conditions.reorderPerMillion) {
      let behind = Int64(generator.uniform(below: Int(Self.reorderWindow.wholeNanoseconds)))
      return plain.advanced(by: .nanoseconds(behind))
    }
    lastArrival = max(lastArrival, plain)
    return lastArrival
  }

  private mutating func chance(_ perMillion: Int) -> Bool {
    perMillion > 0 && generator.uniform(below: 1_000_000) < perMillion
  }
}

extension SeededGenerator {
  /// A sample of the exponential distribution with mean 1.
  ///
  /// By comparisons of uniforms alone (J. von Neumann, "Various techniques used in connection with random digits",
  /// 1951), so that its bits do not depend on a maths library.
  package mutating func exponential() -> Double {
    var whole = 0.0
    while true {
      let first = next()
      var previous = first
      var isOdd = true
      while true {
        let following = next()
        if following > previous { break }
        previous = following
        isOdd.toggle()
      }
      if isOdd { return whole + Double(first >> 11) * 0x1p-53 }
      whole += 1
    }
  }
}
