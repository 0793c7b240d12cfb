import Determinism

/// How the network of a job's run treats what goes over it.
package struct JobNetworkConditions: Sendable, Hashable {
  /// Of messages on control sessions, in parts per million.
  package var lossPerMillion = 0
  /// Of messages on control sessions, in parts per million.
  package var duplicationPerMillion = 0
  /// Of messages on control sessions, in parts per million.
  package var reorderPerMillion = 0
  /// What nothing is faster than.
  package var minimumDelay: Duration = .microseconds(500)
  /// The mean of what comes on top, exponentially distributed.
  package var meanExtraDelay: Duration = .milliseconds(1)
  /// Bytes a second of one direction.
  package var bytesPerSecond = 10_000_000

  /// A quiet home network.
  package init() {}

  fileprivate var control: LinkConditions {
    var conditions = LinkConditions()
    conditions.lossPerMillion = lossPerMillion
    conditions.duplicationPerMillion = duplicationPerMillion
    conditions.reorderPerMillion = reorderPerMillion
    conditions.minimumDelay = minimumDelay
    conditions.meanExtraDelay = meanExtraDelay
    conditions.bytesPerSecond = bytesPerSecond
    conditions.largestPacket = .max
    return conditions
  }

  fileprivate var bulk: LinkConditions {
    var conditions = control
    conditions.lossPerMillion = 0
    conditions.duplicationPerMillion = 0
    conditions.reorderPerMillion = 0
    conditions.queueLimit = .max / 2
    return conditions
  }
}

/// The wires between the devices of a simulated job: lossy messages on control sessions, ordered streams for bulk.
struct JobNetwork: Sendable {
  let count: Int
  private var control: [Link] = []
  private var bulk: [Link] = []
  private var cuts: [Bool]
  private var groups: [Int]

  init(devices: Int, conditions: JobNetworkConditions, seed: UInt64) {
    count = devices
    cuts = Array(repeating: false, count: devices * devices)
    groups = Array(repeating: 0, count: devices)
    for from in 0..<devices {
      for to in 0..<devices {
        let name = UInt64(from * devices + to)
        control.append(
          Link(conditions: conditions.control, generator: SeededGenerator(seed: seed, 0x636F_6E74, name)))
        bulk.append(
          Link(conditions: conditions.bulk, generator: SeededGenerator(seed: seed, 0x6275_6C6B, name)))
      }
    }
  }

  mutating func set(_ conditions: JobNetworkConditions) {
    for index in control.indices {
      control[index].conditions = conditions.control
      bulk[index].conditions = conditions.bulk
    }
  }

  mutating func cut(from: Int, to: Int, _ isCut: Bool) { cuts[from * count + to] = isCut }
  mutating func partition(_ groups: [Int]) { self.groups = groups }

  mutating func mend() {
    cuts = Array(repeating: false, count: count * count)
    groups = Array(repeating: 0, count: count)
  }

  /// Whether anything gets from one device to another.
  func carries(from: Int, to: Int) -> Bool { groups[from] == groups[to] && !cuts[from * count + to] }

  /// Whether a stream can be kept between two devices.
  func connects(_ one: Int, _ other: Int) -> Bool {
    carries(from: one, to: other) && carries(from: other, to: one)
  }

  /// When a message on a control session arrives: never, once or twice.
  mutating func message(bytes: Int, from: Int, to: Int, at time: MonotonicInstant) -> [MonotonicInstant] {
    guard carries(from: from, to: to) else { return [] }
    guard case .arrives(let times) = control[from * count + to].send(byteCount: bytes, at: time) else {
      return []
    }
    return times
  }

  /// When a piece of a stream that is connected arrives, in order.
  mutating func segment(bytes: Int, from: Int, to: Int, at time: MonotonicInstant) -> MonotonicInstant {
    guard case .arrives(let times) = bulk[from * count + to].sendSegment(byteCount: bytes, at: time),
      let arrival = times.first
    else { preconditionFailure("a stream without loss or limit lost a piece") }
    return arrival
  }
}
