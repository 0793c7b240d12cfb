import DistributedTraining
import FineTuning
import LanguageModels
import NeuralNetworks
import ParallelPlanner
import Testing

@Suite("A distributed run of one stage")
struct DataParallelTests {
  /// `lanes` lanes divided among `devices` devices, the first ones one more.
  private func shares(_ lanes: Int, _ devices: Int) -> [(Int, Int)] {
    (0..<devices).map { ($0, lanes / devices + ($0 < lanes % devices ? 1 : 0)) }
  }

  static let tuned: [TinyJob] = [
    .tuned(.full(FullConfiguration(dropout: 0.1)), "tiny-t5", .languageModel),
    .tuned(
      .lora(LoRAConfiguration(rank: 4, alpha: 4, targets: [.query, .value], dropout: 0.1)), "tiny-bart",
      .classes(3)),
    .tuned(.houlsby(HoulsbyConfiguration(reduction: 8, dropout: 0)), "tiny-bert", .value),
    .parallel("tiny-t5", .languageModel),
  ]

  @Test("EDDL: live epochs on 1, 2, 3, 5 and 8 devices give the bits of one device", arguments: tuned)
  func live(job: TinyJob) throws {
    var job = job
    job.lanes = 8
    job.samples = 37
    let reference = try job.reference()
    for devices in [1, 2, 3, 5, 8] {
      let outcomes = try job.run(.test(.live, stages: [shares(8, devices)]), devices: devices)
      expectSame(outcomes, reference, complete: Array(0..<devices), "\(devices) devices")
    }
  }

  @Test(
    "PAC §5: a first epoch that fills, then cached epochs round a ring, give the bits of one device",
    arguments: [
      TinyJob.parallel(), .parallel("tiny-t5", .languageModel), .parallel("tiny-bert", .value),
      .parallel("tiny-bart", .classes(2)), .pooled,
    ], [PlanMode.hybrid, .fill])
  func cached(job: TinyJob, mode: PlanMode) throws {
    var job = job
    job.lanes = 8
    job.samples = 37
    job.epochs = 3
    let reference = try job.reference()
    for devices in [1, 2, 3, 5, 8] {
      let outcomes = try job.run(
        .test(mode, stages: [shares(8, devices)], cached: shares(8, devices)), devices: devices)
      expectSame(outcomes, reference, complete: Array(0..<devices), "\(devices) devices")
    }
  }

  @Test(
    "activations, parameters and moments go to whoever trains on: other shares, one device, a device that only trains",
    arguments: [PlanMode.hybrid, .fill])
  func moves(mode: PlanMode) throws {
    let job = TinyJob.parallel()
    let reference = try job.reference()
    let uneven = try job.run(
      .test(mode, stages: [[(0, 1), (1, 3)]], cached: [(0, 3), (1, 1)]), devices: 2)
    expectSame(uneven, reference, complete: [0, 1], "other shares")
    let alone = try job.run(
      .test(mode, stages: [[(0, 2), (1, 1), (2, 1)]], cached: [(1, 4)]), devices: 3)
    expectSame(alone, reference, complete: [1], "one device trains on")
    #expect(alone[0].result?.isComplete == false)
    #expect(alone[2].result?.isComplete == false)
    let late = try job.run(
      .test(mode, microBatches: 2, stages: [[(0, 1), (1, 1)]], cached: [(1, 1), (2, 2), (3, 1)]), devices: 4)
    expectSame(late, reference, complete: [1, 2, 3], "devices that only train on")
  }

  @Test("lanes that run out, more devices than held-out units, and none at all")
  func odd() throws {
    var job = TinyJob.parallel()
    job.samples = 9
    job.lanes = 4
    job.perUnit = 1
    job.held = 1
    var reference = try job.reference()
    var outcomes = try job.run(
      .test(.hybrid, stages: [shares(4, 4)], cached: shares(4, 4)), devices: 4)
    expectSame(outcomes, reference, complete: [0, 1, 2, 3], "one held-out sample")
    job.held = 0
    reference = try job.reference()
    outcomes = try job.run(.test(.fill, stages: [shares(4, 3)], cached: shares(4, 4)), devices: 4)
    for place in 0..<4 {
      let result = try #require(outcomes[place].result)
      #expect(TinyJob.bits(result.parameters) == reference.vector)
      #expect(result.before == nil && result.after == nil)
    }
    // Two samples make two lanes; the plan was made for four.
    job.samples = 2
    reference = try job.reference()
    outcomes = try job.run(.test(.hybrid, stages: [shares(4, 4)], cached: shares(4, 4)), devices: 4)
    for place in 0..<4 {
      #expect(TinyJob.bits(try #require(outcomes[place].result).parameters) == reference.vector)
    }
  }

  @Test("events tell the phases in order, every step, what moved and what was released")
  func events() throws {
    let job = TinyJob.parallel()
    let outcomes = try job.run(
      .test(.hybrid, stages: [[(0, 2), (1, 2)]], cached: [(0, 1), (1, 3)]), devices: 2)
    let phases = outcomes[0].events.compactMap { event -> DistributedPhase? in
      if case .phase(let phase) = event { phase } else { nil }
    }
    #expect(phases == [.evaluation, .live, .transition, .evaluation, .cached, .evaluation])
    let steps = outcomes[0].events.compactMap { event -> [Int]? in
      if case .progress(let progress) = event, progress.phase == .cached {
        [progress.epoch, progress.step, progress.steps]
      } else {
        nil
      }
    }
    #expect(steps == [[2, 1, 3], [2, 2, 3], [2, 3, 3]])
    let result = try #require(outcomes[0].result)
    #expect(result.epochs.map(\.phase) == [.live, .cached])
    #expect(result.epochs[1].traffic[1].sent > 0 && result.epochs[1].traffic[1].received > 0)
    #expect(result.epochs[1].times.ring > 0)
    // Each of two devices sends the whole vector once a step; 64-bit sums take fewer bytes on their way.
    let whole = 3 * 8 * TinyJob.bits(result.parameters).count
    #expect(result.epochs[1].traffic[1].sent < UInt64(whole * 3 / 4))
    // What the next plan counts sums with are the ring's own bytes.
    let sums = result.epochs[1].sums
    #expect(
      sums.sums == UInt64(3 * result.parameters.vectorCount)
        && sums.bytes <= result.epochs[1].traffic[1].sent)
    #expect(try #require(sums.bitsOfSum) < 48)
    let transition = try #require(outcomes[1].result?.transition)
    // Three of four lanes and the held-out units beside them; the device had computed two lanes.
    #expect(transition.cachedSamples >= 17)
    #expect(result.digest == outcomes[1].result?.digest)
  }

  // MARK: Failures

  @Test("a device whose parameters differ in one bit is named at once, and everybody stops")
  func difference() throws {
    let job = TinyJob.parallel()
    // The second device gets a wrong sum: its parameters differ after the step.
    let channels = InMemoryJobChannels(devices: 2) { from, to, tag, message in
      if tag.kind == .allGather, tag.step == 1, to == 1, let count = PackedIntegers.count(message), count > 0
      {
        // Behind the number of sums and the widths of their blocks: bit 24 of the first.
        message[4 + (count + 255) / 256 + 3] ^= 1
      }
      return nil
    }
    let outcomes = try job.run(.test(.live, stages: [[(0, 2), (1, 2)]]), devices: 2, channels: channels)
    #expect(outcomes.allSatisfy { $0.result == nil })
    let failures = outcomes.compactMap { $0.failure as? DistributedRunFailure }
    #expect(
      failures.contains { if case .replicasDiffer(_, let step) = $0 { step == 2 } else { false } },
      "\(failures)")
  }

  @Test("a channel that gives up ends every device with what it was doing")
  func aborted() throws {
    let job = TinyJob.parallel()
    let channels = InMemoryJobChannels(devices: 3) { _, _, tag, _ in
      tag.kind == .reduceScatter && tag.step == 3 ? .abort("device 2 was switched off") : nil
    }
    let outcomes = try job.run(
      .test(.hybrid, stages: [[(0, 2), (1, 1), (2, 1)]], cached: [(0, 4)]), devices: 3, channels: channels)
    for outcome in outcomes {
      guard case .channel(.aborted(let reason), _) = outcome.failure as? DistributedRunFailure else {
        Issue.record("\(String(describing: outcome.failure))")
        continue
      }
      #expect(reason == "device 2 was switched off")
    }
  }

  @Test("a cancelled device ends the others too")
  func cancelled() throws {
    let job = TinyJob.parallel()
    let outcomes = try job.run(
      .test(.live, stages: [[(0, 2), (1, 2)]]), devices: 2, cancelled: { $0 == 1 })
    #expect(outcomes[1].failure as? DistributedRunFailure == .cancelled(step: 0))
    guard case .channel(.aborted, _) = outcomes[0].failure as? DistributedRunFailure else {
      Issue.record("\(String(describing: outcomes[0].failure))")
      return
    }
  }

  @Test("a share that names a micro-batch that does not exist is refused")
  func malformed() throws {
    let job = TinyJob.parallel()
    let channels = InMemoryJobChannels(devices: 2) { from, _, tag, message in
      if tag.kind == .share, tag.part == 0, from == 1 { message[8] = 200 }
      return nil
    }
    let outcomes = try job.run(.test(.live, stages: [[(0, 2), (1, 2)]]), devices: 2, channels: channels)
    guard case .malformed(1, _, _) = outcomes[0].failure as? DistributedRunFailure else {
      Issue.record("\(String(describing: outcomes[0].failure))")
      return
    }
  }

  @Test("a plan that leaves lanes without an owner, or a device twice, is refused")
  func unfit() throws {
    let job = TinyJob.parallel()
    for plan in [
      Plan.test(.hybrid, stages: [[(0, 4)]], cached: [(0, 3)]),
      Plan.test(.live, stages: [[(0, 3)]]),
      Plan.test(.live, layers: [0..<2, 2..<5], stages: [[(0, 4)], [(0, 4)]]),
    ] {
      let outcomes = try job.run(plan, devices: 1)
      guard case .unfitPlan = outcomes[0].failure as? DistributedRunFailure else {
        Issue.record("\(String(describing: outcomes[0].failure))")
        continue
      }
    }
  }
}
