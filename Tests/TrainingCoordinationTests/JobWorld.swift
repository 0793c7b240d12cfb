import CryptoPrimitives
import Determinism
import HouseholdTrust
import MeshModel
import ParallelPlanner
import Testing
import TrainingCoordination
import WireCoding

/// A household of coordinators over a network with delays and losses; each has a shell that does what it wants, with a
/// run that commits a step now and then as long as all devices of the plan run it.
struct JobWorld {
  /// A device and its shell.
  struct Node {
    let keys: DeviceKeys
    var coordinator: JobCoordinator?
    var disk: StoredJob?
    /// The step whose state is on the disk; a restarted device begins with it.
    var savedStep: UInt64 = 0
    var step: UInt64 = 0
    var run: Run?
    var isUp = true
    var isFrozen = false
    var group = 0
    var ended: [JobOutcome] = []
    var started: [JobStamp] = []
    var prepared = 0
    var asked: [PlanRequest] = []
    var surveys: [MonotonicInstant] = []
    /// How often somebody told this device of links.
    var linksTold = 0
    var links: [DeviceLink] { coordinator?.knownLinks ?? [] }
    var delivered = 0
    var waiting: [(due: MonotonicInstant, event: JobInput)] = []
  }

  struct Run {
    let certificate: PlanCertificate
    var isDraining = false
    var isBroken: RunStop?
    var since: MonotonicInstant
    var hasLearned = false
    var stamp: JobStamp { certificate.stamp }
  }

  struct Letter {
    let bytes: [UInt8]
    let sender: Int
    let recipient: Int
    let due: MonotonicInstant
  }

  /// What the planner does with devices that have no role.
  enum Joining { case direct, learn, keep(String) }

  /// What comes of a survey of links: nothing, a failure, or one without the links to some devices.
  enum Surveying { case silence, failure, without(Set<Int>) }

  static let tick: Duration = .milliseconds(50)
  static let gossip: Duration = .seconds(8)

  let specification: JobSpecification
  var nodes: [Node]
  var letters: [Letter] = []
  var now = MonotonicInstant.zero
  var generator: SeededGenerator
  /// One letter of this many is lost, and one is repeated; 0 means none.
  var lossEvery = 0
  var repeatEvery = 0
  var delayMilliseconds = 20
  /// Devices of whose step nothing comes: the step's name.
  var stuck: [Int: String] = [:]
  /// What comes of a device's surveys; an answer with the links of all that it reaches otherwise.
  var surveying: [Int: Surveying] = [:]
  /// Whether leaders are of a build that tells nobody of its links.
  var leadersAreOld = false
  /// What a device's run gives; different digests are a defect that must be seen.
  var digests: [Int: UInt8] = [:]
  var steps: UInt64 = 40
  /// Steps of one pass over the samples: a second's.
  var stepsPerEpoch: UInt64 = 20
  var joining = Joining.direct
  /// Devices to which no session leads, although gossip goes round.
  var unreachable: Set<DeviceID> = []
  /// What one device computes for a step.
  var secondsPerStep: [Int: Double] = [:]
  /// Why there is no plan for so few devices.
  var unplannable: (fewer: Int, reason: String)?
  /// Devices without which the planner finds the plan faster.
  var unwanted: Set<Int> = []
  var planning: Duration = .milliseconds(50)
  var admins: Set<Int> = []
  /// Two devices whose bulk data does not reach each other.
  var brokenLink: (Int, Int)?
  /// The plan of every plan epoch, as whichever disk had it first.
  var plans: [JobStamp: PlanProposal] = [:]
  /// How often each device has told each other one how it is: by sender and recipient.
  private(set) var told: [[Int]] = []
  private var parted: [Int: MonotonicInstant] = [:]
  private var memberships: [Int: JobMembership] = [:]

  init(count: Int, roster: Int, owner: Int = 0, leader: Int = 0, seed: UInt64) {
    specification = JobFixture.specification(roster, owner: owner, leader: leader)
    generator = SeededGenerator(seed: seed)
    nodes = JobFixture.devices.prefix(count).map { Node(keys: $0) }
    told = Array(repeating: Array(repeating: 0, count: count), count: count)
  }

  func id(_ index: Int) -> DeviceID { nodes[index].keys.device }
  func index(_ device: DeviceID) -> Int { nodes.firstIndex { $0.keys.device == device }! }

  // MARK: - Gossip

  private func isConnected(_ one: Int, _ other: Int) -> Bool {
    nodes[one].isUp && nodes[other].isUp && nodes[one].group == nodes[other].group
  }

  /// The household as a device sees it: gossip needs some seconds for a loss.
  private func membership(of own: Int) -> JobMembership {
    var alive: Set<DeviceID> = [id(own)]
    var reachable: Set<DeviceID> = [id(own)]
    for other in nodes.indices where other != own {
      let since = parted[own * nodes.count + other]
      if since.map({ $0.duration(to: now) < Self.gossip }) ?? true { alive.insert(id(other)) }
      if nodes[other].isUp, since.map({ $0.duration(to: now) < Self.gossip }) ?? true,
        !unreachable.contains(id(other))
      {
        reachable.insert(id(other))
      }
    }
    let first = nodes.indices.first { alive.contains(id($0)) }
    return JobMembership(
      alive: alive, reachable: reachable, leader: first.map(id), keys: JobFixture.keys,
      admins: Set(admins.map(id)))
  }

  private mutating func gossip() {
    for own in nodes.indices {
      for other in nodes.indices where other != own {
        let key = own * nodes.count + other
        let isConnected = isConnected(own, other) && !nodes[other].isFrozen
        parted[key] = isConnected ? nil : parted[key] ?? now
      }
    }
    for own in nodes.indices where nodes[own].isUp && !nodes[own].isFrozen {
      let new = membership(of: own)
      if memberships[own] != new {
        memberships[own] = new
        handle(.membership(new), own)
      }
    }
  }

  // MARK: - The shells

  mutating func submit() { begin(index(specification.owner)) }

  mutating func begin(_ own: Int, from record: StoredJob? = nil) {
    var coordinator = JobCoordinator(
      own: id(own), record: record ?? StoredJob(specification), keys: nodes[own].keys,
      membership: membership(of: own), generator: SeededGenerator(seed: generator.next()), at: now)
    let effects = coordinator.begin(isRestart: record != nil, at: now)
    nodes[own].coordinator = coordinator
    perform(effects, of: own)
  }

  mutating func handle(_ event: JobInput, _ own: Int) {
    guard nodes[own].isUp, let effects = nodes[own].coordinator?.handle(event, at: now) else { return }
    perform(effects, of: own)
  }

  private mutating func perform(_ effects: [JobEffect], of own: Int) {
    for effect in effects {
      switch effect {
      case .persist(let record): store(record, own)
      case .send(let message, let device): send(message, from: own, to: index(device))
      case .prepare:
        nodes[own].prepared += 1
        answer(own, "prepare", .prepared(report: [UInt8(own)]))
      case .plan(let request): plan(request, own)
      case .survey(let request): survey(request, own)
      case .fetch(let certificate):
        nodes[own].waiting.removeAll { if case .ready = $0.event { true } else { false } }
        answer(own, "fetch", .ready(certificate.stamp))
      case .start(let certificate):
        #expect(nodes[own].run == nil, "device \(own) runs two plans")
        #expect(!nodes[own].started.contains(certificate.stamp), "device \(own) runs a plan twice")
        nodes[own].started.append(certificate.stamp)
        nodes[own].run = Run(certificate: certificate, since: now)
      case .drain: nodes[own].run?.isDraining = true
      case .interrupt(let reason):
        let stop = RunStop(committedStep: nodes[own].step, culprit: .elsewhere, reason: reason)
        nodes[own].run?.isBroken = stop
      case .deliver:
        nodes[own].delivered += 1
        answer(own, "deliver", .delivered(JobFixture.digest(99)))
      case .end(let outcome):
        nodes[own].ended.append(outcome)
        nodes[own].run = nil
      }
    }
  }

  private mutating func store(_ record: StoredJob, _ own: Int) {
    if let before = nodes[own].disk {
      #expect(
        (before.position.term, before.position.epoch) <= (record.position.term, record.position.epoch),
        "device \(own) goes back")
    }
    if let certificate = record.certificate {
      #expect(plans[certificate.stamp] ?? certificate.proposal == certificate.proposal, "two plans")
      plans[certificate.stamp] = certificate.proposal
    }
    nodes[own].disk = record
  }

  mutating func answer(
    _ own: Int, _ step: String, _ event: JobInput, after wait: Duration = .milliseconds(50)
  ) {
    if stuck[own] != step { nodes[own].waiting.append((now.advanced(by: wait), event)) }
  }

  /// What a device measures of its links: all have other rates and round trips.
  private func links(of own: Int) -> [DeviceLink] {
    let reachable = membership(of: own).reachable
    return nodes.indices.filter { $0 != own && reachable.contains(id($0)) }.map {
      DeviceLink(
        to: id($0), bytesPerSecond: UInt64(1000 * (own + 1) + 100 * ($0 + 1)),
        roundTrip: .milliseconds(10 * own + $0))
    }
  }

  private mutating func survey(_ request: UInt64, _ own: Int) {
    nodes[own].surveys.append(now)
    var left: Set<Int> = []
    switch surveying[own] {
    case .silence: return
    case .failure: return answer(own, "survey", .unsurveyed(request: request))
    case .without(let devices): left = devices
    case nil: break
    }
    let links = links(of: own).filter { !left.contains(index($0.device)) }
    answer(own, "survey", .surveyed(request: request, links), after: .milliseconds(500))
  }

  private mutating func plan(_ request: PlanRequest, _ own: Int) {
    nodes[own].asked.append(request)
    if request.cause != .lost, request.cause != .joined {
      answer(own, "measure", .surveyed(request: nil, links(of: own)), after: .milliseconds(20))
    }
    let household = request.reports.map(\.device).filter { !unwanted.contains(index($0)) }
    if let unplannable, household.count < unplannable.fewer {
      return answer(own, "plan", .unplanned(request: request.number, reason: unplannable.reason))
    }
    let plan = JobFixture.plan(household.count)
    let planned = JobInput.planned(request: request.number, household: household, plan: plan, next: nil)
    guard request.cause == .joined else { return answer(own, "plan", planned, after: planning) }
    switch joining {
    case .direct: answer(own, "plan", planned, after: planning)
    case .keep(let reason):
      answer(own, "plan", .kept(request: request.number, reason: reason), after: planning)
    case .learn:
      let listed = request.household + household.filter { !request.household.contains($0) }
      let next = JobFixture.plan(listed.count)
      answer(
        own, "plan",
        .planned(request: request.number, household: listed, plan: request.plan ?? next, next: next),
        after: planning)
    }
  }

  // MARK: - The runs

  /// Lets every plan that all its devices run commit a step, and tells the ends of runs.
  private mutating func compute() {
    let stamps = Set(nodes.compactMap { $0.run?.stamp }).sorted { ($0.term, $0.epoch) < ($1.term, $1.epoch) }
    for stamp in stamps {
      let runners = nodes.indices.filter { nodes[$0].run?.stamp == stamp }
      guard let certificate = nodes[runners[0]].run?.certificate else { continue }
      let places = certificate.proposal.participants.map(index)
      breakOff(runners, certificate)
      let own = runners.filter { nodes[$0].run != nil && nodes[$0].isUp && !nodes[$0].isFrozen }
      guard places.allSatisfy({ own.contains($0) && nodes[$0].run?.isBroken == nil && stuck[$0] != "run" }),
        places.allSatisfy({ one in places.allSatisfy { isConnected(one, $0) || one == $0 } })
      else { continue }
      step(places, certificate)
    }
  }

  /// A broken run is broken on every device that is linked to it.
  private mutating func breakOff(_ runners: [Int], _ certificate: PlanCertificate) {
    let household = certificate.proposal.household.map(index)
    let places = certificate.proposal.participants.map(index)
    if let (one, other) = brokenLink, places.contains(one), places.contains(other) {
      for (own, blamed) in [(one, other), (other, one)] where nodes[own].run?.stamp == certificate.stamp {
        let stop = RunStop(
          committedStep: nodes[own].step, culprit: .device(id(blamed)), reason: "nothing comes from it")
        nodes[own].run?.isBroken = stop
      }
    }
    for own in runners where nodes[own].isUp && !nodes[own].isFrozen {
      if nodes[own].run?.isBroken == nil {
        // Sockets of a dead process are closed by its machine.
        if let gone = places.first(where: { !nodes[$0].isUp || isOver($0, certificate) }),
          nodes[own].coordinator?.progress.phase != .completed
        {
          // Who stops says so; of a dead process its machine closes the sockets.
          let culprit = nodes[gone].isUp ? RunCulprit.elsewhere : .device(id(gone))
          let stop = RunStop(
            committedStep: nodes[own].step, culprit: culprit, reason: "the connection to it ended")
          nodes[own].run?.isBroken = stop
        }
      }
      guard let stop = nodes[own].run?.isBroken, household.contains(own) else { continue }
      nodes[own].run = nil
      nodes[own].waiting.append((now, .stopped(certificate.stamp, stop)))
    }
  }

  /// Whether a device has run a plan, and does not any more although its part was not done.
  private func isOver(_ own: Int, _ certificate: PlanCertificate) -> Bool {
    nodes[own].run == nil && nodes[own].started.contains(certificate.stamp)
      && nodes[own].coordinator?.progress.phase != .completed
  }

  private mutating func step(_ places: [Int], _ certificate: PlanCertificate) {
    let proposal = certificate.proposal
    let household = proposal.household.map(index).filter { nodes[$0].isUp }
    let isDraining = household.contains { nodes[$0].run?.isDraining ?? false }
    let step = (household.map { nodes[$0].step }.max() ?? 0) + 1
    for own in household where !places.contains(own) {
      guard nodes[own].run?.stamp == certificate.stamp else { continue }
      if proposal.donors.contains(id(own)) {
        nodes[own].run = nil
        nodes[own].waiting.append((now, .stopped(certificate.stamp, RunStop(committedStep: nodes[own].step))))
      } else if isDraining {
        nodes[own].run = nil
        nodes[own].waiting.append((now, .stopped(certificate.stamp, RunStop(committedStep: nodes[own].step))))
      }
    }
    for own in household where proposal.next != nil {
      guard let run = nodes[own].run, !run.hasLearned, stuck[own] != "learn",
        run.since.duration(to: now) >= .seconds(1)
      else { continue }
      nodes[own].run?.hasLearned = true
      nodes[own].waiting.append((now, .learned(certificate.stamp)))
    }
    for own in places {
      nodes[own].step = step
      if step % 10 == 0 { nodes[own].savedStep = step }
      var progress = DeviceProgress(.cached)
      progress.committedStep = step
      progress.epoch = UInt32(step / stepsPerEpoch + 1)
      progress.samplesPerSecond = Double(8 * places.count)
      progress.secondsPerStep = secondsPerStep[own]
      nodes[own].waiting.append((now, .progressed(certificate.stamp, progress)))
      if step >= steps {
        nodes[own].run = nil
        let completion = RunCompletion(
          digest: JobFixture.digest(digests[own] ?? 1),
          result: BlobReference(digest: JobFixture.digest(1), byteCount: 9), results: [7])
        nodes[own].waiting.append((now, .completed(certificate.stamp, completion)))
      } else if isDraining {
        nodes[own].run = nil
        nodes[own].waiting.append((now, .stopped(certificate.stamp, RunStop(committedStep: step))))
      }
    }
  }

  // MARK: - The network

  private mutating func send(_ message: JobMessage, from sender: Int, to recipient: Int) {
    if case .progress = message.body { told[sender][recipient] += 1 }
    if case .links = message.body {
      if leadersAreOld { return }
      nodes[recipient].linksTold += 1
    }
    if lossEvery > 0, generator.uniform(below: lossEvery) == 0 { return }
    let copies = repeatEvery > 0 && generator.uniform(below: repeatEvery) == 0 ? 2 : 1
    for _ in 0..<copies {
      let delay = Duration.milliseconds(1 + generator.uniform(below: delayMilliseconds))
      letters.append(
        Letter(bytes: message.encoded, sender: sender, recipient: recipient, due: now.advanced(by: delay)))
    }
  }

  private mutating func deliver(_ letter: Letter) {
    guard isConnected(letter.sender, letter.recipient), let message = try? JobMessage(decoding: letter.bytes)
    else { return }
    if nodes[letter.recipient].coordinator == nil {
      if case .offer = message.body {
        begin(letter.recipient)
      } else {
        send(JobMessage(message.stamp, .unknown), from: letter.recipient, to: letter.sender)
        return
      }
    }
    handle(.message(message, from: id(letter.sender)), letter.recipient)
  }

  // MARK: - Time

  /// Lets this many seconds pass, or fewer if the condition comes true.
  mutating func run(_ seconds: Int, until condition: (JobWorld) -> Bool = { _ in false }) {
    for _ in 0..<(seconds * 20) {
      if condition(self) { return }
      now = now.advanced(by: Self.tick)
      gossip()
      let due = letters.filter { $0.due <= now && !nodes[$0.recipient].isFrozen }
      letters.removeAll { $0.due <= now && !nodes[$0.recipient].isFrozen }
      for letter in due { deliver(letter) }
      for own in nodes.indices where nodes[own].isUp && !nodes[own].isFrozen {
        let events = nodes[own].waiting.filter { $0.due <= now }
        nodes[own].waiting.removeAll { $0.due <= now }
        for event in events { handle(event.event, own) }
        if let due = nodes[own].coordinator?.nextDeadline, due <= now { handle(.tick, own) }
      }
      compute()
    }
  }

  // MARK: - Faults

  /// The process ends at once; its disk stays.
  mutating func crash(_ own: Int) {
    nodes[own].isUp = false
    nodes[own].run = nil
    nodes[own].waiting = []
    nodes[own].coordinator = nil
  }

  /// The daemon starts again from its disk.
  mutating func restart(_ own: Int) {
    nodes[own].isUp = true
    nodes[own].step = nodes[own].savedStep
    memberships[own] = nil
    if let record = nodes[own].disk { begin(own, from: record) }
  }

  // MARK: - What tests look at

  func outcomes(_ indices: some Sequence<Int>) -> [JobOutcome?] {
    indices.map { nodes[$0].coordinator?.record.outcome }
  }

  func state(_ own: Int) -> JobState? { nodes[own].coordinator?.state }
  func epoch(_ own: Int) -> UInt64 { nodes[own].coordinator?.position.epoch ?? 0 }
  func participants(_ own: Int) -> [Int] { (nodes[own].coordinator?.participants ?? []).map(index) }
  func notes(_ own: Int) -> [JobNote.Event] { (nodes[own].coordinator?.notes ?? []).map(\.event) }
  var furthest: UInt64 { nodes.map(\.step).max() ?? 0 }
  func isFinished(_ indices: some Sequence<Int>) -> Bool {
    outcomes(indices).allSatisfy { $0 == Self.finished }
  }
  static let finished = JobOutcome.finished(adapter: JobFixture.digest(99), results: [7])
}
