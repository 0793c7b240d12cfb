import CryptoPrimitives
import Determinism
import ParallelPlanner
import PipelineSchedules
import Testing
import TrainingCoordination
import WireCoding

@Suite struct PlanCodingTests {
  /// Two stages of which the first has two devices, and one device for the cached epochs.
  private let plan = Plan(
    mode: .fill, microBatches: 4,
    stages: [
      PlanStage(
        layers: 0..<3,
        members: [
          StageMember(device: 0, units: 1, memoryBytes: 0x11),
          StageMember(device: 2, units: 2, memoryBytes: 0x12),
        ], times: StageTimes(forward: 1, backward: 2, reduction: 3)),
      PlanStage(
        layers: 3..<300, members: [StageMember(device: 1, units: 3, memoryBytes: 0x13)],
        times: StageTimes(forward: 4, backward: 5, reduction: 6)),
    ], boundaries: [BoundaryTimes(forward: 7, backward: 8)],
    cached: [CachedMember(device: 1, units: 12, memoryBytes: 0x14, cacheBytes: 0x15)],
    predicted: PredictedTimes(
      step: 9, firstEpoch: 10, redistribution: 11, cachedStep: 12, cachedEpoch: 13, total: 14))

  private func wide(_ value: UInt8) -> [UInt8] { [value, 0, 0, 0, 0, 0, 0, 0] }

  @Test(
    "The neighbours of a participant are those before and after it in the plan, the last beside the first")
  func neighbours() {
    for count in 1...5 {
      let devices = Array(JobFixture.ids.prefix(count))
      let proposal = JobFixture.proposal(devices)
      for (place, device) in devices.enumerated() {
        let expected: Set = [devices[(place + 1) % count], devices[(place + count - 1) % count]]
        #expect(Set(proposal.neighbours(of: device)) == expected.subtracting([device]))
      }
      #expect(proposal.neighbours(of: JobFixture.ids[count]).isEmpty)
    }
  }

  @Test("A plan is mode, micro-batches, stages by their ends, boundaries, cached members and six times")
  func layout() {
    let expected: [[UInt8]] = [
      [3, 4, 0, 2, 0],
      [3, 0, 2, 0], [0, 1, 0] + wide(0x11), [2, 2, 0] + wide(0x12), wide(1), wide(2), wide(3),
      [0x2C, 1, 1, 0], [1, 3, 0] + wide(0x13), wide(4), wide(5), wide(6),
      wide(7), wide(8),
      [1, 0], [1, 12, 0] + wide(0x14) + wide(0x15),
      (9...14).flatMap { wide($0) },
    ]
    #expect(plan.encoded == expected.flatMap { $0 })
  }

  @Test("A decoded plan is the plan, with the same digest")
  func roundTrip() throws {
    let decoded = try Plan(decoding: plan.encoded)
    #expect(decoded == plan)
    #expect(decoded.digest == plan.digest)
    #expect(decoded.places == [0, 1, 2])
  }

  @Test("Plans that no planner makes are refused by the field that is wrong")
  func refusals() {
    func refused(_ change: (inout Plan) -> Void, _ failure: DecodingFailure) {
      var changed = plan
      change(&changed)
      #expect(throws: failure) { _ = try Plan(decoding: changed.encoded) }
    }
    refused({ $0.microBatches = 0 }, .overLimit(field: "micro-batches", value: 0, limit: 1024))
    refused({ $0.stages[1].layers = 3..<3 }, .invalid(field: "last layer of a stage", value: 3))
    refused({ $0.stages[1].layers = 3..<513 }, .invalid(field: "last layer of a stage", value: 513))
    refused({ $0.stages[1].members[0].device = 2 }, .invalid(field: "device in two stages", value: 2))
    refused({ $0.stages[0].members[1].device = 0 }, .notAscending(field: "devices of a plan"))
    refused(
      { $0.stages[1].members[0].device = 64 },
      .overLimit(field: "device of a plan", value: 64, limit: 63))
    refused({ $0.stages[1].members[0].units = 4 }, .invalid(field: "units of a stage", value: 4))
    refused({ $0.stages[0].members[0].memoryBytes = -1 }, .invalid(field: "memory", value: .max))
    refused({ $0.predicted.total = -1 }, .invalid(field: "total", value: .max))
    refused({ $0.mode = .live }, .invalid(field: "members of the cached epochs", value: 1))
    refused({ $0.cached = [] }, .invalid(field: "members of the cached epochs", value: 0))
    refused(
      { plan in
        plan.stages = []
        plan.boundaries = []
      }, .invalid(field: "stages", value: 0))
    #expect(throws: DecodingFailure.invalid(field: "plan mode", value: 4)) {
      _ = try Plan(decoding: [4] + plan.encoded.dropFirst())
    }
    #expect(throws: DecodingFailure.trailingBytes(count: 1)) { _ = try Plan(decoding: plan.encoded + [0]) }
    for count in plan.encoded.indices {
      #expect(throws: DecodingFailure.self) { _ = try Plan(decoding: plan.encoded.prefix(count)) }
    }
  }

  @Test("The largest plan fits into a message beside 64 devices and 64 votes")
  func largest() throws {
    let stages = (0..<64).map { index in
      PlanStage(
        layers: index * 8..<index * 8 + 8,
        members: [StageMember(device: index, units: 1024, memoryBytes: 1_000_000_000_000_000)],
        times: StageTimes(forward: .max, backward: .max, reduction: .max))
    }
    let plan = Plan(
      mode: .hybrid, microBatches: 1024, stages: stages,
      boundaries: Array(repeating: BoundaryTimes(forward: .max, backward: .max), count: 63),
      cached: (0..<64).map {
        CachedMember(device: $0, units: 1024, memoryBytes: 1 << 40, cacheBytes: 1 << 40)
      },
      predicted: PredictedTimes(
        step: .max, firstEpoch: .max, redistribution: .max, cachedStep: .max, cachedEpoch: .max, total: .max))
    #expect(try Plan(decoding: plan.encoded) == plan)
    // A next plan, 2 * 64 devices of 16 bytes and 64 votes of 80 beside it.
    #expect(2 * plan.encoded.count + 2 * 64 * 16 + 64 * 80 + 200 < JobLimits.messageBytes)
  }

  @Test("Without idle devices a plan names the others by their new places, in the same order")
  func idleDevices() {
    var spread = plan
    spread.stages[0].members[0].device = 1
    spread.stages[0].members[1].device = 4
    spread.stages[1].members[0].device = 3
    spread.cached[0].device = 3
    let (household, compact) = spread.withoutIdleDevices(of: Array(JobFixture.ids[0..<6]))
    #expect(household == [1, 3, 4].map { JobFixture.ids[$0] })
    #expect(compact.stages.map { $0.members.map(\.device) } == [[0, 2], [1]])
    #expect(compact.cached.map(\.device) == [1])
    #expect(compact.places == [0, 1, 2] && compact.fits(devices: 3) && !compact.fits(devices: 2))
    #expect(compact == plan)
  }

  @Test("Bytes with random changes are a plan that encodes to them, or refused")
  func fuzz() {
    var generator = SeededGenerator(seed: 7)
    let original = plan.encoded
    var plans = 0
    for _ in 0..<50_000 {
      var bytes = original
      for _ in 0...generator.uniform(below: 3) {
        bytes[generator.uniform(below: bytes.count)] = UInt8(truncatingIfNeeded: generator.next())
      }
      if generator.uniform(below: 4) == 0 { bytes.removeLast(generator.uniform(below: bytes.count)) }
      guard let decoded = try? Plan(decoding: bytes) else { continue }
      plans += 1
      #expect(decoded.encoded == bytes)
    }
    #expect(plans > 1_000)
  }
}
