import ComputeRuntime
import TensorKernels

/// What this device was measured to do, in the words of a household file.
package struct LocalProfile: Sendable, Encodable {
  /// The device, ready to be pasted into a household file.
  package var device: HouseholdFile.Device
  /// Threads that compute.
  package var cores: Int
  /// Rate of a large matrix product on one core, GFLOP/s.
  package var productGflops: Double
  /// What a plan may use of the memory that is available.
  package var memoryBytes: Int
  /// Free space of the disk with the state directory.
  package var freeDiskBytes: Int?
  /// The links to the other devices of the household; nil when no daemon was there to measure them.
  package var links: LinkSurveyReport?
  /// Why a number is missing or to be doubted.
  package var notes: [String]
  private let samplesPerUnit: Int

  private enum CodingKeys: String, CodingKey {
    case device, cores, productGflops, memoryBytes, freeDiskBytes, links, notes
  }

  /// This device as a household of one.
  package var household: HouseholdFile {
    HouseholdFile(
      name: "this device", devices: [device], link: HouseholdFile.Link(mbitS: 1000, latencyMs: 0.2))
  }

  /// Measures the parts of a model under a technique, the memory, and the disk with the state directory.
  ///
  /// The device's rates, for models of other shapes, are those of the encoder's blocks.
  package static func measure(_ shape: JobShape, environment: [String: String]) throws -> LocalProfile {
    guard let state = StateDirectory.path(environment: environment) else {
      throw PlanFailure.request(detail: "there is no state directory to measure in; set HEARTH_HOME")
    }
    var notes: [String] = []
    if BLASCore.select().contradictsCPU {
      notes.append(
        "OpenBLAS uses a core that does not fit this CPU; see 'hearth doctor'. The rates are too low.")
    }
    let report = try JobPlanning.report(shape, name: "this device", stateDirectory: state, isFresh: true)
    let timings = report.timings
    let model = try PlanningModel(shape)
    let plain = model.work.first { !$0.embeds && !$0.ends && $0.hasSide } ?? model.work[0]
    let block = timings.stacks.first?.block ?? PartTimes()
    func rate(_ operations: Int, _ time: Int64) -> Double {
      rounded(Double(operations * timings.threads) / Double(max(1, time)))
    }
    var device = HouseholdFile.Device(
      name: report.name, memory: "\(report.memoryBytes)",
      gflops: rate(plain.forward, block.forward.together))
    if plain.sideForward > 0 {
      device.sideGflops = rate(
        plain.sideForward + plain.sideBackward, block.sideForward.together + block.sideBackward.together)
    }
    device.workers = timings.threads
    device.cache = "\(report.cacheBytes)"
    device.diskWriteMbS = rounded(Double(report.diskWriteBytesPerSecond) / 1e6)
    device.diskReadMbS = rounded(Double(report.diskReadBytesPerSecond) / 1e6)
    device.updateMbS = rounded(Double(timings.updateBytesPerSecond) / 1e6)
    device.measured = HouseholdFile.Measured(shape: shape.digest, timings: timings)
    return LocalProfile(
      device: device, cores: timings.threads, productGflops: Double(report.productMegaflops) / 1000,
      memoryBytes: Int(report.memoryBytes), freeDiskBytes: MachineProfile.freeDiskBytes(at: state),
      links: nil,
      notes: notes, samplesPerUnit: shape.samplesPerUnit)
  }

  /// Takes in what this device's daemon measured of its links, or why there is nothing.
  package mutating func add(_ answer: LinkSurveyAnswer) {
    switch answer {
    case .measured(let report):
      links = report
      device.name = report.name
    case .notMeasured(let note): notes.append(note)
    }
  }

  /// The profile for people.
  package var text: String {
    let units = samplesPerUnit == 1 ? "one text" : "\(samplesPerUnit) texts"
    let title = "a unit of \(units), milliseconds"
    var lines = [title + String(repeating: " ", count: max(1, 34 - title.count)) + "forward  backward"]
    func row(_ name: String, _ forward: UnitDuration, _ backward: UnitDuration) {
      guard forward.together + backward.together > 0 else { return }
      let cells = [forward, backward].map { time in
        let text = time.together > 0 ? decimal(Double(time.together) / 1e6, 2) : "-"
        return String(repeating: " ", count: max(0, 10 - text.count)) + text
      }
      lines.append("  \(name)\(String(repeating: " ", count: max(1, 29 - name.count)))\(cells.joined())")
    }
    if let timings = device.measured?.timings {
      for stack in timings.stacks {
        row("\(stack.kind) block, backbone", stack.block.forward, stack.block.backward)
        row("\(stack.kind) block, side network", stack.block.sideForward, stack.block.sideBackward)
      }
      let rest = timings.stacks.map(\.embedding) + [timings.head]
      row(
        "embeddings and head", rest.reduce(.none) { $0 + $1.forward + $1.sideForward },
        rest.reduce(.none) { $0 + $1.backward + $1.sideBackward })
      func rate(_ time: UnitDuration) -> String {
        decimal(Double(1 << 20) * 1e3 / Double(max(1, time.together)), 0)
      }
      if timings.cacheWrite.together > 0 {
        lines.append(
          "activation cache    \(rate(timings.cacheWrite)) MB/s written, \(rate(timings.cacheRead)) MB/s read a core, in memory"
        )
      }
      lines.append(
        "optimizer           \(decimal(Double(timings.updateOfMillion) / 1e6, 2)) ms a step for a million values"
      )
    }
    lines += [
      "large product       \(decimal(productGflops, 1)) GFLOP/s a core, \(cores) \(cores == 1 ? "core" : "cores")",
      "backbone            \(decimal(device.gflops, 1)) GFLOP/s, all cores",
      "side network        \(decimal(device.sideGflops ?? 0, 1)) GFLOP/s, all cores",
      "memory for plans    \(ByteCount(memoryBytes))",
    ]
    if let write = device.diskWriteMbS, let read = device.diskReadMbS {
      lines.append("disk                \(decimal(write, 0)) MB/s write, \(decimal(read, 0)) MB/s read")
    }
    if let freeDiskBytes { lines.append("free disk           \(ByteCount(freeDiskBytes))") }
    if let links { lines += links.lines }
    return (lines + notes.map { "note: \($0)" }).joined(separator: "\n") + "\n"
  }

  /// Two decimals, which is more than a measurement has.
  private static func rounded(_ value: Double) -> Double { max(0.01, (value * 100).rounded() / 100) }
}
