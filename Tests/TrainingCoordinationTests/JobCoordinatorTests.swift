import CryptoPrimitives
import Determinism
import HouseholdTrust
import MeshModel
import Testing
import TrainingCoordination
import WireCoding

/// Devices that run a job over a network with delays and losses; every shell does at once what its coordinator wants.
private struct JobWorld {
  struct Node {
    let keys: DeviceKeys
    var coordinator: JobCoordinator?
    var disk: StoredJob?
    var isUp = true
    var ended: [JobOutcome] = []
    var started = 0
    var waiting: [JobInput] = []
  }

  struct Letter {
    let bytes: [UInt8]
    let sender: Int
    let recipient: Int
    let due: MonotonicInstant
  }

  let specification: JobSpecification
  var nodes: [Node]
  var letters: [Letter] = []
  var now = MonotonicInstant.zero
  var generator: SeededGenerator
  /// One letter of this many is lost; 0 loses none.
  var lossEvery = 0
  /// Devices of whose step nothing comes: the step's name.
  var stuck: [Int: String] = [:]
  /// What a device's run gives; different digests are a defect that must be seen.
  var digests: [Int: UInt8] = [:]
  var planned: [Int] = []
  /// Devices to which no session leads, although gossip goes round.
  var unreachable: Set<DeviceID> = []

  init(count: Int, roster: Int, owner: Int = 0, leader: Int = 0, seed: UInt64) {
    specification = JobFixture.specification(roster, owner: owner, leader: leader)
    generator = SeededGenerator(seed: seed)
    nodes = JobFixture.devices.prefix(count).map { Node(keys: $0) }
  }

  var membership: JobMembership {
    let alive = Set(nodes.filter(\.isUp).map(\.keys.device))
    return JobMembership(
      alive: alive, reachable: alive.filter { !unreachable.contains($0) },
      leader: nodes.first(where: \.isUp)?.keys.device, keys: JobFixture.keys)
  }

  mutating func submit() { begin(nodes.firstIndex { $0.keys.device == specification.owner }!) }

  mutating func begin(_ index: Int, from record: StoredJob? = nil) {
    var coordinator = JobCoordinator(
      own: nodes[index].keys.device, record: record ?? StoredJob(specification), keys: nodes[index].keys,
      membership: membership, generator: SeededGenerator(seed: generator.next()), at: now)
    let effects = coordinator.begin(isRestart: record != nil, at: now)
    nodes[index].coordinator = coordinator
    perform(effects, of: index)
  }

  mutating func handle(_ event: JobInput, _ index: Int) {
    guard nodes[index].isUp, let effects = nodes[index].coordinator?.handle(event, at: now) else { return }
    perform(effects, of: index)
  }

  private mutating func perform(_ effects: [JobEffect], of index: Int) {
    for effect in effects {
      switch effect {
      case .persist(let record): nodes[index].disk = record
      case .send(let message, let device):
        send(message, from: index, to: nodes.firstIndex { $0.keys.device == device })
      case .prepare: answer(index, "prepare", .prepared(report: [UInt8(index)]))
      case .plan(let reports):
        planned = reports.map { report in nodes.firstIndex { $0.keys.device == report.device }! }
        answer(
          index, "plan",
          .planned(household: reports.map(\.device), JobFixture.plan(reports.count)))
      case .fetch: answer(index, "fetch", .ready)
      case .start:
        nodes[index].started += 1
        var progress = DeviceProgress(.live)
        progress.step = 1
        answer(index, "progress", .progressed(progress))
        let completion = RunCompletion(
          digest: JobFixture.digest(digests[index] ?? 1), result: nil, results: [7])
        answer(index, "run", .completed(completion))
      case .deliver: answer(index, "deliver", .delivered(JobFixture.digest(99)))
      case .end(let outcome):
        nodes[index].ended.append(outcome)
        nodes[index].waiting = []
      }
    }
  }

  private mutating func answer(_ index: Int, _ step: String, _ event: JobInput) {
    if stuck[index] != step { nodes[index].waiting.append(event) }
  }

  private mutating func send(_ message: JobMessage, from sender: Int, to recipient: Int?) {
    guard let recipient, lossEvery == 0 || generator.uniform(below: lossEvery) != 0 else { return }
    letters.append(
      Letter(
        bytes: message.encoded, sender: sender, recipient: recipient,
        due: now.advanced(by: .milliseconds(1 + generator.uniform(below: 200)))))
  }

  private mutating func deliver(_ letter: Letter) {
    guard nodes[letter.recipient].isUp, let message = try? JobMessage(decoding: letter.bytes) else { return }
    if nodes[letter.recipient].coordinator == nil {
      if case .offer(let offered) = message.body {
        #expect(offered == specification)
        begin(letter.recipient)
      } else {
        send(JobMessage(message.stamp, .unknown), from: letter.recipient, to: letter.sender)
        return
      }
    }
    handle(.message(message, from: nodes[letter.sender].keys.device), letter.recipient)
  }

  /// Lets this many seconds pass, or fewer if the condition comes true.
  mutating func run(_ seconds: Int, until condition: (JobWorld) -> Bool = { _ in false }) {
    for _ in 0..<(seconds * 10) {
      if condition(self) { return }
      now = now.advanced(by: .milliseconds(100))
      let due = letters.filter { $0.due <= now }
      letters.removeAll { $0.due <= now }
      for letter in due { deliver(letter) }
      for index in nodes.indices where nodes[index].isUp {
        let waiting = nodes[index].waiting
        nodes[index].waiting = []
        for event in waiting { handle(event, index) }
        handle(.tick, index)
      }
    }
  }

  /// The device disappears; gossip tells the others some seconds later.
  mutating func lose(_ index: Int, noticedAfter seconds: Int = 8) {
    nodes[index].isUp = false
    run(seconds)
    tellMembership()
  }

  mutating func tellMembership() {
    let membership = membership
    for index in nodes.indices { handle(.membership(membership), index) }
  }

  func outcomes(_ indices: some Sequence<Int>) -> [JobOutcome?] {
    indices.map { nodes[$0].coordinator?.record.outcome }
  }
}

@Suite struct JobCoordinatorTests {
  private let finished = JobOutcome.finished(adapter: JobFixture.digest(99), results: [7])

  @Test("A job of one to eight devices ends with the adapter on the owner, and everybody knows", arguments: 1...8)
  func walkThrough(_ count: Int) {
    for (seed, loss) in [(1, 0), (2, 5), (3, 3)] {
      var world = JobWorld(
        count: count, roster: count, owner: count / 2, leader: count - 1, seed: UInt64(count * 10 + seed))
      world.lossEvery = loss
      world.submit()
      world.run(300) { $0.outcomes(0..<count).allSatisfy { $0 != nil } }
      #expect(world.outcomes(0..<count) == Array(repeating: finished, count: count))
      for node in world.nodes {
        #expect(node.ended == [finished])
        #expect(node.started == 1)
        #expect(node.disk == node.coordinator?.record)
        #expect(node.coordinator?.nextDeadline == nil)
      }
      #expect(world.planned == Array(0..<count))
      let certificates = Set(world.nodes.compactMap { $0.coordinator?.certificate?.proposal })
      #expect(certificates.count == 1)
    }
  }

  @Test("The same seed gives the same history")
  func determinism() {
    func history(_ seed: UInt64) -> [[UInt8]] {
      var world = JobWorld(count: 4, roster: 4, seed: seed)
      world.lossEvery = 4
      world.submit()
      world.run(20)
      return world.nodes.compactMap { $0.disk?.encoded } + world.letters.map(\.bytes)
    }
    #expect(history(5) == history(5))
    #expect(history(5) != history(6))
  }

  @Test("Devices that are not of the roster watch: they learn of the plan, the progress and the end")
  func watchers() {
    var world = JobWorld(count: 4, roster: 2, seed: 4)
    world.stuck = [0: "run"]
    world.submit()
    world.run(20)
    let watcher = world.nodes[3].coordinator
    #expect(watcher?.certificate != nil)
    #expect(watcher?.state == .running)
    #expect(watcher?.progress(of: JobFixture.ids[0])?.phase == .live)
    #expect(world.nodes[3].started == 0)
    world.handle(.completed(RunCompletion(digest: JobFixture.digest(1), result: nil, results: [7])), 0)
    world.run(20)
    #expect(world.outcomes(0..<4) == Array(repeating: finished, count: 4))
  }

  @Test("The states that people see come in their order")
  func states() {
    var world = JobWorld(count: 2, roster: 2, leader: 1, seed: 8)
    func state(_ device: Int) -> JobState? { world.nodes[device].coordinator?.state }
    let completion = RunCompletion(digest: JobFixture.digest(1), result: nil, results: [7])
    let steps: [(stuck: [Int: String], input: (Int, JobInput)?, state: JobState)] = [
      ([0: "prepare"], nil, .preparing),
      ([1: "plan"], (0, .prepared(report: [0])), .planning),
      ([0: "fetch"], (1, .planned(household: Array(JobFixture.ids[0..<2]), JobFixture.plan(2))), .fetching),
      ([0: "run"], (0, .ready), .running),
      ([0: "deliver"], (0, .completed(completion)), .saving),
      ([:], (0, .delivered(JobFixture.digest(99))), .finished),
    ]
    for step in steps {
      world.stuck = step.stuck
      if let (device, input) = step.input { world.handle(input, device) } else { world.submit() }
      world.run(10)
      #expect(state(0) == step.state && state(1) == step.state, "after \(step.stuck)")
    }
  }

  @Test("A device that never reports does not hold the job up; the plan is made without it")
  func silentReporter() {
    var world = JobWorld(count: 3, roster: 3, seed: 12)
    world.stuck = [2: "prepare"]
    world.submit()
    world.run(60) { $0.outcomes(0..<2).allSatisfy { $0 != nil } }
    #expect(world.planned == [0, 1])
    world.run(15)
    #expect(world.outcomes(0..<3) == [finished, finished, finished])
    #expect(world.now > MonotonicInstant.zero.advanced(by: JobLimits.reportWait))
  }

  @Test("Nobody waits for a device to which no session leads")
  func noSession() {
    var world = JobWorld(count: 3, roster: 3, seed: 14)
    world.unreachable = [JobFixture.ids[2]]
    world.stuck = [2: "prepare"]
    world.submit()
    world.run(20) { $0.outcomes(0..<2).allSatisfy { $0 != nil } }
    #expect(world.planned == [0, 1])
    #expect(world.outcomes(0..<2) == [finished, finished])
  }

  @Test("A device that cannot take part says why, and the others do without it at once")
  func decline() {
    var world = JobWorld(count: 3, roster: 3, leader: 2, seed: 13)
    world.stuck = [2: "prepare"]
    world.submit()
    world.run(2)
    world.handle(.unprepared("its disk is full"), 2)
    world.run(25) { $0.outcomes(0..<3).allSatisfy { $0 != nil } }
    #expect(world.planned == [0, 1])
    #expect(world.outcomes(0..<3) == [finished, finished, finished])
    #expect(world.nodes[0].coordinator?.declines[JobFixture.ids[2]] == "its disk is full")
  }

  @Test("A device that is lost in a phase after the plan fails the job everywhere, with its name", arguments: ["fetch", "run"])
  func loss(_ phase: String) {
    for count in [2, 3, 5] {
      var world = JobWorld(count: count, roster: count, seed: UInt64(20 + count))
      let lost = count - 1
      world.stuck = [lost: phase]
      world.submit()
      world.run(20)
      #expect(world.nodes[0].coordinator?.state == (phase == "run" ? .running : .fetching))
      world.lose(lost)
      world.run(5)
      let failure = JobOutcome.failed(device: JobFixture.ids[lost], reason: "it cannot be reached any more")
      #expect(world.outcomes(0..<lost) == Array(repeating: failure, count: lost))
      #expect(world.nodes[0].ended == [failure])
    }
  }

  @Test("A device that gossip holds for alive and that says nothing for half a minute fails the job")
  func silence() {
    var world = JobWorld(count: 3, roster: 3, seed: 30)
    world.stuck = [2: "run"]
    world.submit()
    world.run(10)
    // Its process hangs: no gossip says so.
    world.nodes[2].isUp = false
    world.run(35)
    let failure = JobOutcome.failed(
      device: JobFixture.ids[2], reason: "it has said nothing for 30 seconds")
    #expect(world.outcomes(0..<2) == [failure, failure])
  }

  @Test("The owner's loss fails the job in every phase, also before the plan", arguments: ["prepare", "plan", "fetch", "run"])
  func ownerLoss(_ phase: String) {
    var world = JobWorld(count: 3, roster: 3, owner: 1, leader: 0, seed: 31)
    world.stuck = [phase == "plan" ? 0 : 2: phase]
    world.submit()
    world.run(10)
    world.lose(1)
    world.run(5)
    let failure = JobOutcome.failed(device: JobFixture.ids[1], reason: "it cannot be reached any more")
    #expect(world.outcomes([0, 2]) == [failure, failure])
  }

  @Test("A leader that is lost before the plan is followed by another, with a higher ballot", arguments: ["plan", "vote"])
  func leaderLoss(_ phase: String) {
    for seed in 0..<10 {
      var world = JobWorld(count: 4, roster: 4, owner: 1, leader: 3, seed: UInt64(40 + seed))
      if phase == "plan" { world.stuck = [3: "plan"] }
      world.submit()
      world.run(20) { world in
        phase == "plan"
          ? world.nodes[3].coordinator?.progress.phase == .planning
          : world.nodes[3].coordinator?.decree.isProposing == true
      }
      #expect(world.nodes[0].coordinator?.certificate == nil)
      world.lose(3, noticedAfter: 3)
      world.run(60) { $0.outcomes(0..<3).allSatisfy { $0 != nil } }
      let outcomes = world.outcomes(0..<3)
      let failure = JobOutcome.failed(device: JobFixture.ids[3], reason: "it cannot be reached any more")
      // The lost leader's plan may have won already; then it is a device of the plan that is lost.
      #expect(outcomes == [finished, finished, finished] || outcomes == [failure, failure, failure])
      if phase == "plan" { #expect(outcomes == [finished, finished, finished]) }
    }
  }

  @Test("What fails on a device ends the job everywhere, with the device's own words", arguments: 0..<3)
  func localFailure(_ device: Int) {
    var world = JobWorld(count: 3, roster: 3, seed: 50)
    world.stuck = [device: "run"]
    world.submit()
    world.run(10)
    // Another device sees the broken connection first; the culprit's own words come within the wait.
    world.handle(.failed(.device(JobFixture.ids[device]), "the connection ended"), (device + 1) % 3)
    world.run(1)
    world.handle(.failed(.own, "its disk is full"), device)
    world.run(5)
    let failure = JobOutcome.failed(device: JobFixture.ids[device], reason: "its disk is full")
    #expect(world.outcomes(0..<3) == [failure, failure, failure])
  }

  @Test("A broken connection fails the job in seconds, long before gossip notices")
  func brokenConnection() {
    var world = JobWorld(count: 3, roster: 3, seed: 51)
    world.stuck = [0: "run", 1: "run", 2: "run"]
    world.submit()
    world.run(10)
    world.nodes[2].isUp = false
    world.handle(.failed(.device(JobFixture.ids[2]), "the connection ended"), 0)
    world.handle(.failed(.elsewhere, "aborted"), 1)
    world.run(4)
    let failure = JobOutcome.failed(device: JobFixture.ids[2], reason: "the connection ended")
    #expect(world.nodes[0].coordinator?.record.outcome == failure)
    #expect(world.nodes[1].coordinator?.record.outcome != nil)
  }

  @Test("Any device stops the job, in any phase", arguments: ["prepare", "plan", "fetch", "run", "deliver"])
  func stop(_ phase: String) {
    for stopper in 0..<4 {
      var world = JobWorld(count: 4, roster: 3, seed: UInt64(60 + stopper))
      world.lossEvery = 4
      world.stuck = [0: phase]
      world.submit()
      world.run(12)
      world.handle(.stop, stopper)
      world.run(20)
      let stopped = JobOutcome.stopped(by: JobFixture.ids[stopper])
      #expect(world.outcomes(0..<4) == Array(repeating: stopped, count: 4))
    }
  }

  @Test("Devices that trained different parameters fail the job")
  func differentDigests() {
    var world = JobWorld(count: 3, roster: 3, seed: 70)
    world.digests = [2: 5]
    world.submit()
    world.run(20)
    let failure = JobOutcome.failed(device: nil, reason: "the devices trained 2 different adapters")
    #expect(world.outcomes(0..<3) == [failure, failure, failure])
  }

  @Test("A daemon that restarts in a running job fails it and says so; before the plan it goes on")
  func restart() {
    var world = JobWorld(count: 3, roster: 3, seed: 80)
    world.stuck = [2: "run"]
    world.submit()
    world.run(10)
    world.begin(2, from: world.nodes[2].disk)
    world.run(5)
    let failure = JobOutcome.failed(
      device: JobFixture.ids[2], reason: "its daemon was restarted while the job ran")
    #expect(world.outcomes(0..<3) == [failure, failure, failure])

    var early = JobWorld(count: 3, roster: 3, seed: 81)
    early.stuck = [1: "prepare"]
    early.submit()
    early.run(5)
    early.stuck = [:]
    early.begin(1, from: early.nodes[1].disk)
    early.run(30)
    #expect(early.outcomes(0..<3) == [finished, finished, finished])
  }

  @Test("Without a majority of the roster no plan is agreed on, and the job says so")
  func noMajority() {
    var world = JobWorld(count: 5, roster: 5, seed: 90)
    world.stuck = [0: "plan"]
    world.submit()
    world.run(10)
    for index in 1..<5 { world.nodes[index].isUp = false }
    world.handle(.planned(household: Array(JobFixture.ids[0..<5]), JobFixture.plan(5)), 0)
    world.run(70)
    #expect(
      world.nodes[0].coordinator?.record.outcome
        == .failed(
          device: nil,
          reason: "too few of the job's devices answer to agree on a plan: weight 3 of 11, "
            + "more than half is needed"))
  }

  @Test("What cannot be right is dropped and counted: other jobs, strangers' ends, certificates without votes")
  func drops() {
    var world = JobWorld(count: 4, roster: 3, seed: 91)
    world.stuck = [0: "plan"]
    world.submit()
    world.run(5)
    let before = world.nodes[0].coordinator!.dropped
    let stamp = world.specification.stamp(epoch: 1)
    func say(_ body: JobMessage.Body, _ stamp: JobStamp, from sender: Int) {
      world.handle(.message(JobMessage(stamp, body), from: JobFixture.ids[sender]), 0)
    }
    say(.unknown, JobStamp(job: JobID(5, 5), term: 0, epoch: 0), from: 1)
    say(.unknown, JobStamp(job: stamp.job, term: 1, epoch: 0), from: 1)
    say(.ended(.finished(adapter: JobFixture.digest(1), results: [])), stamp, from: 1)
    say(.ended(.failed(device: nil, reason: "no")), stamp, from: 3)
    say(.report([1]), stamp, from: 3)
    say(.completed(RunCompletion(digest: nil, result: nil, results: [])), stamp, from: 1)
    let roster = DecreeRoster(world.specification.roster, owner: world.specification.owner)
    let forged = JobFixture.certificate(
      JobFixture.proposal(world.specification.roster), roster: roster, voters: [JobFixture.ids[1]])
    say(.certificate(forged), stamp, from: 1)
    #expect(world.nodes[0].coordinator?.dropped == before + 7)
    #expect(world.nodes[0].coordinator?.record.outcome == nil)
    #expect(world.nodes[0].coordinator?.certificate == nil)
  }
}
