import CryptoPrimitives
import Determinism
import HouseholdTrust
import MeshModel
import Testing
import TrainingCoordination

/// Devices that decide on a plan over a network that loses, repeats and reorders, with crashes in the middle.
private struct DecreeWorld {
  struct Letter {
    let message: DecreeMessage
    let sender: Int
    let recipient: Int
  }

  struct Node {
    var decree: EpochDecree
    var disk = DecreeRecord()
    var isUp = true
  }

  let roster: DecreeRoster
  var nodes: [Node]
  var letters: [Letter] = []
  var now = MonotonicInstant.zero
  var generator: SeededGenerator
  var certificates: [PlanCertificate] = []
  private var salt: Int64 = 0

  init(count: Int, seed: UInt64) {
    generator = SeededGenerator(seed: seed)
    let roster = DecreeRoster(Array(JobFixture.ids[0..<count]), owner: JobFixture.ids[0])
    self.roster = roster
    nodes = (0..<count).map { index in
      Node(decree: Self.decree(index, roster, DecreeRecord()))
    }
  }

  private static func decree(_ index: Int, _ roster: DecreeRoster, _ disk: DecreeRecord) -> EpochDecree {
    EpochDecree(
      own: JobFixture.ids[index], stamp: JobStamp(job: JobID(1, 2), term: 0, epoch: 1), roster: roster,
      record: disk)
  }

  /// Puts forward a plan that nobody has put forward before.
  mutating func propose(_ index: Int) {
    salt += 1
    let proposal = JobFixture.proposal(roster.devices, salt: salt)
    let seed = generator.next()
    perform(
      nodes[index].decree.propose(
        proposal, generator: SeededGenerator(seed: seed), keys: JobFixture.devices[index], at: now), of: index
    )
  }

  mutating func tick(_ index: Int) {
    perform(nodes[index].decree.tick(keys: JobFixture.devices[index], at: now), of: index)
  }

  mutating func deliver(_ letter: Letter) {
    guard nodes[letter.recipient].isUp else { return }
    let sender = JobFixture.devices[letter.sender]
    let effects = nodes[letter.recipient].decree.handle(
      letter.message, from: sender.device, voter: sender.signing.publicKey,
      keys: JobFixture.devices[letter.recipient], at: now)
    perform(effects, of: letter.recipient)
  }

  /// Does the effects in order; with `crashing` the device stops after some of them.
  mutating func perform(_ effects: [DecreeEffect], of index: Int, crashing: Bool = false) {
    let done = crashing ? effects.prefix(generator.uniform(below: effects.count + 1)) : effects[...]
    for effect in done {
      switch effect {
      case .persist(let record): nodes[index].disk = record
      case .send(let message, let device):
        let recipient = roster.devices.firstIndex(of: device)!
        letters.append(Letter(message: message, sender: index, recipient: recipient))
      }
    }
    if let certificate = nodes[index].decree.certificate, !certificates.contains(certificate) {
      certificates.append(certificate)
    }
  }

  mutating func crash(_ index: Int) {
    if !letters.isEmpty, generator.next() & 1 == 0 {
      // In the middle of answering a letter.
      let letter = letters[generator.uniform(below: letters.count)]
      if letter.recipient == index, nodes[index].isUp {
        let sender = JobFixture.devices[letter.sender]
        let effects = nodes[index].decree.handle(
          letter.message, from: sender.device, voter: sender.signing.publicKey,
          keys: JobFixture.devices[index], at: now)
        perform(effects, of: index, crashing: true)
      }
    }
    nodes[index].isUp = false
  }

  mutating func restart(_ index: Int) {
    nodes[index].isUp = true
    nodes[index].decree = Self.decree(index, roster, nodes[index].disk)
  }

  /// A thousand things that can go wrong.
  mutating func storm() {
    for _ in 0..<400 {
      let index = generator.uniform(below: nodes.count)
      switch generator.uniform(below: 20) {
      case 0: crash(index)
      case 1, 2: if !nodes[index].isUp { restart(index) }
      case 3: if nodes[index].isUp, !nodes[index].decree.isProposing { propose(index) }
      case 4, 5:
        now = now.advanced(by: .milliseconds(generator.uniform(below: 3000)))
        if nodes[index].isUp { tick(index) }
      case 6: if !letters.isEmpty { letters.remove(at: generator.uniform(below: letters.count)) }
      case 7: if !letters.isEmpty { deliver(letters[generator.uniform(below: letters.count)]) }
      default:
        if !letters.isEmpty { deliver(letters.remove(at: generator.uniform(below: letters.count))) }
      }
    }
  }

  /// Half a minute without faults, with those up that are; returns whether somebody has a certificate.
  mutating func calm() -> Bool {
    for _ in 0..<300 {
      let delivered = letters
      letters = []
      for letter in delivered { deliver(letter) }
      now = now.advanced(by: .milliseconds(100))
      for index in nodes.indices where nodes[index].isUp { tick(index) }
      if nodes.contains(where: { $0.isUp && $0.decree.certificate != nil }) { return true }
    }
    return false
  }
}

@Suite struct EpochDecreeTests {
  @Test("Votes weigh 2 each and the anchor's 1 more; two majorities always have a device in common")
  func weights() {
    for count in 1...7 {
      let roster = DecreeRoster(Array(JobFixture.ids[0..<count]), owner: JobFixture.ids[0])
      #expect(roster.totalWeight == 2 * count + 1)
      let majorities = (0..<(1 << count)).filter { set in
        roster.isMajority((0..<count).filter { set >> $0 & 1 == 1 }.map { JobFixture.ids[$0] })
      }
      for first in majorities { for second in majorities { #expect(first & second != 0) } }
    }
    let pair = DecreeRoster(Array(JobFixture.ids[0..<2]), owner: JobFixture.ids[0])
    #expect(pair.isMajority([JobFixture.ids[0]]) && !pair.isMajority([JobFixture.ids[1]]))
    // An owner that does not vote leaves the weight to the smallest device.
    let others = DecreeRoster(Array(JobFixture.ids[1..<4]), owner: JobFixture.ids[0])
    #expect(others.anchor == JobFixture.ids[1] && others.totalWeight == 7)
  }

  @Test(
    "Whatever is lost, repeated, reordered or crashes, a plan epoch never has two plans", arguments: 0..<40)
  func safety(_ block: Int) {
    for seed in 0..<25 {
      let number = UInt64(block * 25 + seed)
      var world = DecreeWorld(count: 1 + Int(number % 5), seed: number)
      world.propose(Int(number % UInt64(world.nodes.count)))
      world.storm()
      for index in world.nodes.indices where !world.nodes[index].isUp { world.restart(index) }
      if world.nodes.allSatisfy({ !$0.decree.isProposing }), world.certificates.isEmpty { world.propose(0) }
      let hasEnded = world.calm()
      #expect(hasEnded || !world.certificates.isEmpty, "seed \(number) never ends")
      #expect(Set(world.certificates.map(\.proposal)).count == 1, "seed \(number)")
      for certificate in world.certificates {
        #expect(throws: Never.self) {
          try certificate.verify(roster: world.roster) { JobFixture.key($0) }
        }
      }
    }
  }

  @Test("With a majority by weight the vote ends, without one it does not")
  func majority() {
    for seed in 0..<20 {
      // The owner and one more of four: 5 of 9.
      var world = DecreeWorld(count: 4, seed: UInt64(seed))
      for index in [2, 3] { world.crash(index) }
      world.propose(1)
      let hasEnded = world.calm()
      #expect(hasEnded)
      var minority = DecreeWorld(count: 4, seed: UInt64(seed))
      for index in [0, 1] { minority.crash(index) }
      minority.propose(2)
      let hasMinorityEnded = minority.calm()
      #expect(!hasMinorityEnded)
      #expect(minority.nodes[2].decree.answeredWeight == 4)
    }
  }

  @Test("Two that propose at once both end with the same plan")
  func duel() {
    for seed in 0..<50 {
      var world = DecreeWorld(count: 3, seed: UInt64(seed))
      world.propose(0)
      world.propose(1)
      let hasEnded = world.calm()
      #expect(hasEnded)
      for _ in 0..<5 { _ = world.calm() }
      let plans = Set(world.nodes.compactMap { $0.decree.certificate?.proposal })
      #expect(plans.count == 1)
    }
  }

  @Test("Every answer of an acceptor comes after the record that binds it")
  func persistsFirst() {
    var world = DecreeWorld(count: 3, seed: 1)
    let (own, other) = (JobFixture.devices[1], JobFixture.devices[0])
    let ballot = Ballot(round: 7, proposer: other.device)
    func handle(_ message: DecreeMessage) -> [DecreeEffect] {
      world.nodes[1].decree.handle(
        message, from: other.device, voter: other.signing.publicKey, keys: own, at: .zero)
    }
    var record = DecreeRecord()
    record.promised = ballot
    #expect(
      handle(.prepare(ballot))
        == [.persist(record), .send(.promise(ballot, accepted: nil), to: other.device)])
    let proposal = JobFixture.proposal(world.roster.devices)
    record.accepted = AcceptedProposal(ballot: ballot, proposal: proposal)
    let effects = handle(.accept(ballot, proposal))
    #expect(effects.first == .persist(record) && effects.count == 2)
    // Said again, it is answered again; an older ballot is refused; another plan under this ballot is not answered.
    #expect(handle(.accept(ballot, proposal)) == Array(effects.dropFirst()))
    let older = Ballot(round: 6, proposer: other.device)
    #expect(handle(.prepare(older)) == [.send(.refused(older, promised: ballot), to: other.device)])
    #expect(handle(.accept(ballot, JobFixture.proposal(world.roster.devices, salt: 1))).isEmpty)
    // A ballot of somebody else's, and a device that is not of the roster.
    #expect(handle(.prepare(Ballot(round: 9, proposer: own.device))).isEmpty)
    let stranger = JobFixture.devices[5]
    #expect(
      world.nodes[1].decree.handle(
        .prepare(Ballot(round: 9, proposer: stranger.device)), from: stranger.device,
        voter: stranger.signing.publicKey, keys: own, at: .zero
      ).isEmpty)
  }

  @Test("A restarted proposer never uses a round again")
  func rounds() {
    var world = DecreeWorld(count: 3, seed: 3)
    var rounds: [UInt32] = []
    for _ in 0..<5 {
      world.letters = []
      world.propose(0)
      guard case .prepare(let ballot) = world.letters.first?.message else {
        Issue.record("nothing was proposed")
        return
      }
      rounds.append(ballot.round)
      world.nodes[0].isUp = false
      world.restart(0)
    }
    #expect(rounds == [1, 2, 3, 4, 5])
  }

  @Test("A certificate holds with the votes of a majority, and with nothing less")
  func certificates() {
    let ids = Array(JobFixture.ids[0..<4])
    let roster = DecreeRoster(ids, owner: ids[0])
    let proposal = JobFixture.proposal(ids)
    func failure(
      _ certificate: PlanCertificate, roster expected: DecreeRoster = roster, without: DeviceID? = nil
    ) -> CertificateFailure? {
      do throws(CertificateFailure) {
        try certificate.verify(roster: expected) { $0 == without ? nil : JobFixture.key($0) }
        return nil
      } catch {
        return error
      }
    }
    let good = JobFixture.certificate(proposal, roster: roster, voters: Array(ids[0..<2]))
    #expect(failure(good) == nil)
    let few = JobFixture.certificate(proposal, roster: roster, voters: Array(ids[2..<4]))
    #expect(failure(few) == .noMajority(weight: 4, of: 9))
    #expect(failure(good, without: ids[1]) == .notOfRoster(ids[1]))
    let foreign = JobFixture.certificate(
      proposal, roster: roster, voters: [ids[0], ids[1], JobFixture.ids[7]])
    #expect(failure(foreign) == .notOfRoster(JobFixture.ids[7]))
    #expect(failure(good, roster: DecreeRoster(ids, owner: ids[1])) == .otherRoster(proposal.stamp))
    // The votes of one plan, ballot or roster are none for another.
    let other = PlanCertificate(
      proposal: JobFixture.proposal(ids, salt: 1), roster: roster, ballot: good.ballot, votes: good.votes)
    #expect(failure(other) == .badSignature(ids[0]))
    let later = PlanCertificate(
      proposal: proposal, roster: roster, ballot: Ballot(round: 2, proposer: ids[0]), votes: good.votes)
    #expect(failure(later) == .badSignature(ids[0]))
  }
}
