import DistributedTraining
import FineTuning
import Foundation
import HearthNode
import LanguageModels
import NeuralNetworks
import ParallelPlanner
import TensorKernels
import Testing

@Suite struct JobPlanningTests {
  /// A T5 so small that its measurement takes no time that anybody notices.
  private static let tiny = """
    {"model_type": "t5", "d_model": 64, "d_ff": 128, "d_kv": 16, "num_layers": 3, "num_decoder_layers": 2,
     "num_heads": 4, "vocab_size": 96, "id2label": {"0": "no", "1": "yes"}, "task_specific_params": null}
    """

  private func shape(
    _ text: String = JobPlanningTests.tiny, technique: TechniqueConfiguration? = nil
  ) throws -> JobShape {
    try JobShape(
      configurationText: text,
      technique: technique
        ?? .parallel(ParallelAdapterConfiguration(preset: .default, reduction: 4, layersPerStack: 2)),
      head: .classes(2), element: .float16, samplesPerUnit: 2, encoderLength: 12, decoderLength: 1)
  }

  private func settings(_ shape: JobShape, lanes: Int = 8) -> JobPlanningSettings {
    JobPlanningSettings(
      shape: shape, modelName: "tiny", longestEncoder: 20, longestDecoder: 1, epochs: 3, stepsPerEpoch: 5,
      lanes: lanes, samples: 80)
  }

  private func part(_ forward: Int64, _ backward: Int64) -> PartTimes {
    var part = PartTimes()
    part.forward = UnitDuration(alone: forward, together: forward)
    part.sideForward = UnitDuration(alone: forward / 10, together: forward / 10)
    part.sideBackward = UnitDuration(alone: backward, together: backward)
    return part
  }

  /// A device that is `slowness` times as slow as the first.
  private func report(_ name: String, slowness: Int64 = 1, memory: Int64 = 1 << 30) -> DeviceReport {
    let block = part(10_000_000 * slowness, 2_000_000 * slowness)
    return DeviceReport(
      name: name, shapeDigest: "", memoryBytes: memory, cacheBytes: 1 << 30,
      diskWriteBytesPerSecond: 100_000_000, diskReadBytesPerSecond: 100_000_000, productMegaflops: 1000,
      timings: PartTimings(
        threads: 1,
        stacks: [.encoder, .decoder].map {
          PartTimings.Stack(kind: $0, block: block, embedding: part(1000, 1000))
        }, head: part(1000, 1000), cacheWrite: .none, cacheRead: .none, updateOfMillion: 1_000_000))
  }

  private func links(_ devices: Int, rate: Double = 100e6) -> [MeasuredLink] {
    (1..<max(1, devices)).map { MeasuredLink(from: 0, to: $0, bytesPerSecond: rate, roundTripSeconds: 0.001) }
  }

  @Test("coarse gradients take two bytes a value in place of three, and make another shape to measure")
  func coarseGradients() throws {
    let full = try shape()
    var half = full
    half.gradientPrecision = .half
    let models = try [full, half].map { try PlanningModel($0) }
    #expect(models.map(\.costs.sumBits) == [24, 16])
    #expect(models[0].costs.layers == models[1].costs.layers)
    #expect(full.digest != half.digest)
    // Shapes that were measured before there was a choice keep their names.
    let text = String(decoding: try settings(full).encoded(), as: UTF8.self)
    #expect(!text.contains("gradientPrecision"))
    #expect(try JobPlanningSettings(decoding: settings(half).encoded()).shape == half)
  }

  @Test(
    "plans count sums with what the middle one of the devices' last jobs took, and with the usual where none says"
  )
  func learnedSums() throws {
    let full = try shape()
    let directory = FileManager.default.temporaryDirectory.appendingPathComponent("hearth-\(UUID())").path
    defer { try? FileManager.default.removeItem(atPath: directory) }
    let learned = LearnedSums(stateDirectory: directory)
    #expect(learned.bits(of: full) == nil)
    learned.keep(SumTraffic(), of: full)
    #expect(learned.bits(of: full) == nil, "a job without a ring says nothing")
    var traffic = SumTraffic()
    traffic.add(sums: 1000, bytes: 901)
    learned.keep(traffic, of: full)
    var other = full
    other.encoderLength += 1
    #expect(learned.bits(of: other) == 7, "other texts")
    other.gradientPrecision = .half
    #expect(learned.bits(of: other) == nil, "sums of other exponents")

    var reports = [report("a"), report("b"), report("c")]
    func bits() throws -> Int64 {
      try JobPlanning.planningModel(settings(full), reports: reports).costs.sumBits
    }
    #expect(try bits() == 24)
    reports[0].sumBits = 7
    #expect(try bits() == 7)
    (reports[1].sumBits, reports[2].sumBits) = (9, 30)
    #expect(try bits() == 9)
    #expect(try DeviceReport(decoding: reports[1].encoded()).sumBits == 9)
    reports[1].sumBits = 129
    let bytes = try reports[1].encoded()
    #expect(throws: JobPlanningFailure.self) { try DeviceReport(decoding: bytes) }
  }

  @Test("What the daemons of a household tell each other takes each of them some of its time")
  func talk() throws {
    var alone = report("a").timings
    #expect(alone.amongst(devices: 8) == alone)
    // A mebibyte in 12.5 ms: that of a ring of eight devices on a fifth of a processor each.
    alone.exchangeOfMebibyte = 12_500_000
    #expect(alone.amongst(devices: 1) == alone)
    let (two, eight) = (alone.amongst(devices: 2), alone.amongst(devices: 8))
    func longer(_ timings: PartTimings) -> Double {
      Double(timings.stacks[0].block.forward.alone) / Double(alone.stacks[0].block.forward.alone)
    }
    #expect(longer(two) > 1.012 && longer(two) < 1.015)
    #expect(longer(eight) > 1.025 && longer(eight) < 1.029)
    #expect(abs(Double(eight.updateOfMillion) / Double(alone.updateOfMillion) - longer(eight)) < 1e-6)
    #expect(eight.problem == nil)
    // However slow its messages are, half of its time is left.
    alone.exchangeOfMebibyte = 900_000_000
    #expect(longer(alone.amongst(devices: 64)) == 2)
  }

  @Test("What a mebibyte takes becomes a rate, and what was not measured takes no time")
  func rates() throws {
    var measured = report("desk")
    measured.timings.exchangeOfMebibyte = 1 << 20
    measured.timings.freshMebibyte = 1 << 19
    measured.timings.standstill = 6_400_000
    let work = try PlanningModel(try shape()).work
    let profile = measured.profile(work, units: 8, devices: 1)
    // A nanosecond and half of one for a byte.
    #expect(profile.exchangeBytesPerSecond == 1_000_000_000)
    #expect(profile.freshBytesPerSecond == 2_000_000_000)
    #expect(profile.mappedBytesPerSecond == PlanningLimits.bytes)
    #expect(profile.standstill == 6_400_000)
    measured.timings.mappedMebibyte = -1
    let bytes = try measured.encoded()
    #expect(throws: JobPlanningFailure.self) { try DeviceReport(decoding: bytes) }
  }

  @Test("Settings and reports survive their encoding; equal ones have equal bytes")
  func coding() throws {
    let settings = settings(try shape())
    let bytes = try settings.encoded()
    #expect(try JobPlanningSettings(decoding: bytes) == settings)
    #expect(try JobPlanningSettings(decoding: bytes).encoded() == bytes)
    let report = report("desk")
    #expect(try DeviceReport(decoding: report.encoded()) == report)
  }

  @Test("Damaged, oversized and impossible bytes are refused with what is wrong")
  func refusals() throws {
    #expect(throws: JobPlanningFailure.self) { try JobPlanningSettings(decoding: Array("{}".utf8)) }
    #expect(throws: JobPlanningFailure.self) {
      try JobPlanningSettings(decoding: Array(repeating: 32, count: JobPlanningSettings.maximumBytes + 1))
    }
    #expect(throws: JobPlanningFailure.self) {
      try DeviceReport(decoding: Array(repeating: 32, count: DeviceReport.maximumBytes + 1))
    }
    var broken = report("desk")
    broken.diskReadBytesPerSecond = 0
    let bytes = try broken.encoded()
    #expect(
      throws: JobPlanningFailure.report(
        device: "desk", detail: "its disk takes 100000000 and gives 0 bytes a second")
    ) { try DeviceReport(decoding: bytes) }
    var slow = report("desk")
    slow.timings.head.forward = UnitDuration(alone: 1 << 60, together: 1 << 60)
    let slowBytes = try slow.encoded()
    #expect(throws: JobPlanningFailure.self) { try DeviceReport(decoding: slowBytes) }
  }

  @Test("A configuration keeps what decides the shape: label names and order of keys make no difference")
  func configurations() throws {
    let other = """
      {"num_heads": 4, "vocab_size": 96, "d_model": 64, "d_ff": 128, "d_kv": 16, "num_layers": 3,
       "model_type": "t5", "num_decoder_layers": 2, "id2label": {"0": "other"}}
      """
    #expect(try shape().configuration == shape(other).configuration)
    let architecture = try shape().architecture()
    #expect(architecture.stacks.map(\.layers) == [3, 2])
    #expect(throws: JobPlanningFailure.self) { try shape("[]") }
    let smaller = try ConfigurationText(Self.tiny).with(encoderLayers: 1, decoderLayers: 4).configuration()
    #expect(smaller.architecture.stacks.map(\.layers) == [1, 4])
    #expect(smaller.architecture.width == 64)
  }

  @Test("A device measures the parts of a model once; the next report of the shape has the same times")
  func measuring() throws {
    let folder = FileManager.default.temporaryDirectory.appending(path: "hearth-\(UUID().uuidString)")
    defer { try? FileManager.default.removeItem(at: folder) }
    let settings = settings(try shape())
    let limits = DeviceLimits(threads: 1, memoryBytes: 64 << 20, cacheBytes: 1 << 20)
    let report = try JobPlanning.report(
      settings, name: "desk", limits: limits, stateDirectory: folder.path)
    #expect(report.timings.threads == 1)
    #expect(report.memoryBytes <= 64 << 20 && report.cacheBytes <= 1 << 20)
    #expect(report.timings.stacks.map(\.kind) == ["encoder", "decoder"])
    #expect(
      report.timings.stacks.allSatisfy { $0.block.forward.alone > 0 && $0.block.sideBackward.alone > 0 })
    #expect(report.timings.cacheWrite.alone > 0 && report.timings.cacheRead.alone > 0)
    #expect(report.timings.updateOfMillion > 0)
    // Each byte is encrypted, copied and added: no processor does that at 20 GB/s, nor clears memory at 200.
    #expect(report.timings.exchangeOfMebibyte ?? 0 > 50_000)
    #expect(report.timings.freshMebibyte ?? 0 > 5000 && report.timings.mappedMebibyte ?? 0 > 0)
    #expect(try report.encoded().count < DeviceReport.maximumBytes)
    let again = try JobPlanning.report(settings, name: "desk", limits: limits, stateDirectory: folder.path)
    #expect(again.timings == report.timings)
    // The probe's cache is gone; only the measurement stays.
    let left = try FileManager.default.contentsOfDirectory(atPath: folder.appending(path: "profiles").path)
    #expect(left == ["\(report.shapeDigest).json"])
  }

  @Test(
    "Techniques that run the backbone are measured backward, too", arguments: ["lora", "houlsby", "full"])
  func tuning(name: String) throws {
    let folder = FileManager.default.temporaryDirectory.appending(path: "hearth-\(UUID().uuidString)")
    defer { try? FileManager.default.removeItem(at: folder) }
    let technique: TechniqueConfiguration =
      switch name {
      case "lora": .lora(LoRAConfiguration(rank: 4))
      case "houlsby": .houlsby(HoulsbyConfiguration())
      default: .full(FullConfiguration())
      }
    let report = try JobPlanning.report(
      settings(try shape(technique: technique)), name: "desk", limits: DeviceLimits(threads: 1),
      stateDirectory: folder.path)
    #expect(report.timings.stacks[0].block.backward.alone > 0)
    #expect(report.timings.stacks[0].block.sideForward == .none && report.timings.cacheWrite == .none)
    var settings = settings(try shape(technique: technique))
    settings.usesCache = false
    let plan = try JobPlanning.plan(settings, reports: [report], links: []).plan
    #expect(plan.mode == .live && plan.stages.count == 1)
  }

  @Test("Equal inputs give the same plan; two equal devices are faster than one")
  func planning() throws {
    let settings = settings(try shape())
    let alone = try JobPlanning.plan(settings, reports: [report("a")], links: [])
    let pair = try JobPlanning.plan(settings, reports: [report("a"), report("b")], links: links(2))
    let again = try JobPlanning.plan(settings, reports: [report("a"), report("b")], links: links(2))
    #expect(pair.plan.digest == again.plan.digest)
    #expect(pair.plan.predicted.total < alone.plan.predicted.total)
    #expect(alone.plan.stages.flatMap(\.members).map(\.device) == [0])
    // 8 units in rounds of one on one device: 5 blocks of 10 + 1 + 2 ms, 4 parts that take 2.1 µs, and the update.
    let unit = 5 * 13_000_000 + 3 * 2100
    let trained = try settings.planningModel().costs.trainableBytes
    #expect(alone.plan.predicted.step == Int64(8 * unit) + trained / 4)
  }

  @Test("A device with more threads takes its units in rounds, the last of which may be partly idle")
  func rounds() {
    let duration = UnitDuration(alone: 70, together: 100)
    // Two threads: one alone, a full round, a round and one alone, two rounds, …
    #expect(duration.table(units: 5, threads: 2) == [70, 100, 170, 200, 270])
    #expect(duration.table(units: 5, threads: 4) == [70, 80, 90, 100, 170])
    #expect(duration.table(units: 3, threads: 1) == [100, 200, 300])
  }

  @Test("A job that fits nowhere says on which device how much is missing")
  func tooLittleMemory() throws {
    let settings = settings(try shape())
    do {
      _ = try JobPlanning.plan(settings, reports: [report("tablet", memory: 1000)], links: [])
      Issue.record("a plan was made for a device without memory")
    } catch {
      guard case .doesNotFit(let detail) = error else { throw error }
      #expect(detail.contains("tablet") && detail.contains("MB more"))
    }
  }

  @Test("What was measured one way holds both ways; what was not goes over the device that measured both")
  func linkTable() throws {
    let links = [
      MeasuredLink(from: 0, to: 1, bytesPerSecond: 8e6, roundTripSeconds: 0.002),
      MeasuredLink(from: 0, to: 2, bytesPerSecond: 2e6, roundTripSeconds: 0.006),
      MeasuredLink(from: 2, to: 0, bytesPerSecond: 3e6, roundTripSeconds: 0.010),
      MeasuredLink(from: 0, to: 3, bytesPerSecond: nil, roundTripSeconds: 0.001),
    ]
    let table = try JobPlanning.linkTable(links, devices: 4)
    func link(_ row: Int, _ column: Int) -> LinkProfile { table[row * 4 + column] }
    #expect(link(1, 0) == LinkProfile(bytesPerSecond: 8_000_000, latency: 1_000_000))
    #expect(link(0, 2) == LinkProfile(bytesPerSecond: 2_000_000, latency: 5_000_000))
    #expect(
      link(1, 2) == LinkProfile(bytesPerSecond: 2_000_000, latency: 6_000_000) && link(2, 1) == link(1, 2))
    #expect(link(3, 1) == JobPlanning.unknownLink && link(0, 3) == JobPlanning.unknownLink)
    #expect(throws: JobPlanningFailure.self) {
      try JobPlanning.linkTable(
        [MeasuredLink(from: 0, to: 4, bytesPerSecond: 1, roundTripSeconds: 1)], devices: 4)
    }
  }

  @Test("Equal devices count with what the middle of them measured; one that is twice as slow is believed")
  func alikeDevices() throws {
    let settings = settings(try shape())
    // Side blocks come from differences, and scatter more than the rest.
    func scattered(_ name: String, _ side: Int64, kind: String = "this processor") -> DeviceReport {
      var scattered = report(name)
      scattered.shapeDigest = kind
      for place in scattered.timings.stacks.indices {
        scattered.timings.stacks[place].block.sideBackward = UnitDuration(alone: side, together: side)
      }
      scattered.timings.exchangeOfMebibyte = side
      return scattered
    }
    let sides: [Int64] = [1_000_000, 5_000_000, 2_000_000, 3_000_000]
    let plan = try JobPlanning.plan(
      settings, reports: zip(["a", "b", "c", "d"], sides).map { scattered($0, $1) },
      links: links(4, rate: 1e12)
    ).plan
    // 8 units on 4 devices: what each alone said would give the first device most of them.
    #expect(plan.cached.map(\.units) == [2, 2, 2, 2])
    let middle = try JobPlanning.plan(
      settings, reports: ["a", "b", "c", "d"].map { scattered($0, 2_500_000) }, links: links(4, rate: 1e12)
    ).plan
    #expect(plan.predicted == middle.predicted)

    // Neither one that is busy with something else nor another processor counts as scatter.
    var slow = report("e", slowness: 2)
    slow.shapeDigest = "this processor"
    let mixed = [scattered("a", 1_000_000), scattered("b", 5_000_000), slow]
    let believed = try JobPlanning.plan(settings, reports: mixed, links: links(3, rate: 1e12)).plan
    let units = Dictionary(uniqueKeysWithValues: believed.cached.map { ($0.device, $0.units) })
    #expect(units[0] == 3 && units[1] == 3 && units[2] == 2)
    let others = [scattered("a", 1_000_000), scattered("b", 5_000_000, kind: "another")]
    let apart = try JobPlanning.plan(settings, reports: others, links: links(2, rate: 1e12)).plan
    #expect(apart.cached.first { $0.device == 0 }.map(\.units) ?? 0 > 4)
  }

  @Test("With an earlier plan of the same places, the plan is never worse")
  func earlier() throws {
    let settings = settings(try shape())
    let reports = [report("a"), report("b", slowness: 3), report("c", slowness: 2)]
    let first = try JobPlanning.plan(settings, reports: Array(reports.prefix(2)), links: links(2)).plan
    let second = try JobPlanning.plan(settings, reports: reports, links: links(3), earlier: first).plan
    #expect(second.predicted.total <= first.predicted.total)
  }

  @Test("A running job is planned again by what its devices reported and what they take now")
  func replanning() throws {
    let settings = settings(try shape())
    let reports = [report("desk"), report("sofa")]
    let plan = try JobPlanning.plan(settings, reports: reports, links: links(2)).plan
    // Both are there, and everything but one epoch is done: too little is left to change anything.
    let there = reports.enumerated().map { DeviceThere(report: $1, place: $0, secondsPerStep: 0.01) }
    guard
      case .keep = try JobPlanning.replan(
        settings, present: plan, devices: there, links: links(2), committedStep: 10, cause: .straggler)
    else {
      Issue.record("a second cannot be gained where none is left")
      return
    }
    guard
      case .switch(let new) = try JobPlanning.replan(
        settings, present: plan, devices: [there[1]], links: [], committedStep: 10, cause: .lost)
    else {
      Issue.record("a lost device needs a new plan")
      return
    }
    #expect(new.household == [0] && new.plan.cached.map(\.units) == [8] && new.plan.mode == .fill)
    #expect(new.gain.before == nil && new.gain.after > 0)
    #expect(JobPlanning.samplesPerSecond(settings, stepNanoseconds: 500_000_000) == 32)
    #expect(throws: JobPlanningFailure.self) {
      try JobPlanning.replan(
        settings, present: plan, devices: [DeviceThere(report: report("lamp", memory: 1), place: 0)],
        links: [],
        committedStep: 2, cause: .lost)
    }
  }
}
