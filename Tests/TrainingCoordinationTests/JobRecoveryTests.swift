import CryptoPrimitives
import Determinism
import HouseholdTrust
import MeshModel
import Testing
import TrainingCoordination

/// Devices that are lost, freeze, restart or cannot see each other, at any moment of a job.
@Suite struct JobRecoveryTests {
  private func running(
    _ count: Int, owner: Int = 0, leader: Int = 0, seed: UInt64, after step: UInt64 = 5
  ) -> JobWorld {
    var world = JobWorld(count: count, roster: count, owner: owner, leader: leader, seed: seed)
    world.submit()
    world.run(30) { $0.furthest >= step }
    return world
  }

  private func lost(_ world: JobWorld, _ own: Int) -> [DeviceID] {
    world.notes(own).compactMap { if case .lost(let device, _) = $0 { device } else { nil } }
  }

  @Test(
    "A device that is lost in a run costs two seconds at most, and the others end the job", arguments: 2...6)
  func crash(_ count: Int) {
    // A household of two goes on where its owner is.
    for lost in (count == 2 ? [1] : Array(0..<count)) where lost != 0 || count > 2 {
      var world = running(count, owner: lost == 0 ? 1 : 0, seed: UInt64(100 + 10 * count + lost))
      let step = world.furthest
      world.crash(lost)
      let start = world.now
      let rest = Array(0..<count).filter { $0 != lost }
      world.run(10) { $0.furthest > step + 1 }
      #expect(start.duration(to: world.now) <= .seconds(3), "\(count) devices without \(lost)")
      #expect(world.epoch(rest[0]) == 2 && world.participants(rest[0]) == rest)
      world.run(60) { $0.isFinished(rest) }
      #expect(world.isFinished(rest))
      #expect(self.lost(world, rest[0]) == [world.id(lost)])
      #expect(world.notes(rest[0]).contains { if case .recovered = $0 { true } else { false } })
    }
  }

  @Test("Whoever leads when the leader is lost was its deputy before")
  func deputy() {
    for leader in 0..<4 {
      var world = JobWorld(count: 4, roster: 4, owner: 1, leader: leader, seed: UInt64(105 + leader))
      world.submit()
      world.run(30) { $0.furthest >= 5 }
      let rest = Array(0..<4).filter { $0 != leader }
      let told = Set(rest.map { world.nodes[$0].coordinator?.deputy(at: world.now) })
      #expect(told.count == 1 && !told.contains(world.id(leader)) && !told.contains(nil))
      world.crash(leader)
      let start = world.now
      world.run(10) { $0.epoch(rest[0]) == 2 }
      // Nobody waits for a device whose connections have ended: planning and a vote.
      #expect(start.duration(to: world.now) <= .milliseconds(600))
      #expect(Set(rest.map { world.nodes[$0].coordinator?.leader(at: world.now) }) == told)
    }
    let alone = running(1, seed: 109)
    #expect(alone.nodes[0].coordinator?.deputy(at: alone.now) == nil)
  }

  @Test("A device that freezes is missed after two seconds of silence, and comes back as a newcomer")
  func freeze() {
    var world = running(3, seed: 110)
    world.steps = 400
    world.nodes[2].isFrozen = true
    let step = world.furthest
    let start = world.now
    world.run(20) { $0.furthest > step + 2 }
    #expect(start.duration(to: world.now) <= .seconds(5))
    #expect(world.participants(0) == [0, 1])
    world.nodes[2].isFrozen = false
    world.run(20) { $0.participants(0) == [0, 1, 2] && $0.epoch(2) == $0.epoch(0) }
    #expect(world.participants(0) == [0, 1, 2] && world.participants(2) == [0, 1, 2])
    world.run(60) { $0.isFinished(0..<3) }
    #expect(world.isFinished(0..<3))
    #expect(world.notes(0).contains(.joined(world.id(2))))
  }

  @Test(
    "In a run that goes on, devices tell their neighbours every 0.4 s how they are, and the others every 2 s"
  )
  func beats() {
    var world = running(6, seed: 113)
    (world.steps, world.stepsPerEpoch) = (100_000, 100_000)
    world.run(3)
    let before = world.told
    world.run(12)
    let circle = world.participants(0)
    #expect(circle.count == 6)
    for sender in 0..<6 {
      for recipient in 0..<6 where recipient != sender {
        let beats = world.told[circle[sender]][circle[recipient]] - before[circle[sender]][circle[recipient]]
        let isNeighbour = [1, 5].contains((recipient - sender + 6) % 6)
        #expect((isNeighbour ? 29...31 : 5...7).contains(beats), "\(sender) to \(recipient): \(beats)")
      }
    }
  }

  @Test(
    "A device that freezes is missed by its neighbours, and all others go on without it within five seconds")
  func freezeOfMany() {
    for frozen in 1..<6 {
      var world = running(6, seed: UInt64(114 + frozen))
      world.steps = 400
      world.nodes[frozen].isFrozen = true
      let (step, start) = (world.furthest, world.now)
      world.run(20) { $0.furthest > step + 2 }
      #expect(start.duration(to: world.now) <= .seconds(5), "without \(frozen)")
      #expect(world.participants(0) == (0..<6).filter { $0 != frozen })
    }
  }

  @Test("A device that freezes for a second interrupts nothing")
  func shortFreeze() {
    var world = running(3, seed: 111)
    world.nodes[1].isFrozen = true
    world.run(1)
    world.nodes[1].isFrozen = false
    world.run(30) { $0.isFinished(0..<3) }
    #expect(world.isFinished(0..<3) && world.epoch(0) == 1)
  }

  @Test(
    "A lost leader is followed by another at each point of an epoch",
    arguments: ["plan", "vote", "accepted", "told", "fetch", "run"])
  func leaderLoss(_ point: String) {
    for seed in 0..<8 {
      var world = JobWorld(count: 4, roster: 4, owner: 1, leader: 3, seed: UInt64(120 + seed))
      world.planning = .milliseconds(400)
      if point == "fetch" { world.stuck = [0: "fetch"] }
      world.submit()
      world.run(30) { world in
        let leader = world.nodes[3].coordinator
        switch point {
        case "plan": return leader?.progress.phase == .planning
        case "vote": return leader?.decree.isProposing == true
        case "accepted":
          return leader?.certificate == nil && world.nodes[..<3].contains { $0.disk?.decree.accepted != nil }
        case "told": return leader?.certificate != nil
        case "fetch": return leader?.state == .fetching
        default: return world.furthest > 3
        }
      }
      world.crash(3)
      world.stuck = [:]
      world.run(90) { $0.isFinished(0..<3) }
      #expect(world.isFinished(0..<3), "\(point), seed \(seed)")
    }
  }

  @Test(
    "Two losses at once, and a loss while the next plan is made, are survived as long as a majority is there")
  func twoLosses() {
    for seed in 0..<6 {
      var world = running(5, seed: UInt64(130 + seed))
      world.steps = 200
      world.crash(4)
      if seed >= 2 { world.run(1 + seed / 2) { $0.nodes[0].coordinator?.decree.isProposing ?? false } }
      world.crash(3)
      world.run(60) { $0.isFinished(0..<3) }
      #expect(world.isFinished(0..<3), "seed \(seed)")
      #expect(world.participants(0) == [0, 1, 2])
    }
  }

  @Test("A device whose daemon restarts within a run takes part again, and says how far its disk is")
  func restart() {
    var world = running(3, seed: 140, after: 14)
    world.steps = 200
    world.crash(2)
    world.run(1)
    world.restart(2)
    #expect(world.nodes[2].coordinator?.progress.committedStep ?? 0 <= 14)
    #expect(world.nodes[2].coordinator?.progress.phase == .interrupted)
    world.run(20) { $0.participants(0) == [0, 1, 2] && $0.nodes[2].run != nil }
    #expect(world.nodes[2].prepared == 2)
    world.run(60) { $0.isFinished(0..<3) }
    #expect(world.isFinished(0..<3))
  }

  @Test(
    "After a power loss of all the job goes on from the last state on the disks, as soon as a majority is back"
  )
  func powerLoss() {
    for missing in [[], [4], [3, 4]] {
      var world = running(5, seed: UInt64(150 + missing.count), after: 23)
      world.steps = 400
      for own in 0..<5 { world.crash(own) }
      world.run(5)
      for own in 0..<5 where !missing.contains(own) {
        world.restart(own)
        world.run(1)
      }
      let there = Array(0..<5).filter { !missing.contains($0) }
      let start = world.now
      world.run(30) { $0.furthest > 20 && $0.nodes[0].run != nil }
      #expect(start.duration(to: world.now) <= .seconds(10))
      #expect(world.participants(0) == there)
      #expect(world.furthest >= 20)
      world.run(60) { $0.isFinished(there) }
      #expect(world.isFinished(there))
    }
  }

  @Test("A minority pauses, says what is missing, and goes on by itself when the others are back")
  func partition() {
    var world = running(5, owner: 4, seed: 160)
    world.steps = 2000
    for own in 0..<2 { world.nodes[own].group = 1 }
    world.run(25)
    #expect(world.state(0) == .paused)
    #expect(world.nodes[0].coordinator?.pausedReason == "no quorum (weight 4 of 11)")
    #expect(world.nodes[0].coordinator?.quorum(at: world.now) == JobQuorum(present: 4, needed: 6, total: 11))
    #expect(world.participants(2) == [2, 3, 4] && world.state(2) == .running)
    for own in 0..<2 { world.nodes[own].group = 0 }
    world.run(20) { $0.participants(2).count == 5 && $0.state(0) == .running }
    #expect(world.state(0) == .running && world.participants(0) == Array(0..<5))
  }

  @Test("Without any majority all wait; one device more is enough")
  func noMajority() {
    var world = running(5, seed: 161)
    for own in 1..<5 { world.crash(own) }
    world.run(30)
    #expect(world.state(0) == .paused)
    #expect(world.nodes[0].coordinator?.record.outcome == nil)
    #expect(world.notes(0).contains(.paused(reason: "no quorum (weight 3 of 11)")))
    for own in [2, 3] { world.restart(own) }
    world.run(60) { $0.isFinished([0, 2, 3]) }
    #expect(world.isFinished([0, 2, 3]))
  }

  @Test("A device that missed several plan epochs takes the newest one, and not one that a minority signed")
  func laggard() {
    var world = running(4, seed: 162)
    world.steps = 3000
    world.nodes[3].group = 1
    world.run(15)
    for _ in 0..<3 {
      world.crash(2)
      world.run(5)
      world.restart(2)
      world.run(40) { $0.participants(0).contains(2) }
    }
    let epoch = world.epoch(0)
    #expect(epoch >= 6 && world.epoch(3) == 1)
    let forged = JobFixture.certificate(
      JobFixture.proposal([world.id(1)], epoch: 9),
      roster: DecreeRoster([world.id(0), world.id(1)], owner: world.id(0)), voters: [world.id(1)])
    let before = world.nodes[3].coordinator?.dropped ?? 0
    world.handle(.message(JobMessage(forged.stamp, .certificate(forged)), from: world.id(1)), 3)
    #expect(world.nodes[3].coordinator?.dropped == before + 1 && world.epoch(3) == 1)
    world.nodes[3].group = 0
    world.run(40) { $0.participants(3).contains(3) && $0.epoch(3) > epoch }
    #expect(world.participants(3) == [0, 1, 2, 3])
  }

  @Test("Messages that are lost and repeated cost time and nothing else")
  func badNetwork() {
    for seed in 0..<6 {
      var world = JobWorld(count: 4, roster: 4, owner: 1, seed: UInt64(170 + seed))
      (world.lossEvery, world.repeatEvery, world.delayMilliseconds) = (6, 5, 150)
      world.steps = 60
      world.submit()
      world.run(60) { $0.furthest > 8 }
      world.crash(3)
      world.run(10)
      world.restart(3)
      world.run(120) { $0.isFinished(0..<4) }
      #expect(world.isFinished(0..<4), "seed \(seed)")
    }
  }

  @Test("Two plans for one plan epoch end the job: they cannot be")
  func twoPlans() {
    var world = running(3, seed: 180)
    let roster = DecreeRoster(world.specification.roster, owner: world.specification.owner)
    let other = JobFixture.certificate(
      JobFixture.proposal(world.specification.roster, salt: 7), roster: roster,
      voters: world.specification.roster)
    world.handle(.message(JobMessage(other.stamp, .certificate(other)), from: world.id(1)), 0)
    #expect(
      world.outcomes([0])
        == [.failed(device: nil, reason: "two plans were agreed on for plan epoch 1")])
  }

  @Test("What fails on one device makes it drop out with its reason; it tries again half a minute later")
  func ownFailure() {
    var world = running(3, seed: 190)
    world.steps = 2000
    world.nodes[2].run?.isBroken = RunStop(committedStep: 5, culprit: .own, reason: "its disk is full")
    world.run(10) { $0.participants(0) == [0, 1] && $0.nodes[0].run != nil }
    #expect(world.participants(0) == [0, 1])
    #expect(world.nodes[0].coordinator?.declines[world.id(2)] == "its disk is full")
    #expect(world.notes(0).contains(.lost(world.id(2), reason: "its disk is full")))
    world.run(40) { $0.participants(0) == [0, 1, 2] }
    #expect(world.nodes[2].prepared == 2)
    #expect(world.participants(0) == [0, 1, 2])
  }

  @Test("What fails the same on every device ends the job, and so does a failure of the only device")
  func jobFailure() {
    var world = running(3, seed: 191)
    world.nodes[1].run?.isBroken = RunStop(
      committedStep: 5, culprit: .job, reason: "a loss that is no number")
    world.run(5)
    let failure = JobOutcome.failed(device: world.id(1), reason: "a loss that is no number")
    #expect(world.outcomes(0..<3) == [failure, failure, failure])
    var alone = running(1, seed: 192)
    alone.nodes[0].run?.isBroken = RunStop(committedStep: 5, culprit: .own, reason: "its disk is full")
    alone.run(5)
    #expect(alone.outcomes([0]) == [.failed(device: alone.id(0), reason: "its disk is full")])
  }

  @Test(
    "The only device of a plan that fails drops out, hands over what it has, and the others end the job",
    arguments: [0, 2])
  func onlyVotersFailure(_ owner: Int) {
    var world = JobWorld(count: 3, roster: 3, owner: owner, seed: 195)
    world.steps = 2000
    world.unwanted = [1, 2]
    world.joining = .keep("the job ends sooner without it")
    if owner == 2 {
      // The plan is made without the owner, so that one device alone decides on the next.
      world.unwanted = [1]
      world.stuck = [2: "prepare"]
    }
    world.submit()
    if owner == 2 {
      world.run(10) { $0.nodes[0].coordinator?.progress.isPrepared ?? false }
      world.crash(2)
    }
    world.run(60) { $0.furthest >= 5 }
    #expect(
      world.participants(0) == [0]
        && world.nodes[0].coordinator?.decree.roster.devices == (owner == 2 ? [0] : [0, 1, 2]).map(world.id))
    (world.unwanted, world.stuck) = ([], [:])
    if owner == 2 { world.restart(2) }
    world.run(3)
    let step = world.furthest
    let start = world.now
    world.joining = .direct
    world.nodes[0].run?.isBroken = RunStop(committedStep: step, culprit: .own, reason: "its disk is full")
    world.run(20) { $0.furthest > step + 1 && $0.participants(1) == [1, 2] }
    #expect(world.outcomes(0..<3) == [nil, nil, nil])
    #expect(world.participants(1) == [1, 2])
    #expect(start.duration(to: world.now) <= .seconds(5))
    #expect(world.notes(1).contains(.lost(world.id(0), reason: "its disk is full")))
    #expect(world.nodes[1].coordinator?.certificate?.proposal.donors == [world.id(0)])
    world.run(60) { $0.participants(0) == [0, 1, 2] }
    #expect(world.participants(0) == [0, 1, 2])
    world.run(120) { $0.isFinished(0..<3) }
    #expect(world.isFinished(0..<3))
  }

  /// A job of two devices whose owner goes on alone since the other crashed.
  private func leftAlone(seed: UInt64, steps: UInt64) -> JobWorld {
    var world = JobWorld(count: 2, roster: 2, seed: seed)
    world.steps = steps
    world.submit()
    world.run(30) { $0.furthest >= 5 }
    world.crash(1)
    world.run(20) { $0.participants(0) == [0] && $0.nodes[0].run != nil }
    return world
  }

  @Test("The only device of a plan that fails waits for the others when these are only away for a while")
  func onlyVotersFailureBeforeOthersAreBack() {
    var world = leftAlone(seed: 196, steps: 200)
    world.restart(1)
    world.run(1)
    let stop = RunStop(committedStep: world.nodes[0].step, culprit: .own, reason: "its disk is full")
    world.nodes[0].run?.isBroken = stop
    world.run(120) { $0.isFinished(0..<2) }
    #expect(world.isFinished(0..<2))
  }

  @Test("Any one device may be lost when the plan has two and a third is there: it votes", arguments: 0..<3)
  func witness(_ lost: Int) {
    var world = JobWorld(count: 3, roster: 3, seed: UInt64(220 + lost))
    world.steps = 2000
    world.unwanted = [2]
    world.joining = .keep("the job ends sooner without it")
    world.submit()
    world.run(60) { $0.furthest >= 5 }
    let proposal = world.nodes[0].coordinator?.certificate?.proposal
    #expect(proposal?.participants == [world.id(0), world.id(1)] && proposal?.witnesses == [world.id(2)])
    #expect(world.nodes[2].run == nil && world.nodes[2].started.isEmpty)
    world.crash(lost)
    let step = world.furthest
    let start = world.now
    world.unwanted = []
    world.run(60) { $0.furthest > step + 5 }
    #expect(world.furthest > step + 5 && start.duration(to: world.now) <= .seconds(8))
    let rest = [0, 1, 2].filter { $0 != lost }
    #expect(world.epoch(rest[0]) == (lost == 2 ? 1 : 2))
    world.restart(lost)
    world.steps = world.furthest + 40
    world.run(200) { $0.isFinished(0..<3) }
    #expect(world.isFinished(0..<3))
  }

  @Test("With two devices nobody is a witness, so that the owner goes on alone when the other is lost")
  func noWitness() {
    var world = JobWorld(count: 2, roster: 2, seed: 224)
    world.steps = 200
    world.unwanted = [1]
    world.joining = .keep("the job ends sooner without it")
    world.submit()
    world.run(60) { $0.furthest >= 5 }
    #expect(world.nodes[0].coordinator?.decree.roster.devices == [world.id(0)])
    world.crash(1)
    world.run(60) { $0.isFinished([0]) }
    #expect(world.isFinished([0]))
  }

  @Test(
    "The only device of a plan that fails does not end the job when the others are out of sight: it waits for them"
  )
  func onlyVotersFailureWhileOthersAreAway() {
    var world = leftAlone(seed: 198, steps: 2000)
    world.run(15)
    let stop = RunStop(committedStep: world.nodes[0].step, culprit: .own, reason: "its disk is full")
    world.nodes[0].run?.isBroken = stop
    world.run(15)
    #expect(world.outcomes([0]) == [nil] && world.nodes[0].run == nil && world.state(0) == .paused)
    world.steps = 200
    world.restart(1)
    world.run(120) { $0.isFinished(0..<2) }
    #expect(world.isFinished(0..<2))
  }

  @Test("A record that the only voter cannot write ends the job: what it decides must outlast its daemon")
  func onlyVotersRecord() {
    var world = JobWorld(count: 2, roster: 2, seed: 197)
    world.unwanted = [1]
    world.submit()
    world.run(30) { $0.furthest >= 5 }
    let reason = "its disk does not take the job's record"
    world.handle(.failed(nil, .own, reason), 0)
    #expect(world.outcomes([0]) == [.failed(device: world.id(0), reason: reason)])
  }

  @Test("A device that breaks runs off again and again is left out for a time that doubles")
  func repeatOffender() {
    var world = running(4, seed: 193)
    world.steps = 100_000
    var waits: [Double] = []
    for _ in 0..<4 {
      world.crash(3)
      world.run(12)
      world.restart(3)
      let start = world.now
      world.run(200) { $0.participants(0).contains(3) }
      waits.append(Double(start.duration(to: world.now).components.seconds))
    }
    #expect(waits[0] < 3, "\(waits)")
    #expect(waits[3] > waits[2] && waits[2] > waits[0] && waits[3] < 45, "\(waits)")
  }

  @Test("An answer to an older request is dropped: a plan for a device that is gone is not put to the vote")
  func outdatedPlan() {
    var world = JobWorld(count: 3, roster: 3, seed: 194)
    world.stuck = [0: "plan"]
    world.submit()
    world.run(10)
    let old = world.nodes[0].asked[0]
    world.crash(2)
    world.run(12)
    #expect(world.nodes[0].asked.count == 2)
    world.handle(
      .planned(
        request: old.number, household: old.reports.map(\.device), plan: JobFixture.plan(3), next: nil), 0)
    #expect(world.nodes[0].coordinator?.decree.isProposing == false)
    world.answer(
      0, "",
      .planned(
        request: world.nodes[0].asked[1].number, household: Array(JobFixture.ids[0..<2]),
        plan: JobFixture.plan(2), next: nil))
    world.stuck = [:]
    world.run(30) { $0.isFinished(0..<2) }
    #expect(world.isFinished(0..<2))
  }

  @Test("Steps that were committed are told to the disk now and then, not each")
  func ledger() {
    var world = JobWorld(count: 2, roster: 2, seed: 195)
    world.steps = 400
    world.submit()
    world.run(15)
    let first = world.nodes[0].disk?.ledger
    #expect((first?.committedStep ?? 0) > 0 && first?.epoch == 1)
    #expect((first?.committedStep ?? 0) <= world.nodes[0].step)
    world.run(2)
    let second = world.nodes[0].disk?.ledger.committedStep ?? 0
    world.run(6)
    #expect((world.nodes[0].disk?.ledger.committedStep ?? 0) > second)
  }

  @Test("A stage that has ended without all trained values goes on when the others' run is broken off")
  func partialEnd() {
    for leader in [0, 2] {
      var world = JobWorld(count: 3, roster: 3, leader: leader, seed: 196)
      world.steps = 200
      world.submit()
      world.run(30) { $0.furthest >= 5 }
      let stamp = world.specification.stamp(epoch: 1)
      world.nodes[0].run = nil
      world.handle(.completed(stamp, RunCompletion(digest: nil, result: nil, results: [])), 0)
      world.run(1)
      #expect(world.epoch(1) == 1 && world.nodes[0].coordinator?.progress.phase == .completed)
      world.crash(1)
      world.run(60) { $0.isFinished([0, 2]) }
      #expect(world.isFinished([0, 2]), "led by \(leader)")
      #expect(world.nodes[0].started.count == 2)
    }
  }

  @Test("A stage that has ended and is broken off afterwards breaks the others' run off, too")
  func partialEndThatIsVoid() {
    var world = running(2, seed: 187)
    world.stuck = [0: "run"]
    let stamp = world.specification.stamp(epoch: 1)
    world.nodes[1].run = nil
    world.handle(.completed(stamp, RunCompletion(digest: nil, result: nil, results: [])), 1)
    world.run(1)
    #expect(world.nodes[0].coordinator?.progress(of: world.id(1))?.phase == .completed)
    // No connection tells it: only the word of device 1 does.
    world.nodes[1].started = []
    world.handle(.failed(stamp, .elsewhere, "nothing comes from the next stage"), 1)
    world.run(5) { $0.epoch(0) == 2 }
    #expect(world.epoch(0) == 2)
    world.stuck = [:]
    world.run(60) { $0.isFinished(0..<2) }
    #expect(world.isFinished(0..<2))
  }

  @Test("When only a device that has gone held the result, the others run the last steps again")
  func lostResult() {
    var world = JobWorld(count: 3, roster: 3, owner: 1, seed: 197)
    world.stuck = [2: "run"]
    world.submit()
    world.run(20) { $0.state(0) == .running }
    world.nodes[0].run = nil
    let completion = RunCompletion(digest: JobFixture.digest(1), result: nil, results: [7])
    world.handle(.completed(world.specification.stamp(epoch: 1), completion), 0)
    world.run(1)
    #expect(world.state(1) == .saving)
    world.crash(0)
    world.stuck = [1: "deliver"]
    world.run(60) { $0.nodes[1].delivered > 0 && $0.participants(1) == [1, 2] }
    #expect(world.nodes[1].delivered > 0 && world.participants(1) == [1, 2])
  }

  @Test("Of two devices whose link is broken one is left out, for a time that doubles; the job goes on")
  func brokenLink() {
    for pair in [(1, 2), (0, 2), (2, 3)] {
      var world = running(4, seed: 198)
      world.steps = 1500
      world.brokenLink = pair
      world.run(5)
      let count = world.participants(0).count
      #expect(count == 3 && world.participants(0).contains(0), "\(pair) \(count) \(world.notes(0))")
      let (epoch, step) = (world.epoch(0), world.furthest)
      world.run(60)
      // Four attempts with the link at most: after 10, 20 and 40 seconds.
      #expect(
        world.epoch(0) <= epoch + 8 && world.furthest > step + 600, "\(world.epoch(0)), \(world.furthest)")
      world.brokenLink = nil
      world.run(120) { $0.isFinished(0..<4) }
      #expect(world.isFinished(0..<4))
    }
  }

  @Test("A stage's end that is told under a newer plan does not keep its device from its new part")
  func lateEnd() {
    var world = running(3, seed: 199)
    world.steps = 300
    world.secondsPerStep = [0: 0.1, 1: 0.1, 2: 0.4]
    // The straggler's plan is adopted while the run of device 1 comes to its end.
    world.run(40) { $0.epoch(1) == 2 }
    let old = world.specification.stamp(epoch: 1)
    if world.nodes[1].run?.stamp == old {
      world.nodes[1].run = nil
      world.handle(.completed(old, RunCompletion(digest: nil, result: nil, results: [])), 1)
    }
    world.run(60) { $0.isFinished(0..<3) }
    #expect(world.isFinished(0..<3))
    #expect(world.nodes[1].started.count == 2)
  }

  @Test(
    "A run that stands still although all are there is broken off and tried again; each time it has longer")
  func stall() {
    var world = running(3, seed: 185)
    world.steps = 20_000
    var waits: [Int64] = []
    for _ in 0..<2 {
      world.stuck = [1: "run"]
      let (start, epoch) = (world.now, world.epoch(0))
      world.run(600) { $0.epoch(0) > epoch }
      waits.append(start.duration(to: world.now).components.seconds)
      world.stuck = [:]
      world.run(20)
    }
    #expect((119...123).contains(waits[0]) && (239...243).contains(waits[1]), "\(waits)")
    #expect(world.participants(0) == [0, 1, 2] && world.state(0) == .running)
  }
}
