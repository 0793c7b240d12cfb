import Determinism
import GossipMembership
import MeshModel

/// Some devices on one network in virtual time: the same seed gives the same run.
///
/// Datagrams take 1 to 6 ms and may be lost; sessions lose nothing but wait out lost packets, break when nothing
/// gets through for 15 s, and are dialled again with growing pauses.
struct HouseholdLab {
  /// What may happen to a machine.
  enum Condition { case running, frozen, asleep, off }

  struct Machine {
    var membership: Membership
    var condition = Condition.running
    /// Nanoseconds that the machine has been asleep, and when the present sleep began.
    var asleep: Int64 = 0
    var asleepSince: Int64 = 0
    var boots: UInt32 = 1
    var tickVersion = 0
    /// What arrived while the process did not run.
    var inbox: [GossipInput] = []
    var bytesSent = 0
    var bytesReceived = 0
    var sentCounts = [0, 0, 0]
  }

  struct Change: Equatable {
    let time: Double
    let observer: Int
    let device: DeviceID
    let from: MemberState?
    let to: MemberState
  }

  private enum Event {
    case tick(machine: Int, version: Int)
    case arrive(machine: Int, GossipInput, byteCount: Int, from: Int)
    case sessionDue(from: Int, to: Int, GossipInput, byteCount: Int, since: Int64)
    case redial(Int, Int, pause: Int64)
  }

  private(set) var now: Int64 = 0
  private(set) var machines: [Machine] = []
  private(set) var changes: [Change] = []
  private(set) var leaders: [(time: Double, observer: Int, leader: DeviceID?)] = []
  private(set) var absences: [(observer: Int, duration: Duration)] = []
  private(set) var longestMessage = 0
  private(set) var trace: [String] = []
  var keepsTrace = false
  /// The share of datagrams and of TCP packets that are lost.
  var loss = 0.0
  /// Pairs (from, to) of machines between which nothing gets through.
  var cuts: Pairs
  /// Pairs (from, to) between which datagrams are blocked, sessions not.
  var blocked: Pairs
  /// Pairs with a standing session, both ways.
  private var sessions: Pairs
  private var generator: SeededGenerator
  private var events = EventHeap<Event>()
  let profile: GossipProfile

  init(
    _ count: Int, seed: UInt64, profile: GossipProfile = .household, connected: Bool = true,
    traits: (Int) -> DeviceTraits = { _ in .plain }
  ) {
    self.profile = profile
    (cuts, blocked, sessions) = (Pairs(count), Pairs(count), Pairs(count))
    generator = SeededGenerator(seed: seed, 1)
    let names = (0..<count).map { Self.name($0) }
    for index in 0..<count {
      let record = MemberRecord(
        device: names[index], incarnation: Incarnation(boot: BootID(counter: 1, nonce: 0)),
        addresses: [Self.address(index)], traits: traits(index))
      let membership = Membership(
        own: record, profile: profile, generator: SeededGenerator(seed: seed, 2, UInt64(index)),
        at: ClockReading(monotonic: .zero, sinceBoot: .zero))
      machines.append(Machine(membership: membership))
    }
    for index in 0..<count { deliver(.roster(names), to: index) }
    guard connected else { return }
    for left in 0..<count { for right in (left + 1)..<max(count, left + 1) { open(left, right) } }
  }

  /// Names that are spread like hashes, and not in the order of the machines.
  private static let names: [DeviceID] = (0..<GossipLimits.members + 44).compactMap { index in
    var generator = SeededGenerator(seed: 77, UInt64(index))
    return DeviceID(bytes: (0..<16).map { _ in UInt8(truncatingIfNeeded: generator.next()) })
  }

  static func name(_ index: Int) -> DeviceID { names[index] }

  static func address(_ index: Int) -> NetworkAddress {
    NetworkAddress(.v4(0xC0A8_0100 | UInt32(index + 1)), port: 7946)
  }

  static func index(of device: DeviceID, below count: Int) -> Int? {
    names[..<count].firstIndex(of: device)
  }

  var seconds: Double { Double(now) * 1e-9 }

  func reading(_ machine: Int) -> ClockReading {
    let asleep =
      machines[machine].asleep
      + (machines[machine].condition == .asleep ? now - machines[machine].asleepSince : 0)
    return ClockReading(
      monotonic: MonotonicInstant(nanoseconds: now - asleep), sinceBoot: MonotonicInstant(nanoseconds: now))
  }

  func state(of device: Int, seenBy observer: Int) -> MemberState? {
    machines[observer].membership.member(Self.name(device))?.record.state
  }

  func isRunning(_ machine: Int) -> Bool { machines[machine].condition == .running }

  mutating func digests() -> [ViewDigest] {
    machines.indices.map { machines[$0].membership.digest() }
  }

  // MARK: - Time

  mutating func run(seconds: Double) {
    let end = now + Int64(seconds * 1e9)
    while let (time, event) = events.popFirst(through: end) {
      now = time
      happen(event)
    }
    now = end
  }

  /// Runs until the condition holds, looking every `step` seconds; the time that it took, or nil.
  mutating func run(atMost limit: Double, step: Double = 0.1, until holds: (inout HouseholdLab) -> Bool)
    -> Double?
  {
    let start = now
    while Double(now - start) * 1e-9 < limit {
      if holds(&self) { return Double(now - start) * 1e-9 }
      run(seconds: step)
    }
    return holds(&self) ? limit : nil
  }

  private mutating func happen(_ event: Event) {
    switch event {
    case .tick(let machine, let version):
      guard machines[machine].tickVersion == version else { return }
      // A process that does not run finds its timer expired when it goes on.
      guard isRunning(machine) else { return }
      deliver(.tick, to: machine)
    case .arrive(let machine, let input, let byteCount, let sender):
      guard !cuts[sender, machine] else { return }
      switch machines[machine].condition {
      case .off, .asleep: return
      case .frozen:
        machines[machine].bytesReceived += byteCount
        machines[machine].inbox.append(input)
      case .running:
        machines[machine].bytesReceived += byteCount
        deliver(input, to: machine)
      }
    case .sessionDue(let sender, let receiver, let input, let byteCount, let since):
      sessionDue(from: sender, to: receiver, input, byteCount, since: since)
    case .redial(let left, let right, let pause): redial(left, right, pause: pause)
    }
  }

  /// Hands an input to a device and carries out what it wants.
  mutating func deliver(_ input: GossipInput, to machine: Int) {
    let effects = machines[machine].membership.handle(input, at: reading(machine))
    if keepsTrace { trace.append("\(now) \(machine) \(input) -> \(effects)") }
    for effect in effects { perform(effect, of: machine) }
    machines[machine].tickVersion += 1
    let due = machines[machine].membership.nextDeadline.nanoseconds + machines[machine].asleep
    events.push(max(due, now), .tick(machine: machine, version: machines[machine].tickVersion))
  }

  // MARK: - Network

  private mutating func perform(_ effect: GossipEffect, of machine: Int) {
    let count = machines.count
    switch effect {
    case .datagram(let device, let body):
      guard let receiver = Self.index(of: device, below: count), hasSession(machine, receiver) else { return }
      machines[machine].sentCounts[0] += 1
      longestMessage = max(longestMessage, body.count)
      let bytes = Overhead.datagram(body.count)
      machines[machine].bytesSent += bytes
      guard !isLost(), !blocked[machine, receiver] else { return }
      let input = GossipInput.message(body, from: Self.name(machine), over: .datagram)
      events.push(now + latency(), .arrive(machine: receiver, input, byteCount: bytes, from: machine))
    case .sessionMessage(let device, let body):
      machines[machine].sentCounts[1] += 1
      sendOverSession(.message(body, from: Self.name(machine), over: .session), body.count, machine, device)
    case .viewExchange(let device, let body):
      machines[machine].sentCounts[2] += 1
      sendOverSession(.viewExchange(body, from: Self.name(machine)), body.count, machine, device)
    case .changed(let record, let before):
      changes.append(
        Change(time: seconds, observer: machine, device: record.device, from: before, to: record.state))
    case .leaderSuggestion(let leader): leaders.append((seconds, machine, leader))
    case .away(let duration): absences.append((machine, duration))
    case .updated, .dropped: break
    }
  }

  private mutating func sendOverSession(
    _ input: GossipInput, _ byteCount: Int, _ sender: Int, _ device: DeviceID
  ) {
    guard let receiver = Self.index(of: device, below: machines.count), hasSession(sender, receiver) else {
      return
    }
    longestMessage = max(longestMessage, byteCount)
    let bytes = Overhead.session(byteCount)
    machines[sender].bytesSent += bytes
    machines[sender].bytesReceived += Overhead.acknowledgement
    events.push(
      now + latency(), .sessionDue(from: sender, to: receiver, input, byteCount: bytes, since: now))
  }

  private mutating func sessionDue(
    from sender: Int, to receiver: Int, _ input: GossipInput, _ byteCount: Int, since: Int64
  ) {
    guard hasSession(sender, receiver) else { return }
    let isCut = cuts[sender, receiver] || cuts[receiver, sender]
    let isDeaf = machines[receiver].condition == .asleep || machines[receiver].condition == .off
    if isCut || isDeaf {
      guard now - since < 15_000_000_000 else { return close(sender, receiver) }
      events.push(
        now + 500_000_000, .sessionDue(from: sender, to: receiver, input, byteCount: byteCount, since: since))
      return
    }
    if isLost() {
      // The retransmission time-out of TCP is at least 200 ms.
      events.push(
        now + 200_000_000, .sessionDue(from: sender, to: receiver, input, byteCount: byteCount, since: since))
      return
    }
    machines[receiver].bytesReceived += byteCount
    machines[receiver].bytesSent += Overhead.acknowledgement
    if isRunning(receiver) { deliver(input, to: receiver) } else { machines[receiver].inbox.append(input) }
  }

  private func hasSession(_ left: Int, _ right: Int) -> Bool {
    sessions[left, right]
  }

  mutating func open(_ left: Int, _ right: Int) {
    guard left != right, !sessions[left, right] else { return }
    sessions.set(left, right)
    deliver(.reachable(Self.name(right)), to: left)
    deliver(.reachable(Self.name(left)), to: right)
  }

  /// Breaks a session; both sides dial again.
  mutating func close(_ left: Int, _ right: Int) {
    guard sessions[left, right] else { return }
    sessions.set(left, right, to: false)
    for (here, there) in [(left, right), (right, left)] {
      let input = GossipInput.unreachablePath(Self.name(there))
      switch machines[here].condition {
      case .running: deliver(input, to: here)
      case .frozen, .asleep: machines[here].inbox.append(input)
      case .off: break
      }
    }
    events.push(now + 1_000_000_000, .redial(left, right, pause: 1_000_000_000))
  }

  private mutating func redial(_ left: Int, _ right: Int, pause: Int64) {
    guard !hasSession(left, right) else { return }
    let isCut = cuts[left, right] || cuts[right, left]
    if !isCut, isRunning(left), isRunning(right) { return open(left, right) }
    let next = min(pause * 2, 15_000_000_000)
    let jitter = Int64(generator.uniform(below: Int(next / 4)))
    events.push(now + next + jitter, .redial(left, right, pause: next))
  }

  private mutating func isLost() -> Bool { loss > 0 && Double(generator.uniformFloat()) < loss }

  private mutating func latency() -> Int64 { 1_000_000 + Int64(generator.uniform(below: 5_000_000)) }

  // MARK: - Faults

  /// Cuts every path between the two groups, both ways.
  mutating func partition(_ group: [Int], from rest: [Int]) {
    for left in group { for right in rest { cuts.set(left, right) } }
  }

  mutating func heal() { cuts = Pairs(machines.count) }

  /// Switches the machine off: it vanishes without a word.
  mutating func powerOff(_ machine: Int) {
    machines[machine].condition = .off
    machines[machine].inbox = []
  }

  /// Ends the process: its sessions break at once.
  mutating func kill(_ machine: Int) {
    powerOff(machine)
    for other in machines.indices where other != machine { close(machine, other) }
  }

  /// Starts the machine again, with a boot counter that is one higher.
  mutating func start(_ machine: Int, traits: DeviceTraits = .plain) {
    for other in machines.indices where other != machine { close(machine, other) }
    machines[machine].boots += 1
    machines[machine].condition = .running
    let boot = BootID(counter: machines[machine].boots, nonce: 0)
    let record = MemberRecord(
      device: Self.name(machine), incarnation: Incarnation(boot: boot), addresses: [Self.address(machine)],
      traits: traits)
    machines[machine].membership = Membership(
      own: record, profile: profile, generator: SeededGenerator(seed: generator.next()), at: reading(machine))
    deliver(.roster(machines.indices.map { Self.name($0) }), to: machine)
    // It dials at once; the others' redial pauses do not matter.
    for other in machines.indices where other != machine {
      events.push(now + 100_000_000, .redial(machine, other, pause: 1_000_000_000))
    }
  }

  mutating func freeze(_ machine: Int) { machines[machine].condition = .frozen }

  mutating func suspend(_ machine: Int) {
    machines[machine].condition = .asleep
    machines[machine].asleepSince = now
  }

  /// Goes on after a freeze or a sleep, with what has queued up; the expired timer comes first or last.
  mutating func goOn(_ machine: Int) {
    if machines[machine].condition == .asleep {
      machines[machine].asleep += now - machines[machine].asleepSince
    }
    machines[machine].condition = .running
    let inbox = machines[machine].inbox
    machines[machine].inbox = []
    if generator.uniform(below: 2) == 0 { deliver(.tick, to: machine) }
    for input in inbox { deliver(input, to: machine) }
    deliver(.tick, to: machine)
    for other in machines.indices where other != machine && !hasSession(machine, other) {
      events.push(now + 100_000_000, .redial(machine, other, pause: 1_000_000_000))
    }
  }
}

/// A set of ordered pairs of machines.
struct Pairs {
  private let count: Int
  private var bits: [Bool]

  init(_ count: Int) {
    self.count = count
    bits = [Bool](repeating: false, count: count * count)
  }

  subscript(from: Int, to: Int) -> Bool { bits[from * count + to] }

  /// Puts the pair in or takes it out, both ways round.
  mutating func set(_ left: Int, _ right: Int, to value: Bool = true) {
    bits[left * count + right] = value
    bits[right * count + left] = value
  }
}

/// What the network adds to a body.
enum Overhead {
  /// Ethernet's header and check sequence, IPv6.
  static let packet = 18 + 40
  /// UDP's header; type, receiver, counter and tag of the encryption.
  static func datagram(_ body: Int) -> Int { body + 28 + 8 + packet }
  /// Frame header; record length and tag; TCP's header with time stamps.
  static func session(_ body: Int) -> Int { body + 8 + 18 + 32 + packet }
  /// A TCP segment without data.
  static let acknowledgement = 32 + packet
}

/// Events by time, then by the order in which they were added.
struct EventHeap<Element> {
  private var heap: [(time: Int64, order: Int, element: Element)] = []
  private var nextOrder = 0

  mutating func push(_ time: Int64, _ element: Element) {
    heap.append((time, nextOrder, element))
    nextOrder += 1
    var child = heap.count - 1
    while child > 0, isBefore(child, (child - 1) / 2) {
      heap.swapAt(child, (child - 1) / 2)
      child = (child - 1) / 2
    }
  }

  mutating func popFirst(through end: Int64) -> (Int64, Element)? {
    guard let first = heap.first, first.time <= end else { return nil }
    heap.swapAt(0, heap.count - 1)
    heap.removeLast()
    var parent = 0
    while true {
      var least = parent
      for child in [2 * parent + 1, 2 * parent + 2] where child < heap.count && isBefore(child, least) {
        least = child
      }
      if least == parent { break }
      heap.swapAt(parent, least)
      parent = least
    }
    return (first.time, first.element)
  }

  private func isBefore(_ left: Int, _ right: Int) -> Bool {
    (heap[left].time, heap[left].order) < (heap[right].time, heap[right].order)
  }
}

extension DeviceTraits {
  /// A laptop.
  static let plain = DeviceTraits(
    power: .battery, attachment: .wireless, cores: 4, memoryMebibytes: 8192, isAvailable: true,
    wireVersions: .current, version: "1.0.0")
}

/// The value below which the share lies (nearest rank).
func percentile(_ share: Double, of values: [Double]) -> Double {
  let sorted = values.sorted()
  return sorted[min(sorted.count - 1, Int((Double(sorted.count) * share).rounded(.up)) - 1)]
}
