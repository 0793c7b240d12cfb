import CryptoPrimitives
import Determinism
import MeshModel
import TrainingCoordination

/// A kind of run of a simulated job: a name, what it shows, and how a seed becomes a plan.
package struct JobScenario: Sendable {
  /// The name on the command line.
  package let name: String
  /// What happens in it, in one line.
  package let summary: String
  private let faults: @Sendable (inout JobPlan, inout SeededGenerator) -> Void

  private init(
    _ name: String, _ summary: String,
    _ faults: @escaping @Sendable (inout JobPlan, inout SeededGenerator) -> Void
  ) {
    self.name = name
    self.summary = summary
    self.faults = faults
  }

  /// The run that a seed stands for, with that many devices (2 at least) or as many as the seed says.
  package func plan(seed: UInt64, devices: Int? = nil) -> JobPlan {
    var dice = SeededGenerator(seed: seed, 0x6A6F_62)
    let drawn = [2, 3, 3, 4, 4, 5, 6][dice.uniform(below: 7)]
    let count = min(max(devices ?? drawn, 2), JobPlan.deviceLimit)
    var plan = Self.quietPlan(name, seed: seed, devices: count, &dice)
    let quiet = plan.steps
    faults(&plan, &dice)
    let lastFault = plan.steps.map(\.time).max() ?? .zero
    if plan.steps != quiet {
      let settled = Double(lastFault.nanoseconds) * 1e-9 + 0.2
      plan.steps.append(JobStep(settled, .settled))
      plan.duration = .seconds(settled + 120 + 4 * plan.quietSeconds)
    } else {
      plan.duration = .seconds(60 + 2 * plan.quietSeconds)
    }
    plan.steps.sort { $0.time < $1.time }
    return plan
  }

  /// All scenarios, in the order in which they are shown.
  package static let all: [JobScenario] = [
    JobScenario("job-quiet", "a whole job, and nothing happens to it") { _, _ in },
    JobScenario("job-crash", "devices of a job crash and come back, at any moment") { plan, dice in
      plan.add([.crash, .power, .persist, .freeze], &dice)
    },
    JobScenario("job-join", "devices join a job, leave it and come back") { plan, dice in
      plan.add([.join, .leave, .shutDown, .slow], &dice)
    },
    JobScenario("job-partition", "connections break, and the network splits") { plan, dice in
      plan.add([.partition, .oneWay, .reset, .loss, .doubt], &dice)
    },
    JobScenario(
      "job-late", "connections break in the midst of a run, and what they held comes in the next one"
    ) {
      plan, dice in
      plan.add([.tear, .tear, .tear, .reset], &dice)
    },
    JobScenario("job-leader", "the device that plans is struck at the worst moments") { plan, dice in
      plan.add([.leader, .leader, .leader, .persist], &dice)
    },
    JobScenario("job-power", "all devices lose power, also during writes") { plan, dice in
      plan.add([.allPower, .persist, .disk], &dice)
    },
    JobScenario(
      "job-failure", "something does not work on a device, again and again, and on the only one of a plan"
    ) {
      plan, dice in
      plan.add([.failure, .failure, .failure, .leave, .crash], &dice)
    },
    JobScenario("job", "a whole job with everything at once, as the seed decides") { plan, dice in
      plan.add(
        JobFaultKind.allCases.filter { $0 != .tear && $0 != .failure && dice.uniform(below: 3) == 0 }, &dice)
      // Last, so that the seeds that do without are the runs that they have always been.
      if dice.uniform(below: 3) == 0 { plan.add([.tear], &dice) }
      if dice.uniform(below: 3) == 0 { plan.add([.failure], &dice) }
    },
  ]

  /// The scenario with this name.
  package static func named(_ name: String) -> JobScenario? { all.first { $0.name == name } }

  /// A job and its household, switched on.
  private static func quietPlan(
    _ name: String, seed: UInt64, devices: Int, _ dice: inout SeededGenerator
  ) -> JobPlan {
    let lanes = [2, 3, 4, 4, 6][dice.uniform(below: 5)]
    let job = StandInJob(
      seed: seed, lanes: lanes, stepsPerEpoch: 4 + dice.uniform(below: 8), epochs: 1 + dice.uniform(below: 3),
      layers: 2 + dice.uniform(below: 4), width: 1 + dice.uniform(below: 4), heldOut: dice.uniform(below: 4),
      usesCache: dice.uniform(below: 5) > 0)
    let seconds = 3 + Double(dice.uniform(below: 15))
    var plan = JobPlan(
      scenario: name, seed: seed, deviceCount: devices, roster: Array(0..<devices), job: job,
      unitSeconds: seconds / Double(job.totalSteps * ((lanes + devices - 1) / devices)),
      checkpointInterval: .milliseconds(500 + dice.uniform(below: 4_000)),
      suspicion: .milliseconds(4_000 + dice.uniform(below: 5_000)), duration: .zero)
    plan.owner = dice.uniform(below: devices)
    plan.quietSeconds = seconds + 10
    plan.steps = (0..<devices).map { JobStep($0 == plan.owner ? 0.3 : dice.seconds(0...0.25), .start($0)) }
    return plan
  }
}

extension JobSimulation {
  /// The job as its owner offers it.
  var specification: JobSpecification {
    let blob = BlobReference(digest: ContentDigest(of: [1]), byteCount: 1)
    return JobSpecification(
      id: JobID(plan.seed, 0x6A6F62), owner: devices[plan.owner].id, name: "stand-in",
      model: ContentDigest(of: [2]), modelFiles: blob, package: blob,
      roster: plan.roster.map { devices[$0].id },
      leader: devices[plan.roster[0]].id, epochs: plan.job.epochs)
  }
}

/// The kinds of faults that a run has or has not.
enum JobFaultKind: CaseIterable {
  case crash, power, allPower, persist, freeze, sleep, slow, oneWay, partition, reset, loss, doubt, leave,
    shutDown, disk, join, leader, adoption, tear, failure

  /// One fault of the kind and its end, between two times.
  func steps(_ plan: inout JobPlan, from: Double, _ dice: inout SeededGenerator) -> [JobStep] {
    let count = plan.deviceCount
    let device = dice.uniform(below: count)
    let other = (device + 1 + dice.uniform(below: count - 1)) % count
    let to = from + [0.3, 1, 3, 8, 20][dice.uniform(below: 5)] * (0.5 + dice.seconds(0...1))
    switch self {
    case .crash: return [JobStep(from, .kill(device)), JobStep(to, .start(device))]
    case .power: return [JobStep(from, .losePower(device)), JobStep(to, .start(device))]
    case .allPower:
      return (0..<count).flatMap {
        [
          JobStep(from + dice.seconds(0...0.2), .losePower($0)),
          JobStep(to + dice.seconds(0...4), .start($0)),
        ]
      }
    case .persist:
      return [
        JobStep(from, .killAtPersist(device, isWritten: dice.uniform(below: 2) == 0)),
        JobStep(to + 10, .start(device)),
      ]
    case .freeze:
      let length = [0.5, 1, 5, 5, 60][dice.uniform(below: 5)]
      return [JobStep(from, .stop(device)), JobStep(from + length, .proceed(device))]
    case .sleep: return [JobStep(from, .suspend(device)), JobStep(to + 5, .resume(device))]
    case .slow:
      return [
        JobStep(from, .slow(device, times: 2 + dice.uniform(below: 6))),
        JobStep(to + 5, .slow(device, times: 1)),
      ]
    case .oneWay:
      return [JobStep(from, .cut(from: device, to: other)), JobStep(to, .uncut(from: device, to: other))]
    case .partition:
      let groups = (0..<count).map { _ in dice.uniform(below: 2) }
      return [JobStep(from, .partition(groups)), JobStep(to, .partition(Array(repeating: 0, count: count)))]
    case .reset: return [JobStep(from, .reset(device, other))]
    case .failure: return [JobStep(from, .failRun(device))]
    case .tear:
      return [JobStep(from, .tear(StreamMoment.allCases[dice.uniform(below: StreamMoment.allCases.count)]))]
    case .loss: return [JobStep(from, .conditions(dice.jobConditions()))]
    case .doubt:
      let length = 200 + dice.uniform(below: 6_000)
      return [JobStep(from, .suspect(by: device, of: other, milliseconds: length))]
    case .leave: return [JobStep(from, .leave(device)), JobStep(to + 2, .rejoin(device))]
    case .shutDown: return [JobStep(from, .shutDown(device)), JobStep(to + 6, .start(device))]
    case .disk: return [JobStep(from, .fillDisk(device)), JobStep(to, .freeDisk(device))]
    case .join: return join(&plan, device, at: from)
    case .leader:
      let moments = LeaderMoment.allCases
      return [
        JobStep(
          from,
          .killLeader(
            moments[dice.uniform(below: moments.count)], milliseconds: 300 + dice.uniform(below: 12_000)))
      ]
    case .adoption: return [JobStep(to + 12, .adopt(dice.uniform(below: 2)))]
    }
  }

  /// A device that is not there at first and is not of the roster.
  private func join(_ plan: inout JobPlan, _ device: Int, at time: Double) -> [JobStep] {
    guard device != plan.owner, plan.roster.count > 1, plan.roster.contains(device) else { return [] }
    plan.roster.removeAll { $0 == device }
    // Its first start; those after crashes come later in the list.
    if let first = plan.steps.firstIndex(where: { $0.fault == .start(device) }) {
      plan.steps.remove(at: first)
    }
    return [JobStep(time, .start(device))]
  }
}

extension JobPlan {
  /// Adds faults of these kinds while the job runs.
  mutating func add(_ kinds: [JobFaultKind], _ dice: inout SeededGenerator) {
    for kind in kinds {
      for _ in 0...dice.uniform(below: 2) {
        let from = dice.seconds(0.4...max(1, quietSeconds * 1.2))
        steps += kind.steps(&self, from: from, &dice)
      }
    }
  }
}

extension SeededGenerator {
  /// A home network between good and bad.
  mutating func jobConditions() -> JobNetworkConditions {
    var conditions = JobNetworkConditions()
    conditions.lossPerMillion = uniform(below: 250_000)
    conditions.duplicationPerMillion = uniform(below: 100_000)
    conditions.reorderPerMillion = uniform(below: 300_000)
    conditions.minimumDelay = .microseconds(200 + uniform(below: 10_000))
    conditions.meanExtraDelay = .microseconds(uniform(below: 30_000))
    if uniform(below: 3) == 0 { conditions.bytesPerSecond = 100_000 + uniform(below: 1_000_000) }
    return conditions
  }
}
