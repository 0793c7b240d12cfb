package import Determinism

/// How a device's firewall treats what comes in unasked.
package enum InboundRule: Hashable, Sendable {
  /// Everything comes in.
  case open
  /// Connections are answered with a reset, datagrams vanish unless they answer one that went out.
  case rejected
  /// Connections and datagrams vanish, unless they answer one that went out.
  case dropped
}

/// The wires of the home: one link for each direction between two devices, partitions, and firewalls.
package struct SimulatedNetwork: Sendable {
  /// How long a firewall lets answers to a datagram in (the usual time of connection tracking for UDP).
  package static let trackedTime: Duration = .seconds(30)

  /// How many devices are attached.
  package let deviceCount: Int
  private var links: [Link]
  private var groups: [Int]
  private var cuts: [Bool]
  private var udpBlocked: [Bool]
  private var inbound: [InboundRule]
  private var isMulticastBlocked = false
  private var lastSent: [MonotonicInstant?]
  /// Bytes of IP packets that each device has sent to one other.
  package private(set) var unicastBytes: [Int]
  /// Bytes of IP packets that each device has sent to all.
  package private(set) var multicastBytes: [Int]

  /// A network on which all links have the same conditions.
  package init(deviceCount: Int, conditions: LinkConditions, seed: UInt64) {
    self.deviceCount = deviceCount
    links = (0..<deviceCount * deviceCount).map { index in
      let stream = SeededGenerator(
        seed: seed, 0x6C69_6E6B, UInt64(index / deviceCount), UInt64(index % deviceCount))
      return Link(conditions: conditions, generator: stream)
    }
    groups = Array(repeating: 0, count: deviceCount)
    cuts = Array(repeating: false, count: deviceCount * deviceCount)
    udpBlocked = Array(repeating: false, count: deviceCount)
    inbound = Array(repeating: .open, count: deviceCount)
    lastSent = Array(repeating: nil, count: deviceCount * deviceCount)
    unicastBytes = Array(repeating: 0, count: deviceCount)
    multicastBytes = Array(repeating: 0, count: deviceCount)
  }

  // MARK: - Faults

  /// Changes the conditions of one direction.
  package mutating func setConditions(_ conditions: LinkConditions, from: Int, to: Int) {
    links[index(from, to)].conditions = conditions
  }

  /// The conditions of one direction.
  package func conditions(from: Int, to: Int) -> LinkConditions { links[index(from, to)].conditions }

  /// Lets nothing through in one direction until `time`; it arrives late.
  package mutating func clog(from: Int, to: Int, until time: MonotonicInstant) {
    links[index(from, to)].clog(until: time)
  }

  /// Splits the network: only devices of one group hear each other.
  package mutating func partition(_ groups: [Int]) {
    precondition(groups.count == deviceCount, "\(groups.count) groups for \(deviceCount) devices")
    self.groups = groups
  }

  /// Cuts or mends one direction.
  package mutating func cut(from: Int, to: Int, _ isCut: Bool) { cuts[index(from, to)] = isCut }

  /// Blocks or allows all datagrams of a device.
  package mutating func blockUDP(of device: Int, _ isBlocked: Bool) { udpBlocked[device] = isBlocked }

  /// Changes what a device's firewall lets in.
  package mutating func setInbound(of device: Int, _ rule: InboundRule) { inbound[device] = rule }

  /// Blocks or allows multicast and broadcast, as some access points do.
  package mutating func blockMulticast(_ isBlocked: Bool) { isMulticastBlocked = isBlocked }

  /// Mends everything: links keep their delays and lose nothing.
  package mutating func mend() {
    for device in 0..<deviceCount {
      groups[device] = 0
      udpBlocked[device] = false
      inbound[device] = .open
    }
    for index in links.indices {
      cuts[index] = false
      links[index].conditions.lossPerMillion = 0
      links[index].conditions.duplicationPerMillion = 0
      links[index].conditions.reorderPerMillion = 0
    }
    isMulticastBlocked = false
  }

  // MARK: - Reachability

  /// Whether packets find their way in this direction, loss aside.
  package func carries(from: Int, to: Int) -> Bool {
    groups[from] == groups[to] && !cuts[index(from, to)]
  }

  /// Whether packets find their way in both directions.
  package func connects(_ one: Int, _ other: Int) -> Bool {
    carries(from: one, to: other) && carries(from: other, to: one)
  }

  /// What the firewall of `device` does with a connection from outside.
  package func inboundRule(of device: Int) -> InboundRule { inbound[device] }

  /// Whether at least one of two devices can open a connection to the other.
  package func canConnect(_ one: Int, _ other: Int) -> Bool {
    connects(one, other) && (inbound[one] == .open || inbound[other] == .open)
  }

  // MARK: - Packets

  /// The fate of a datagram of `byteCount` bytes with its headers.
  package mutating func sendDatagram(
    byteCount: Int, from: Int, to: Int, at time: MonotonicInstant
  ) -> LinkOutcome {
    unicastBytes[from] += byteCount
    lastSent[index(from, to)] = time
    guard carries(from: from, to: to), !udpBlocked[from], !udpBlocked[to],
      admits(from: from, to: to, at: time)
    else { return .lost }
    return links[index(from, to)].send(byteCount: byteCount, at: time)
  }

  /// The fate of one device's beacon at another; the sender's bytes are counted once by `countMulticast`.
  package mutating func sendMulticast(
    byteCount: Int, from: Int, to: Int, at time: MonotonicInstant
  ) -> LinkOutcome {
    guard !isMulticastBlocked, carries(from: from, to: to), !udpBlocked[from], !udpBlocked[to],
      inbound[to] == .open
    else { return .lost }
    return links[index(from, to)].send(byteCount: byteCount, at: time)
  }

  /// Counts a packet to all.
  package mutating func countMulticast(byteCount: Int, from: Int) { multicastBytes[from] += byteCount }

  /// The fate of a segment of a stream; whether it may come in at all was decided when the stream was opened.
  package mutating func sendSegment(
    byteCount: Int, from: Int, to: Int, at time: MonotonicInstant
  ) -> LinkOutcome {
    unicastBytes[from] += byteCount
    guard carries(from: from, to: to) else { return .lost }
    return links[index(from, to)].sendSegment(byteCount: byteCount, at: time)
  }

  /// Counts an acknowledgement of a stream, which the simulation does not send as a packet of its own.
  package mutating func countAcknowledgement(byteCount: Int, from: Int) { unicastBytes[from] += byteCount }

  /// Counts a packet that its sender sent and that nothing answers to.
  package mutating func countLost(byteCount: Int, from: Int) { unicastBytes[from] += byteCount }

  private func admits(from: Int, to: Int, at time: MonotonicInstant) -> Bool {
    guard inbound[to] != .open else { return true }
    guard let sent = lastSent[index(to, from)] else { return false }
    return sent.duration(to: time) <= Self.trackedTime
  }

  private func index(_ from: Int, _ to: Int) -> Int { from * deviceCount + to }
}
