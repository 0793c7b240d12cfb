import ComputeRuntime
package import LanguageModels
import NeuralNetworks
import TensorKernels

/// What this device was measured to do, in the words of a household file.
package struct LocalProfile: Sendable, Encodable {
  /// The device, ready to be pasted into a household file.
  package var device: HouseholdFile.Device
  /// Cores that may be used.
  package var cores: Int
  /// Rate of a large matrix product on one core, GFLOP/s.
  package var productGflops: Double
  /// Every kind of layer, measured on one core.
  package var layers: [LayerTimes]
  /// What a plan may use of the memory that is available.
  package var memoryBytes: Int
  /// Free space of the disk with the state directory.
  package var freeDiskBytes: Int?
  /// The links to the other devices of the household; nil when no daemon was there to measure them.
  package var links: LinkSurveyReport?
  /// Why a number is missing or to be doubted.
  package var notes: [String]

  /// This device as a household of one.
  package var household: HouseholdFile {
    HouseholdFile(
      name: "this device", devices: [device], link: HouseholdFile.Link(mbitS: 1000, latencyMs: 0.2))
  }

  /// Share of the available memory that a plan may use.
  private static let memoryShare = 0.8
  /// Share of the free disk that the cache may use.
  private static let diskShare = 0.8
  /// Rates of disks that could not be measured, MB/s.
  private static let unknownDiskRate = 50.0

  /// Measures a model's layers, memory, and the disk with the state directory.
  ///
  /// Layers of the model's shape, and of the side network beside it, run with random weights on one core. The
  /// device's rates are those of the encoder's layers, times the cores: the cores compute different
  /// micro-batches.
  package static func measure(
    architecture: BackboneArchitecture, reduction: Int, length: Int, environment: [String: String] = [:]
  ) -> LocalProfile {
    let machine = MachineProfile.current()
    let core = BLASCore.select()
    var notes: [String] = []
    if core.contradictsCPU {
      notes.append(
        "OpenBLAS uses a core that does not fit this CPU; see 'hearth doctor'. The rates are too low.")
    }
    let hidden = architecture.stacks.map(\.block.hidden).max() ?? 4 * architecture.width
    let product = best { measureGemmGFLOPS(m: length, n: hidden, k: architecture.width) }
    let layers = LayerProbe.measure(architecture, reduction: reduction, length: length)
    let first = architecture.stacks.first?.kind.rawValue
    func rate(isSide: Bool) -> Double {
      let measured = layers.filter { $0.stack == first && $0.isSide == isSide }
      guard !isSide else {
        // Forward and backward, as a cached step has them: three forward passes' operations in the time of
        // both.
        return measured.map { 3 * $0.forwardGflops * $0.forwardMs / ($0.forwardMs + $0.backwardMs) }.max()
          ?? product
      }
      return measured.map(\.forwardGflops).max() ?? product
    }
    let cores = machine.usableCores
    let memory = Int(Double(machine.availableMemory) * memoryShare)
    var device = HouseholdFile.Device(
      name: "this device", memory: "\(memory)", gflops: rounded(rate(isSide: false) * Double(cores)))
    device.sideGflops = rounded(rate(isSide: true) * Double(cores))
    device.workers = cores
    var free: Int?
    if let path = StateDirectory.path(environment: environment) {
      let disk = DiskProbe.examine(path, byteCount: DiskProbe.rateBytes)
      free = disk.free
      device.diskWriteMbS = disk.writeRate.map { rounded($0 / 1e6) }
      device.diskReadMbS = disk.readRate.map { rounded($0 / 1e6) }
      if let failure = disk.failure { notes.append("the disk at '\(path)' was not measured: \(failure)") }
    } else {
      notes.append("no state directory is known, so the disk was not measured")
    }
    if device.diskWriteMbS == nil {
      device.diskWriteMbS = unknownDiskRate
      device.diskReadMbS = unknownDiskRate
    }
    device.cache = free.map { "\(Int(Double($0) * diskShare))" }
    return LocalProfile(
      device: device, cores: cores, productGflops: rounded(product), layers: layers,
      memoryBytes: memory, freeDiskBytes: free, links: nil, notes: notes)
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
    var lines = [
      "one core, one to four texts   forward ms          backward ms"
    ]
    for group in stride(from: 0, to: layers.count, by: 3).map({ layers[$0..<min($0 + 3, layers.count)] }) {
      guard let kind = group.first else { continue }
      func row(_ value: (LayerTimes) -> Double) -> String {
        group.map { number in
          let text = decimal(value(number), 2)
          return String(repeating: " ", count: max(0, 6 - text.count)) + text
        }.joined()
      }
      let name = "\(kind.stack) layer\(kind.isSide ? ", side network" : ", backbone")"
      lines.append(
        "  \(name)\(String(repeating: " ", count: max(1, 28 - name.count)))\(row(\.forwardMs))  \(row(\.backwardMs))"
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

  /// The best of three: other programs only ever make a measurement worse.
  private static func best(_ measure: () -> Double) -> Double { max(measure(), measure(), measure()) }

  /// Two decimals, which is more than a measurement has.
  private static func rounded(_ value: Double) -> Double { max(0.01, (value * 100).rounded() / 100) }
}
