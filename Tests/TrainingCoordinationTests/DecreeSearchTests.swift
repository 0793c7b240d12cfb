import CryptoPrimitives
import Determinism
import HouseholdTrust
import MeshModel
import Testing
import TrainingCoordination

/// Every state that three devices, two of which propose, can reach: each message is delivered whenever and as often as
/// the network likes, or never, and devices restart from their disks.
private struct DecreeSearch {
  struct Letter: Hashable {
    let message: DecreeMessage
    let sender: Int
    let recipient: Int
  }

  struct Key: Hashable {
    let records: [DecreeRecord]
    let attempts: [DecreeProposer.Attempt?]
    let letters: Set<Letter>
    let restarts: [Int]
  }

  struct State {
    var decrees: [EpochDecree]
    var letters: Set<Letter> = []
    var restarts: [Int]
    var certified: Set<PlanProposal> = []

    var key: Key {
      Key(
        records: decrees.map(\.record), attempts: decrees.map { $0.proposer?.attempt }, letters: letters,
        restarts: restarts)
    }
  }

  let roster: DecreeRoster
  let proposers: [Int]
  let limit: Int
  private(set) var states = 0
  private(set) var certifying = 0

  init(acceptors: Int, proposers: [Int], limit: Int) {
    roster = DecreeRoster(Array(JobFixture.ids[0..<acceptors]), owner: JobFixture.ids[0])
    self.proposers = proposers
    self.limit = limit
  }

  private func decree(_ index: Int, _ record: DecreeRecord) -> EpochDecree {
    EpochDecree(
      own: JobFixture.ids[index], stamp: JobStamp(job: JobID(1, 2), term: 0, epoch: 1), roster: roster,
      record: record)
  }

  private func perform(_ effects: [DecreeEffect], of index: Int, in state: inout State) {
    for case .send(let message, let device) in effects {
      state.letters.insert(
        Letter(message: message, sender: index, recipient: roster.devices.firstIndex(of: device)!))
    }
    if let certificate = state.decrees[index].certificate { state.certified.insert(certificate.proposal) }
  }

  private func propose(_ index: Int, salt: Int, in state: inout State) {
    let proposal = JobFixture.proposal(roster.devices, salt: Int64(salt))
    let effects = state.decrees[index].propose(
      proposal, generator: SeededGenerator(seed: 1), keys: JobFixture.devices[index], at: .zero)
    perform(effects, of: index, in: &state)
  }

  /// The most proposals that any one history got certified.
  mutating func run(restarts: Int) -> Int {
    var start = State(
      decrees: roster.devices.indices.map { decree($0, DecreeRecord()) },
      restarts: roster.devices.indices.map { proposers.contains($0) ? restarts : 0 })
    for index in proposers { propose(index, salt: index, in: &start) }
    var seen: Set<Key> = [start.key]
    var waiting = [start]
    var worst = 0
    while let state = waiting.popLast(), states < limit {
      states += 1
      if !state.certified.isEmpty { certifying += 1 }
      worst = max(worst, state.certified.count)
      var next: [State] = []
      for letter in state.letters {
        var after = state
        let sender = JobFixture.devices[letter.sender]
        let effects = after.decrees[letter.recipient].handle(
          letter.message, from: sender.device, voter: sender.signing.publicKey,
          keys: JobFixture.devices[letter.recipient], at: .zero)
        perform(effects, of: letter.recipient, in: &after)
        next.append(after)
      }
      for index in proposers where state.restarts[index] > 0 {
        var after = state
        after.restarts[index] -= 1
        after.decrees[index] = decree(index, state.decrees[index].record)
        // It has forgotten what it proposed, and proposes something else.
        propose(index, salt: 10 * (after.restarts[index] + 1) + index, in: &after)
        next.append(after)
      }
      for after in next where seen.insert(after.key).inserted { waiting.append(after) }
    }
    return worst
  }
}

@Suite struct DecreeSearchTests {
  @Test("Two proposers and two acceptors, one restart each: no history has two plans")
  func pair() {
    var search = DecreeSearch(acceptors: 2, proposers: [0, 1], limit: 400_000)
    let most = search.run(restarts: 1)
    #expect(most == 1)
    #expect(search.certifying > 0 && search.states < search.limit, "\(search.states) states")
  }

  @Test("Two proposers and three acceptors: no history has two plans")
  func three() {
    var search = DecreeSearch(acceptors: 3, proposers: [0, 1], limit: 400_000)
    let most = search.run(restarts: 0)
    #expect(most == 1)
    #expect(search.certifying > 0 && search.states < search.limit, "\(search.states) states")
  }
}
