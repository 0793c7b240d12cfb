import DistributedTraining
import FineTuning
import LanguageModels
import NeuralNetworks
import ParallelPlanner
import Synchronization
import Testing

@Suite("Gradients in half precision")
struct GradientPrecisionTests {
  @Test(
    "live and cached epochs on 1, 2, 3 and 5 devices give the bits of one device",
    arguments: [TinyJob.parallel(), .parallel("tiny-bert", .value), .parallel("tiny-bart", .languageModel)],
    [PlanMode.hybrid, .fill])
  func wholeUnits(job: TinyJob, mode: PlanMode) throws {
    var job = job.inHalfPrecision
    (job.lanes, job.samples) = (8, 37)
    let reference = try job.reference()
    for devices in [1, 2, 3, 5] {
      let shares = (0..<devices).map { ($0, 8 / devices + ($0 < 8 % devices ? 1 : 0)) }
      let outcomes = try job.run(.test(mode, stages: [shares], cached: shares), devices: devices)
      expectSame(outcomes, reference, complete: Array(0..<devices), "\(devices) devices")
    }
  }

  @Test(
    "stages of a pipeline give the bits of one device, with taps and with a tuned backbone",
    arguments: [
      TinyJob.parallel(),
      .tuned(
        .lora(LoRAConfiguration(rank: 4, alpha: 4, targets: [.query, .value], dropout: 0.1)), "tiny-t5",
        .classes(3)),
      .tuned(.houlsby(HoulsbyConfiguration(reduction: 8, dropout: 0)), "tiny-t5", .languageModel),
    ])
  func stages(job: TinyJob) throws {
    let job = job.inHalfPrecision
    let reference = try job.reference()
    let plan = Plan.test(
      job.isParallel ? .hybrid : .live, microBatches: 2, layers: [0..<2, 2..<5],
      stages: [[(0, 1), (1, 1)], [(2, 2)]], cached: job.isParallel ? [(0, 1), (1, 2), (2, 1)] : [])
    let outcomes = try job.run(plan, devices: 3, collector: 0)
    expectSame(outcomes, reference, complete: [0], "two stages")
  }

  @Test("the parameters are others than in full precision, and close to them")
  func closeness() throws {
    let job = TinyJob.parallel()
    let full = try job.reference()
    let half = try job.inHalfPrecision.reference()
    #expect(full.vector != half.vector)
    for (one, other) in zip(full.losses, half.losses) { #expect(abs(one - other) < 1e-3 * abs(one)) }
  }

  /// Bytes of each message of the ring of a run on two devices, by its tag and sender.
  private func messages(_ job: TinyJob) throws -> [String: Int] {
    let sizes = Mutex<[String: Int]>([:])
    let channels = InMemoryJobChannels(devices: 2) { from, _, tag, message in
      let count = message.count
      if tag.kind == .reduceScatter || tag.kind == .allGather {
        sizes.withLock { $0["\(from) \(tag)"] = count }
      }
      return nil
    }
    let shares = [(0, 2), (1, 2)]
    let outcomes = try job.run(
      .test(.hybrid, stages: [shares], cached: shares), devices: 2, channels: channels)
    #expect(outcomes.allSatisfy { $0.failure == nil })
    return sizes.withLock { $0 }
  }

  @Test("messages of the ring carry about half the bytes")
  func bytes() throws {
    let job = TinyJob.parallel()
    let full = try messages(job)
    let half = try messages(job.inHalfPrecision)
    #expect(Set(full.keys) == Set(half.keys) && !full.isEmpty)
    for (tag, count) in half {
      let whole = try #require(full[tag])
      // Ten binary digits fewer are over three tenths of sums of up to 33 digits.
      #expect((count - 1) * 10 <= (whole - 1) * 7, "\(tag): \(count) of \(whole) bytes")
    }
    let all = (full: full.values.reduce(0, +), half: half.values.reduce(0, +))
    #expect(all.half * 100 <= all.full * 60, "\(all.half) of \(all.full) bytes")
  }
}
