import FineTuning
import Foundation
import HearthNode
import LanguageModels
import MeshPeer
import ParallelPlanner
import Testing

@Suite struct PlanningTests {
  private static let examples = URL(filePath: #filePath).deletingLastPathComponent()
    .appending(path: "../../../docs/examples/households").standardized

  private func example(_ name: String) -> String { Self.examples.appending(path: name).path }

  private func report(_ change: (inout PlanRequest) -> Void = { _ in }) throws -> PlanReport {
    var request = PlanRequest(model: "t5-base")
    request.householdFile = example("eight-jetson-nanos.json")
    change(&request)
    return try PreparedPlanning(request).plan()
  }

  @Test(
    "T5-Base has 24 layers with the 222,903,552 weights of the model, the word table shared by both stacks")
  func model() throws {
    let model = try PlanningModel(
      name: "t5-base", architecture: try PlanningModel.architecture("t5-base"),
      technique: .parallel(ParallelAdapterConfiguration(preset: .timing, layersPerStack: 12)),
      head: .classes(2),
      workload: CostWorkload(samples: 1, encoderLength: 128), counting: .paper)
    #expect(model.costs.layers.count == 24)
    #expect(model.layerNames.first == "encoder 0" && model.layerNames.last == "decoder 11")
    let frozen = model.costs.layers.reduce(0) { $0 + $1.frozenBytes } + model.costs.shared[0].bytes
    #expect(frozen == 4 * 222_903_552)
    #expect(model.costs.shared[0].layers == [0, 12])
    // The dossier's 5,097,216 of the timing network, within norms, biases' tables and the classifier.
    #expect(abs(model.costs.trainableBytes / 4 - 5_097_216) < 8000)
    // "s × h × l" of PAC §5.2, for 13 taps of 128 tokens of the encoder and 13 of one of the decoder, float32.
    #expect(model.costs.cacheBytes == Int64(4 * 768 * 13 * (128 + 1)))
  }

  @Test("A decoder layer of a one-token target does about a sixth of an encoder layer's work")
  func decoderShare() throws {
    let model = try PlanningModel(
      name: "t5-base", architecture: try PlanningModel.architecture("t5-base"),
      technique: .full(FullConfiguration()),
      head: .classes(2), workload: CostWorkload(samples: 1, encoderLength: 128), counting: .paper)
    let encoder = model.work[model.costs.layers[5].kind].forward
    let decoder = model.work[model.costs.layers[17].kind].forward
    #expect((5.0...7.0).contains(Double(encoder) / Double(decoder)))
  }

  @Test(
    "Every example household can be planned with",
    arguments: ["eight-jetson-nanos", "mixed-home", "one-phone"])
  func examples(name: String) throws {
    let report = try report {
      $0.householdFile = example("\(name).json")
      $0.samples = 500
    }
    #expect(report.stages.reduce(0) { $0 + $1.layerCount } == 24)
    #expect(report.predictedSeconds.total > 0)
    for device in report.stages.flatMap(\.devices) { #expect(device.memoryBytes <= device.budgetBytes) }
  }

  @Test("The JSON form has the documented keys, and a second planning gives the same digest")
  func json() throws {
    let report = try report()
    let object = try #require(
      try JSONSerialization.jsonObject(with: Data(jsonLine(report).utf8)) as? [String: Any])
    let seconds = try #require(object["predicted_seconds"] as? [String: Double])
    #expect(Set(seconds.keys) == ["first_epoch", "redistribution", "cached_epoch", "total"])
    let stage = try #require((object["stages"] as? [[String: Any]])?.first)
    #expect(stage["layers"] as? [String] != nil)
    let device = try #require((stage["devices"] as? [[String: Any]])?.first)
    for key in ["name", "share", "memory_bytes", "budget_bytes"] { #expect(device[key] != nil, "\(key)") }
    #expect(object["planning_seconds"] as? Double != nil)
    #expect((object["plan_digest"] as? String)?.count == 64)
    #expect(try self.report().planDigest == report.planDigest)
  }

  @Test("The picture shows every stage, device and share, and the chart one row a stage")
  func picture() throws {
    let report = try report {
      $0.planner = .ecofl
      $0.technique = "lora"
    }
    let lines = report.text(explain: true).split(separator: "\n").map(String.init)
    #expect(report.stages.count > 1)
    for number in 1...report.stages.count {
      #expect(lines.count { $0.hasPrefix("stage \(number) ") } == 2)
    }
    for device in report.stages.flatMap(\.devices) { #expect(lines.contains { $0.contains(device.name) }) }
    #expect(lines.contains("Not chosen (the best of each kind)"))
  }

  @Test("The drawing is well-formed XML with a box for every pass")
  func drawing() throws {
    let report = try report {
      $0.planner = .ecofl
      $0.technique = "full"
    }
    let boxes = report.svg.components(separatedBy: "<rect").count - 1
    // A background, and a forward and a backward pass of each micro-batch in each stage; one device has no ring.
    #expect(boxes == 1 + 2 * report.stages.count * report.microBatches)
    #expect(
      report.svg.components(separatedBy: "<text").count == report.svg.components(separatedBy: "</text>").count
    )
  }

  @Test("Files that are no household are refused with the place and what is wrong")
  func badFiles() throws {
    let folder = FileManager.default.temporaryDirectory.appending(path: "hearth-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    func detail(_ text: String) throws -> String {
      let path = folder.appending(path: "home.json").path
      try text.write(toFile: path, atomically: true, encoding: .utf8)
      do {
        _ = try HouseholdFile.read(path)
        return ""
      } catch PlanFailure.household(_, let detail) {
        return detail
      }
    }
    func household(_ device: String, _ rest: String = "") -> String {
      "{\"name\": \"h\", \"link\": {\"mbit_s\": 100, \"latency_ms\": 1}, \"devices\": [\(device)]\(rest)}"
    }
    let good = "{\"name\": \"a\", \"memory\": \"1GiB\", \"gflops\": 10}"
    #expect(try detail(household(good)) == "")
    #expect(try detail("no json") == "it is no JSON")
    #expect(try detail("{\"name\": \"h\", \"devices\": []}").contains("link"))
    #expect(try detail(household("")).contains("0 devices"))
    #expect(try detail(household("\(good), \(good)")).contains("same name"))
    #expect(try detail(household("{\"name\": \"a\", \"memory\": \"much\", \"gflops\": 10}")).contains("much"))
    #expect(
      try detail(household("{\"name\": \"a\", \"memory\": \"1GiB\", \"gflops\": 0}")).contains("gflops"))
    #expect(
      try detail(household("{\"name\": \"a\", \"memory\": \"1GiB\", \"gflops\": 10, \"count\": 65}"))
        .contains("count"))
    let links = ", \"links\": [{\"between\": [\"a\", \"b\"], \"mbit_s\": 1, \"latency_ms\": 1}]"
    #expect(try detail(household(good, links)).contains("'b'"))
  }

  @Test("A file that goes from device to device comes to hold all of them and every link once")
  func measuredHousehold() throws {
    let names = ["desk", "laptop", "phone"]
    func device(_ name: String) -> HouseholdFile.Device {
      HouseholdFile.Device(name: name, memory: "1GiB", gflops: 10)
    }
    // Each measures the links to both others, one of which may not be in the file yet.
    func links(of name: String, rate: Double) -> [LinkSurveyReport.Link] {
      names.filter { $0 != name }.map {
        LinkSurveyReport.Link(name: $0, device: "", roundTripMs: 4, echoes: 9, mbitS: rate)
      }
    }
    var file = HouseholdFile(name: "h", devices: [], link: HouseholdFile.Link(mbitS: 1000, latencyMs: 0.2))
    for (index, name) in names.enumerated() {
      file = file.updated(with: device(name), links: links(of: name, rate: 100 + Double(index)))
      #expect(file.problem == nil)
    }
    #expect(file.devices.map(\.name) == names)
    #expect(
      file.links?.map { $0.between ?? [] } == [["laptop", "desk"], ["phone", "desk"], ["phone", "laptop"]])
    // Half of the round trip is one way; the worst link stands for those that are not named.
    #expect(file.links?.allSatisfy { $0.latencyMs == 2 } == true)
    #expect(file.link == HouseholdFile.Link(mbitS: 101, latencyMs: 2))
    // Measured again, a device takes the place of what was there.
    var faster = device("desk")
    faster.gflops = 20
    let again = file.updated(with: faster, links: links(of: "desk", rate: 50))
    #expect(again.devices.count == 3 && again.devices[0].gflops == 20)
    #expect(again.links?.count == 3 && again.links?.count { $0.mbitS == 50 } == 2)
    // What was not measured changes nothing.
    let gap = LinkSurveyReport.Link(name: "phone", device: "", roundTripMs: 1, gap: .busy)
    #expect(again.updated(with: faster, links: [gap]) == again)
  }

  @Test("A device that is added to the end of a household file never gives a worse plan, proven or not")
  func growth() throws {
    let speeds: [Double] = [90, 25, 60, 140, 30, 75, 20, 110]
    var file = HouseholdFile(name: "h", devices: [], link: HouseholdFile.Link(mbitS: 80, latencyMs: 2))
    var before = Double.infinity
    var unproven = 0
    for (index, speed) in speeds.enumerated() {
      file.devices.append(
        HouseholdFile.Device(
          name: "device \(index)", memory: "\(900 + 40 * index)MiB", gflops: speed))
      let shape = try PlanRequest(model: "t5-base").shape()
      let model = try PlanningModel(shape)
      let job = PlanningJob(epochs: 3, stepsPerEpoch: 230, unitsPerMiniBatch: 8)
      guard let result = try? PlanGrowth.plan(model.costs, household: model.household(file), job: job) else {
        continue
      }
      #expect(Double(result.plan.predicted.total) <= before)
      before = Double(result.plan.predicted.total)
      if !result.isProven { unproven += 1 }
    }
    #expect(before < .infinity && unproven > 0)
  }

  @Test("Times that were measured for a shape count for that shape, and the rates for every other")
  func measuredTimes() throws {
    var request = PlanRequest(model: "t5-base")
    let shape = try request.shape()
    var part = PartTimes()
    part.forward = UnitDuration(alone: 1_000_000, together: 1_000_000)
    let timings = PartTimings(
      threads: 2,
      stacks: [
        PartTimings.Stack(kind: .encoder, block: part, embedding: PartTimes()),
        PartTimings.Stack(kind: .decoder, block: part, embedding: PartTimes()),
      ], head: PartTimes(), cacheWrite: .none, cacheRead: .none, updateOfMillion: 2_000_000)
    var device = HouseholdFile.Device(name: "a", memory: "4GiB", gflops: 10)
    device.measured = HouseholdFile.Measured(shape: shape.digest, timings: timings)
    device.updateMbS = 5
    let file = HouseholdFile(
      name: "h", devices: [device], link: HouseholdFile.Link(mbitS: 100, latencyMs: 1))
    let measured = try PlanningModel(shape).household(file, shape: shape.digest, units: 8).devices[0]
    #expect(measured.workers == 2)
    // A million values of 4 bytes in 2 ms.
    #expect(measured.updateBytesPerSecond == 2_000_000_000)
    #expect(measured.times[0].fill == [1, 1, 2, 2, 3, 3, 4, 4].map { $0 * 1_000_000 })
    request.length = 64
    let other = try request.shape()
    #expect(other.digest != shape.digest)
    let rated = try PlanningModel(other).household(file, shape: other.digest, units: 8).devices[0]
    #expect(rated.workers == 1 && rated.updateBytesPerSecond == 5_000_000)
  }

  @Test("An encoder's side network is planned with the taps that its head reads on single texts")
  func pooledTaps() throws {
    let encoder = Self.examples.appending(path: "../../../Tests/Fixtures/tiny-bert").standardized.path
    guard case .parallel(let side) = try PlanRequest(model: encoder).shape().technique else {
      Issue.record("the preset technique is not parallel")
      return
    }
    #expect(side.pooling == .attention)
    let counted = try PlanningModel(PlanRequest(model: encoder).shape()).costs.trainableBytes
    var plain = try PlanRequest(model: encoder).shape()
    plain.technique = .parallel(ParallelAdapterConfiguration(preset: .default, layersPerStack: 2))
    #expect(counted > (try PlanningModel(plain).costs.trainableBytes))
    guard case .parallel(let other) = try PlanRequest(model: "t5-base").shape().technique else {
      Issue.record("the preset technique is not parallel")
      return
    }
    #expect(other.pooling == nil)
  }

  @Test("A model that is nowhere is refused with the built-in shapes")
  func unknownModel() {
    #expect(throws: PlanFailure.unknownModel("no-such-model", shapes: PlanningModel.shapes)) {
      try PlanningModel.architecture("no-such-model")
    }
  }
}
