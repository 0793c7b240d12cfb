import CryptoPrimitives
import Determinism
import HouseholdTrust
import MeshModel
import Testing
import TrainingCoordination

/// Devices that join, learn, leave and come back, and an owner that is away.
@Suite struct JobChurnTests {
  private func running(
    _ count: Int, of all: Int? = nil, owner: Int = 0, leader: Int = 0, seed: UInt64, after step: UInt64 = 5,
    steps: UInt64 = 400
  ) -> JobWorld {
    var world = JobWorld(count: all ?? count, roster: count, owner: owner, leader: leader, seed: seed)
    world.steps = steps
    for own in count..<max(count, all ?? count) { world.nodes[own].isUp = false }
    world.submit()
    world.run(30) { $0.furthest >= step }
    return world
  }

  // MARK: - Joining

  @Test("A device that appears in a run prepares, reports, and takes part within seconds")
  func join() {
    var world = running(2, of: 3, seed: 200)
    world.nodes[2].isUp = true
    let start = world.now
    world.run(20) { $0.nodes[2].run != nil && $0.participants(2).contains(2) }
    #expect(start.duration(to: world.now) <= .seconds(5))
    #expect(world.participants(0) == [0, 1, 2] && world.epoch(0) == 2)
    let asked = world.nodes[0].asked.last
    #expect(asked?.cause == .joined && asked?.household == [world.id(0), world.id(1)])
    #expect(asked?.learning == true && asked?.plan == JobFixture.plan(2))
    #expect((asked?.committedStep ?? 0) >= 5)
    world.run(60) { $0.isFinished(0..<3) }
    #expect(world.isFinished(0..<3))
    // Nothing was lost: the run was drained, not broken off.
    #expect(world.notes(0).contains(.joined(world.id(2))))
    #expect(!world.notes(0).contains { if case .lost = $0 { true } else { false } })
  }

  @Test(
    "While what a lost device held is computed again, those that come wait for the first step, but not for long"
  )
  func recovery() {
    for isLong in [false, true] {
      var world = running(4, seed: 212)
      // Nothing but the filling of caches goes on until it is over.
      world.stuck = Dictionary(uniqueKeysWithValues: (0..<4).map { ($0, "run") })
      world.crash(3)
      world.run(10) { $0.epoch(0) == 2 && $0.nodes[0].run != nil }
      let start = world.now
      for own in 0..<3 {
        var filling = DeviceProgress(.filling)
        // A run that does not know yet how far its device is has not made a step by that.
        filling.committedStep = isLong ? 0 : world.nodes[own].coordinator?.progress.committedStep ?? 0
        world.handle(.progressed(world.specification.stamp(epoch: 2), filling), own)
      }
      world.restart(3)
      world.run(8)
      #expect(world.epoch(0) == 2)
      if !isLong { world.stuck = [:] }
      world.run(10) { $0.epoch(0) == 3 }
      #expect(world.participants(0) == [0, 1, 2, 3])
      let limit: Duration = isLong ? .seconds(11) : .seconds(9)
      #expect(start.duration(to: world.now) <= limit, "\(isLong)")
    }
  }

  @Test("A device that would not pay is told why, and is not asked for again before half a minute has passed")
  func declined() {
    var world = running(2, of: 3, seed: 201, steps: 2000)
    world.joining = .keep("the job is over in 20 s, the switch takes 30 s")
    world.nodes[2].isUp = true
    world.run(25)
    let note = JobNote.Event.declined(
      world.id(2), reason: "the job is over in 20 s, the switch takes 30 s")
    #expect(world.notes(2).contains(note) && world.notes(0).contains(note) && world.notes(1).contains(note))
    #expect(world.nodes[0].asked.filter { $0.cause == .joined }.count == 1)
    world.run(15)
    #expect(world.nodes[0].asked.filter { $0.cause == .joined }.count == 2)
    world.run(45)
    #expect(world.nodes[0].asked.filter { $0.cause == .joined }.count == 2)
    #expect(world.epoch(0) == 1 && world.notes(0).filter { $0 == note }.count == 1)
  }

  @Test("A device that has much to fetch learns in the background, and takes part once it holds all")
  func learn() {
    var world = running(2, of: 3, seed: 202)
    world.joining = .learn
    world.nodes[2].isUp = true
    world.run(20) { $0.epoch(0) == 2 && $0.nodes[0].run != nil }
    let proposal = world.nodes[0].coordinator?.certificate?.proposal
    #expect(proposal?.participants == [world.id(0), world.id(1)] && proposal?.learners == [world.id(2)])
    #expect(proposal?.voters(owner: world.id(0)) == [world.id(0), world.id(1)])
    let step = world.furthest
    world.run(10) { $0.nodes[2].coordinator?.progress.phase == .learning }
    world.run(10) { $0.epoch(0) == 3 && $0.nodes[2].run != nil }
    #expect(world.participants(2) == [0, 1, 2] && world.furthest > step)
    world.run(60) { $0.isFinished(0..<3) }
    #expect(world.isFinished(0..<3))
  }

  @Test("A plan is not replaced for a gain before its first step; one that fills a cache may be")
  func joinBeforeTheFirstStep() {
    for isFilling in [false, true] {
      var world = JobWorld(count: 3, roster: 2, seed: 207)
      world.nodes[2].isUp = false
      world.stuck = [1: "run"]
      world.submit()
      world.run(20) { $0.nodes[0].run != nil && $0.nodes[1].run != nil }
      if isFilling {
        world.handle(.progressed(world.specification.stamp(epoch: 1), DeviceProgress(.filling)), 0)
      }
      world.nodes[2].isUp = true
      world.run(20) { $0.epoch(0) > 1 }
      #expect(world.epoch(0) == (isFilling ? 2 : 1))
      #expect(world.nodes[0].asked.count { $0.cause == .joined } == (isFilling ? 1 : 0))
      world.stuck = [:]
      world.run(20) { $0.participants(2).contains(2) && $0.nodes[2].run != nil }
      #expect(world.participants(0) == [0, 1, 2])
    }
  }

  @Test("A learner that dies disturbs nobody; it is learned with anew when it is back")
  func learnerLoss() {
    var world = running(2, of: 3, seed: 203, steps: 2000)
    world.joining = .learn
    world.stuck = [2: "learn"]
    world.nodes[2].isUp = true
    world.run(20) { $0.nodes[2].coordinator?.progress.phase == .learning }
    world.crash(2)
    let step = world.furthest
    world.run(10)
    #expect(world.epoch(0) == 2 && world.furthest > step + 150)
    world.stuck = [:]
    world.restart(2)
    world.run(40) { $0.participants(2) == [0, 1, 2] && $0.nodes[2].run != nil }
    #expect(world.participants(0) == [0, 1, 2])
    #expect(!world.notes(0).contains { if case .lost = $0 { true } else { false } })
  }

  @Test("Any device that leads passes the offer on: the owner may be away")
  func offerWithoutOwner() {
    var world = running(3, of: 4, owner: 2, seed: 204, steps: 2000)
    world.crash(2)
    world.run(5)
    world.nodes[3].isUp = true
    world.run(20) { $0.participants(0) == [0, 1, 3] }
    #expect(world.participants(0) == [0, 1, 3])
  }

  @Test("An owner without a role hands over what it holds, keeps its vote, and leads on")
  func idleOwner() {
    var world = running(3, seed: 206, steps: 2000)
    world.unwanted = [0]
    world.crash(2)
    world.run(10) { $0.epoch(1) == 2 && $0.nodes[1].run != nil }
    let proposal = world.nodes[1].coordinator?.certificate?.proposal
    #expect(proposal?.participants == [world.id(1)] && proposal?.donors == [world.id(0)])
    #expect(proposal?.voters(owner: world.id(0)) == [world.id(0), world.id(1)])
    world.run(2)
    #expect(world.nodes[0].coordinator?.progress.phase == .handedOver)
    #expect(world.nodes[0].coordinator?.leader(at: world.now) == world.id(0))
    world.restart(2)
    world.run(20) { $0.participants(0) == [1, 2] }
    #expect(world.participants(0) == [1, 2] && world.nodes[0].asked.last?.cause == .joined)
    world.run(150) { $0.isFinished(0..<3) }
    #expect(world.isFinished(0..<3))
  }

  @Test(
    "A device that computes far longer than the others makes the leader look for other shares, however short epochs are"
  )
  func straggler() {
    var world = running(3, seed: 205, steps: 4000)
    world.secondsPerStep = [0: 0.1, 1: 0.1, 2: 0.4]
    world.run(40) { $0.epoch(0) == 2 }
    let asked = world.nodes[0].asked.last
    #expect(asked?.cause == .straggler)
    #expect(asked?.secondsPerStep == [world.id(0): 0.1, world.id(1): 0.1, world.id(2): 0.4])
    world.run(20)
    #expect(world.nodes[0].asked.filter { $0.cause == .straggler }.count == 1)
    world.run(60)
    #expect(world.nodes[0].asked.filter { $0.cause == .straggler }.count == 2)
  }

  // MARK: - Leaving

  @Test("A device that leaves with notice costs no step: the run is drained, and it hands over what it holds")
  func leave() {
    for leaver in 0..<3 {
      var world = running(3, owner: 1, seed: UInt64(210 + leaver))
      world.handle(.leave(reason: "its battery is low"), leaver)
      let start = world.now
      world.run(20) { $0.nodes[leaver].coordinator?.hasLeft ?? false }
      #expect(start.duration(to: world.now) <= .seconds(2))
      let rest = [0, 1, 2].filter { $0 != leaver }
      world.run(20) { world in rest.allSatisfy { world.nodes[$0].run != nil } }
      #expect(world.participants(rest[0]) == rest)
      #expect(
        world.nodes[leaver].started.count == 2, "\(leaver): \(world.nodes.map { $0.asked.map(\.cause) })")
      #expect(world.notes(rest[0]).contains(.left(world.id(leaver), reason: "its battery is low")))
      #expect(!world.notes(rest[0]).contains { if case .lost = $0 { true } else { false } })
      world.crash(leaver)
      if leaver == 1 { continue }
      world.run(60) { $0.isFinished(rest) }
      #expect(world.isFinished(rest))
    }
  }

  @Test(
    "Of two devices, too, one that computes twice as long as the other makes the leader look for other shares"
  )
  func stragglerOfTwo() {
    for (slow, looks) in [(0.2, true), (0.14, false)] {
      var world = running(2, seed: 216, steps: 4000)
      world.secondsPerStep = [0: 0.1, 1: slow]
      world.run(30) { $0.epoch(0) == 2 }
      #expect(world.nodes[0].asked.contains { $0.cause == .straggler } == looks, "\(slow)")
    }
  }

  @Test("Whoever leaves and is gone before the boundary is not waited for, however long steps are")
  func leaveBeforeTheBoundary() {
    var world = running(3, seed: 215, steps: 2000)
    world.secondsPerStep = [0: 60, 1: 60, 2: 60]
    world.run(3)
    world.stuck = [0: "run"]
    world.handle(.leave(reason: "its battery is low"), 2)
    world.run(5) { $0.epoch(0) == 2 && $0.epoch(1) == 2 }
    #expect(world.nodes[0].run?.isDraining == true)
    // Its cable is out: nothing closes its connections.
    world.nodes[2].group = 1
    world.stuck = [:]
    let start = world.now
    world.run(60) { world in [0, 1].allSatisfy { world.nodes[$0].run?.stamp.epoch == 2 } }
    #expect(start.duration(to: world.now) <= JobWorld.gossip + .seconds(2))
    #expect(world.participants(0) == [0, 1])
  }

  @Test("A learner that leaves just goes, and a device that holds the result may go too")
  func learnerLeaves() {
    var world = running(2, of: 3, seed: 213, steps: 100)
    world.joining = .learn
    world.stuck = [2: "learn"]
    world.nodes[2].isUp = true
    world.run(20) { $0.nodes[2].coordinator?.progress.phase == .learning }
    world.handle(.leave(reason: "its battery is low"), 2)
    world.run(2) { $0.nodes[2].coordinator?.hasLeft ?? false }
    #expect(world.nodes[2].coordinator?.hasLeft == true)
    world.stuck = [0: "deliver"]
    world.run(30) { $0.state(0) == .saving && $0.nodes[1].coordinator?.progress.phase == .completed }
    #expect(world.epoch(0) == 2)
    world.handle(.leave(reason: "a person needs it"), 1)
    #expect(world.nodes[1].coordinator?.hasLeft == true)
  }

  @Test("A device that left takes part again when it wants to, and measures itself anew")
  func rejoin() {
    var world = running(3, seed: 214, steps: 2000)
    world.handle(.leave(reason: "a person needs it"), 2)
    world.run(10) { $0.nodes[2].coordinator?.hasLeft ?? false }
    world.run(30)
    #expect(world.participants(0) == [0, 1])
    #expect(world.nodes[0].coordinator?.progress(of: world.id(2))?.phase == .paused)
    #expect(world.nodes[0].coordinator?.progress(of: world.id(2))?.reason == "a person needs it")
    world.handle(.rejoin, 2)
    world.run(20) { $0.participants(2) == [0, 1, 2] && $0.nodes[2].run != nil }
    #expect(world.nodes[2].prepared == 2)
    #expect(world.participants(0) == [0, 1, 2])
  }

  @Test("When the last device leaves, the job is paused, and goes on when it is back")
  func lastLeaves() {
    var world = running(1, seed: 215)
    world.handle(.leave(reason: "a person needs it"), 0)
    world.run(10) { $0.nodes[0].coordinator?.hasLeft ?? false }
    #expect(world.nodes[0].coordinator?.hasLeft == true)
    #expect(world.state(0) == .paused || world.state(0) == .recovering)
    let step = world.furthest
    world.run(20)
    #expect(world.furthest == step && world.state(0) == .paused)
    world.handle(.rejoin, 0)
    world.run(60) { $0.isFinished([0]) }
    #expect(world.isFinished([0]))
    #expect(world.epoch(0) == 2)
  }

  @Test("When all leave one after the other, whoever comes back first waits for a majority")
  func allLeave() {
    var world = running(3, seed: 216)
    for own in 0..<3 { world.handle(.leave(reason: "the lights go out"), own) }
    world.run(15)
    for own in 0..<3 { #expect(world.nodes[own].coordinator?.hasLeft == true, "device \(own)") }
    world.handle(.rejoin, 1)
    world.handle(.rejoin, 2)
    world.run(60) { $0.isFinished([1, 2]) || $0.outcomes([1]) != [nil] }
    // The owner is there, though it computes nothing, and gets its adapter.
    #expect(world.isFinished(0..<3))
  }

  @Test("A leaving device without which there is no plan leaves anyway")
  func unplannableLeave() {
    var world = running(2, seed: 217)
    world.unplannable = (fewer: 2, reason: "the model fits into no device")
    world.handle(.leave(reason: "a person needs it"), 1)
    world.run(20) { $0.nodes[1].coordinator?.hasLeft ?? false }
    #expect(world.nodes[1].coordinator?.hasLeft == true)
    world.run(5)
    #expect(world.state(0) == .paused)
    #expect(world.nodes[0].coordinator?.pausedReason == "the model fits into no device")
    world.handle(.rejoin, 1)
    world.run(60) { $0.isFinished(0..<2) }
    #expect(world.isFinished(0..<2))
  }

  // MARK: - The owner

  @Test("An owner that is away at the end gets the adapter when it is back, also from restarted devices")
  func ownerAway() {
    for restarts in [false, true] {
      var world = running(4, owner: 3, seed: 220, steps: 60)
      world.crash(3)
      world.run(60) { $0.state(0) == .saving }
      #expect(world.state(0) == .saving)
      world.run(20)
      if restarts {
        for own in 0..<3 { world.crash(own) }
        world.run(2)
        for own in 0..<3 { world.restart(own) }
        world.run(5)
        #expect(world.nodes[0].coordinator?.progress.phase == .completed)
      }
      #expect(world.outcomes(0..<3) == [nil, nil, nil])
      world.restart(3)
      world.run(30) { $0.isFinished(0..<4) }
      #expect(world.isFinished(0..<4))
      #expect(world.nodes[3].delivered == 1)
    }
  }

  @Test("An owner that restarts while it writes the adapter writes it again")
  func ownerRestart() {
    var world = JobWorld(count: 3, roster: 3, owner: 1, seed: 222)
    world.stuck = [1: "deliver"]
    world.submit()
    world.run(30) { $0.nodes[1].delivered == 1 }
    world.crash(1)
    world.stuck = [:]
    world.run(3)
    world.restart(1)
    world.run(30) { $0.isFinished(0..<3) }
    #expect(world.isFinished(0..<3))
  }

  @Test("An adapter that cannot be written fails the job at the third attempt, with the owner's words")
  func deliveryFailure() {
    var world = JobWorld(count: 2, roster: 2, seed: 223)
    world.stuck = [0: "deliver"]
    world.submit()
    for attempt in 1...3 {
      world.run(30) { $0.nodes[0].delivered == attempt }
      #expect(world.nodes[0].delivered == attempt)
      world.handle(.failed(nil, .own, "its disk is full"), 0)
    }
    world.run(2)
    let failure = JobOutcome.failed(device: world.id(0), reason: "its disk is full")
    #expect(world.outcomes(0..<2) == [failure, failure])
  }

  @Test("A job whose owner is lost before the plan goes on without it as long as the others can")
  func ownerLossBeforePlan() {
    for stuck in ["prepare", "plan"] {
      var world = JobWorld(count: 4, roster: 4, owner: 1, leader: 0, seed: 224)
      world.stuck = [stuck == "plan" ? 0 : 2: stuck]
      world.submit()
      world.run(10)
      world.crash(1)
      world.stuck = [:]
      if stuck == "prepare" { world.answer(2, "", .prepared(report: [2])) }
      world.run(60) { $0.state(0) == .saving }
      #expect(world.state(0) == .saving)
      world.restart(1)
      world.run(30) { $0.isFinished(0..<4) }
      #expect(world.isFinished(0..<4))
    }
  }

  // MARK: - Adoption

  @Test("An admin lets the minority go on under a new term, which fences the old one for ever")
  func adopt() {
    var world = running(5, owner: 4, seed: 230, steps: 1500)
    world.admins = [1]
    for own in 2..<5 { world.crash(own) }
    world.run(20) { $0.state(0) == .paused && $0.state(1) == .paused }
    world.handle(.adopt, 0)
    #expect(world.nodes[0].coordinator?.specification.term == 0)
    world.handle(.adopt, 1)
    world.run(10) { $0.nodes[0].run != nil && $0.nodes[1].run != nil }
    let position = world.nodes[0].coordinator?.position
    #expect(position?.term == JobAdoption.term(after: 0, by: world.id(1)) && position?.epoch == 2)
    #expect(world.participants(0) == [0, 1])
    #expect(world.notes(0).contains(.adopted(by: world.id(1))))
    // The others come back with the old term, and take part under the new one.
    for own in 2..<5 { world.restart(own) }
    world.run(60) { $0.participants(0).count == 5 && $0.nodes[4].run != nil }
    #expect(world.nodes[4].coordinator?.position.term == position?.term)
    world.run(200) { $0.isFinished(0..<5) }
    #expect(world.isFinished(0..<5))
  }

  @Test("Of two adoptions of a divided household the higher term stays, on all devices")
  func twoAdoptions() {
    var world = running(4, seed: 231, steps: 3000)
    world.admins = [1, 3]
    for own in 2..<4 { world.nodes[own].group = 1 }
    world.run(15)
    world.handle(.adopt, 1)
    world.handle(.adopt, 3)
    world.run(15) { $0.state(0) == .running && $0.state(3) == .running }
    #expect(world.state(0) == .running && world.state(3) == .running)
    for own in 2..<4 { world.nodes[own].group = 0 }
    world.run(60) { $0.participants(0).count == 4 && $0.participants(3).count == 4 }
    let terms = Set(world.nodes.map { $0.coordinator?.position.term ?? 0 })
    let expected = [1, 3].map { JobAdoption.term(after: 0, by: world.id($0)) }.max()
    #expect(terms == [expected ?? 0])
    #expect(world.participants(0) == [0, 1, 2, 3])
  }

  @Test("An adoption that no admin signed changes nothing")
  func forgedAdoption() {
    var world = running(3, seed: 232)
    world.admins = [0]
    world.run(1)
    let stamp = JobStamp(job: world.specification.id, term: 1 << 16, epoch: 1)
    let forged = JobAdoption(stamp, roster: [world.id(2)], keys: world.nodes[2].keys)
    let before = world.nodes[1].coordinator?.dropped ?? 0
    world.handle(.message(JobMessage(stamp, .adopted(forged)), from: world.id(2)), 1)
    #expect(world.nodes[1].coordinator?.dropped == before + 1)
    #expect(world.nodes[1].coordinator?.position.term == 0)
  }
}
