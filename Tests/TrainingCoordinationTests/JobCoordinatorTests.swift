import CryptoPrimitives
import Determinism
import HouseholdTrust
import MeshModel
import Testing
import TrainingCoordination
import WireCoding

@Suite struct JobCoordinatorTests {
  private let finished = JobWorld.finished

  @Test(
    "A job of one to eight devices ends with the adapter on the owner, and everybody knows", arguments: 1...8)
  func walkThrough(_ count: Int) {
    for (seed, loss) in [(1, 0), (2, 5), (3, 3)] {
      var world = JobWorld(
        count: count, roster: count, owner: count / 2, leader: count - 1, seed: UInt64(count * 10 + seed))
      world.lossEvery = loss
      world.repeatEvery = loss
      world.submit()
      world.run(300) { $0.outcomes(0..<count).allSatisfy { $0 != nil } }
      #expect(world.outcomes(0..<count) == Array(repeating: finished, count: count))
      for node in world.nodes {
        #expect(node.ended == [finished])
        #expect(node.started.count == 1 || loss > 0)
        #expect(node.disk == node.coordinator?.record)
        #expect(node.coordinator?.nextDeadline == nil)
      }
      let asked = world.nodes[count - 1].asked.first
      #expect(asked?.reports.map(\.device) == Array(JobFixture.ids[0..<count]))
    }
  }

  @Test("The same seed gives the same history")
  func determinism() {
    func history(_ seed: UInt64) -> [[UInt8]] {
      var world = JobWorld(count: 4, roster: 4, seed: seed)
      world.lossEvery = 4
      world.submit()
      var letters: [[UInt8]] = []
      world.run(4) {
        letters += $0.letters.map(\.bytes)
        return false
      }
      return world.nodes.compactMap { $0.disk?.encoded } + letters
    }
    let isRepeated = history(5) == history(5)
    let isAnother = history(5) != history(6)
    // In words, not in bytes: a failure would print them all.
    #expect(isRepeated && isAnother)
  }

  @Test("Devices that are not of the roster watch: they learn of the plan, the progress and the end")
  func watchers() {
    var world = JobWorld(count: 4, roster: 2, seed: 4)
    world.joining = .keep("it would be over before the switch has paid")
    world.stuck = [0: "run"]
    world.submit()
    world.run(20)
    let watcher = world.nodes[3].coordinator
    #expect(watcher?.certificate != nil)
    #expect(watcher?.state == .running)
    #expect(watcher?.progress(of: JobFixture.ids[1])?.phase == .ready)
    #expect(world.nodes[3].started.isEmpty)
    world.stuck = [:]
    world.run(20)
    #expect(world.outcomes(0..<4) == Array(repeating: finished, count: 4))
  }

  @Test("The states that people see come in their order")
  func states() {
    var world = JobWorld(count: 2, roster: 2, leader: 1, seed: 8)
    let steps: [(stuck: [Int: String], state: JobState)] = [
      ([0: "prepare"], .preparing), ([1: "plan"], .planning), ([0: "fetch"], .fetching),
      ([0: "run"], .running), ([0: "deliver"], .saving), ([:], .finished),
    ]
    world.stuck = steps[0].stuck
    world.submit()
    for (step, before) in zip(steps, [[:]] + steps.map(\.stuck)) {
      world.stuck = step.stuck
      release(before, in: &world)
      world.run(10)
      let states = [world.state(0), world.state(1)]
      #expect(states == [step.state, step.state], "after \(before)")
    }
  }

  /// Lets the step of a device go on that was stuck.
  private func release(_ stuck: [Int: String], in world: inout JobWorld) {
    guard let (own, step) = stuck.first else { return }
    switch step {
    case "prepare": world.answer(own, "", .prepared(report: [UInt8(own)]))
    case "plan":
      let number = world.nodes[own].asked.last?.number ?? 0
      world.answer(
        own, "",
        .planned(
          request: number, household: Array(JobFixture.ids[0..<2]), plan: JobFixture.plan(2), next: nil))
    case "fetch": world.answer(own, "", .ready(world.specification.stamp(epoch: world.epoch(own))))
    case "deliver": world.answer(own, "", .delivered(JobFixture.digest(99)))
    default: break
    }
  }

  @Test("A device that never reports does not hold the job up; the plan is made without it")
  func silentReporter() {
    var world = JobWorld(count: 3, roster: 3, seed: 12)
    world.stuck = [2: "prepare"]
    world.submit()
    world.run(60) { $0.isFinished(0..<2) }
    #expect(world.nodes[0].asked.first?.reports.map(\.report) == [[0], [1]])
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
    #expect(world.nodes[0].asked.first?.reports.map(\.report) == [[0], [1]])
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
    #expect(world.nodes[0].asked.first?.reports.map(\.report) == [[0], [1]])
    #expect(world.outcomes(0..<3) == [finished, finished, finished])
    #expect(world.nodes[0].coordinator?.declines[JobFixture.ids[2]] == "its disk is full")
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

  @Test(
    "What cannot be right is dropped and counted: other jobs, strangers' ends, certificates without votes")
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
    say(.report([1]), JobStamp(job: stamp.job, term: 1, epoch: 0), from: 1)
    say(.ended(.finished(adapter: JobFixture.digest(1), results: [])), stamp, from: 1)
    say(.ended(.failed(device: nil, reason: "no")), stamp, from: 3)
    let roster = DecreeRoster(world.specification.roster, owner: world.specification.owner)
    let forged = JobFixture.certificate(
      JobFixture.proposal(world.specification.roster), roster: roster, voters: [JobFixture.ids[1]])
    say(.certificate(forged), stamp, from: 1)
    #expect(world.nodes[0].coordinator?.dropped == before + 5)
    #expect(world.nodes[0].coordinator?.record.outcome == nil)
    #expect(world.nodes[0].coordinator?.certificate == nil)
  }
}
