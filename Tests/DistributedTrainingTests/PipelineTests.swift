import DistributedTraining
import FineTuning
import LanguageModels
import ParallelPlanner
import Synchronization
import Testing

@Suite("A distributed run of several stages")
struct PipelineTests {
  /// Plans of the first phase for four lanes, with their devices: the paper's groupings in small.
  static let plans:
    [(name: String, devices: Int, microBatches: Int, layers: [Range<Int>], stages: [[(Int, Int)]])] =
      [
        ("[1-1]", 2, 4, [0..<2, 2..<5], [[(0, 1)], [(1, 1)]]),
        ("[1-1] of two units", 2, 2, [0..<3, 3..<5], [[(1, 2)], [(0, 2)]]),
        ("[2-1]", 3, 2, [0..<2, 2..<5], [[(0, 1), (2, 1)], [(1, 2)]]),
        ("[1-2]", 3, 2, [0..<4, 4..<5], [[(0, 2)], [(1, 1), (2, 1)]]),
        ("[2-2-1]", 5, 1, [0..<1, 1..<4, 4..<5], [[(0, 3), (1, 1)], [(2, 1), (3, 3)], [(4, 4)]]),
        ("[1-1-1-1-1]", 5, 4, [0..<1, 1..<2, 2..<3, 3..<4, 4..<5], (0..<5).map { [($0, 1)] }),
        (
          "[3-3-2]", 8, 1, [0..<2, 2..<3, 3..<5],
          [[(0, 2), (1, 1), (2, 1)], [(3, 1), (4, 1), (5, 2)], [(6, 2), (7, 2)]]
        ),
        ("a member without units", 3, 2, [0..<2, 2..<5], [[(0, 2), (1, 0)], [(2, 2)]]),
      ]

  static let jobs: [TinyJob] = [
    .parallel(), .parallel("tiny-t5", .languageModel), .parallel("tiny-bart", .value),
  ]

  @Test(
    "What the taps' averages sum to goes through the stages, and its gradient back: the bits of one device")
  func pooledTaps() throws {
    let job = TinyJob.pooled
    let reference = try job.reference()
    let plans: [(devices: Int, layers: [Range<Int>], stages: [[(Int, Int)]])] = [
      (2, [0..<1, 1..<3], [[(1, 2)], [(0, 2)]]), (3, [0..<2, 2..<3], [[(0, 1), (2, 1)], [(1, 2)]]),
      (3, [0..<1, 1..<2, 2..<3], (0..<3).map { [($0, 2)] }),
    ]
    for plan in plans {
      for (mode, shares) in [(PlanMode.hybrid, [(0, 3), (1, 1)]), (.fill, [(1, 4)])] {
        let outcomes = try job.run(
          .test(mode, microBatches: 2, layers: plan.layers, stages: plan.stages, cached: shares),
          devices: plan.devices)
        expectSame(outcomes, reference, complete: shares.map(\.0), "\(plan.layers) \(mode)")
      }
    }
  }

  @Test(
    "PAC §5.1: a hybrid pipeline that fills, then cached epochs, give the bits of one device, and so does fill",
    arguments: jobs, [PlanMode.hybrid, .fill])
  func cached(job: TinyJob, mode: PlanMode) throws {
    let reference = try job.reference()
    for plan in Self.plans {
      let shares = plan.devices >= 4 ? [(0, 1), (1, 1), (3, 2)] : [(0, 3), (1, 1)]
      let outcomes = try job.run(
        .test(
          mode, microBatches: plan.microBatches, layers: plan.layers, stages: plan.stages, cached: shares),
        devices: plan.devices)
      expectSame(outcomes, reference, complete: shares.map(\.0), "\(plan.name) \(mode)")
    }
  }

  @Test(
    "a first stage that waits runs the frozen layers of the next mini-batch, and the adapter is that of one device",
    arguments: jobs, [PlanMode.hybrid, .live])
  func ahead(job: TinyJob, mode: PlanMode) throws {
    let reference = try job.reference()
    for plan in Self.plans {
      var counted = job
      let count = AheadCount()
      counted.aheadCount = count
      let cached = mode == .live ? [] : [(0, 4)]
      let outcomes = try counted.run(
        .test(
          mode, microBatches: plan.microBatches, layers: plan.layers, stages: plan.stages, cached: cached),
        devices: plan.devices, channels: InMemoryJobChannels(devices: plan.devices, isLate: true),
        collector: 0)
      expectSame(outcomes, reference, complete: [0], "\(plan.name) \(mode)")
      // Every gradient is late, so every place is used in every step but the last of an epoch.
      let (prepared, used) = (count.prepared.load(ordering: .relaxed), count.used.load(ordering: .relaxed))
      #expect(prepared > 0 && used == prepared, "\(plan.name) \(mode)")
    }
  }

  static let tuned: [TinyJob] = [
    .tuned(.full(FullConfiguration(dropout: 0.1)), "tiny-t5", .languageModel),
    .tuned(.full(FullConfiguration(dropout: 0)), "tiny-bart", .classes(3)),
    .tuned(
      .lora(LoRAConfiguration(rank: 4, alpha: 4, targets: [.query, .value], dropout: 0.1)), "tiny-bart",
      .languageModel),
    .tuned(.houlsby(HoulsbyConfiguration(reduction: 8, dropout: 0.1)), "tiny-t5", .value),
  ]

  @Test(
    "Eco-FL: every epoch through the pipeline gives the bits of one device", arguments: jobs + tuned)
  func live(job: TinyJob) throws {
    let reference = try job.reference()
    for plan in Self.plans {
      for collector in [0, plan.devices - 1] {
        let outcomes = try job.run(
          .test(.live, microBatches: plan.microBatches, layers: plan.layers, stages: plan.stages),
          devices: plan.devices, collector: collector)
        expectSame(outcomes, reference, complete: [collector], "\(plan.name), collector \(collector)")
        for place in 0..<plan.devices where place != collector {
          #expect(outcomes[place].result?.isComplete == false)
        }
      }
    }
  }

  @Test("two workers a device, lanes that run out and micro-batches of odd sizes change no bit")
  func odd() throws {
    var job = TinyJob.parallel()
    job.workers = 2
    job.samples = 19
    job.lanes = 6
    job.perUnit = 1
    job.held = 5
    let reference = try job.reference()
    let outcomes = try job.run(
      .test(
        .hybrid, microBatches: 2, layers: [0..<2, 2..<5], stages: [[(0, 3)], [(1, 2), (2, 1)]],
        cached: [(1, 4), (2, 2)]), devices: 3)
    expectSame(outcomes, reference, complete: [1, 2], "six lanes")
  }

  /// A link here holds a few messages: some more than a pipeline's depth of boundaries, far less than an epoch's taps.
  @Test("full queues make senders wait and nobody waits in a circle", arguments: [PlanMode.hybrid, .fill])
  func pressure(mode: PlanMode) throws {
    let job = TinyJob.parallel()
    let reference = try job.reference()
    for plan in Self.plans {
      let shares = plan.devices >= 4 ? [(3, 1), (1, 1), (0, 2)] : [(1, 3), (0, 1)]
      let outcomes = try job.run(
        .test(
          mode, microBatches: plan.microBatches, layers: plan.layers, stages: plan.stages, cached: shares),
        devices: plan.devices,
        channels: InMemoryJobChannels(devices: plan.devices, linkLimit: 48 << 10))
      expectSame(outcomes, reference, complete: shares.map(\.0), "\(plan.name) \(mode)")
    }
  }

  @Test("a device lost in the middle of a pipeline ends all threads of all devices")
  func lost() throws {
    let job = TinyJob.parallel()
    for kind in [JobMessageKind.forward, .backward, .taps, .share, .parameters] {
      let channels = InMemoryJobChannels(devices: 3) { _, _, tag, _ in
        tag.kind == kind ? .abort("device 1 was lost") : nil
      }
      let outcomes = try job.run(
        .test(
          .hybrid, microBatches: 2, layers: [0..<2, 2..<5], stages: [[(0, 1), (2, 1)], [(1, 2)]],
          cached: [(0, 2), (2, 2)]), devices: 3, channels: channels)
      let failures = outcomes.compactMap { $0.failure as? DistributedRunFailure }
      #expect(!failures.isEmpty, "\(kind)")
      for failure in failures {
        #expect("\(failure)".contains("device 1 was lost"), "\(kind): \(failure)")
      }
    }
  }
}
