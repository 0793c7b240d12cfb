import ComputeRuntime
package import LanguageModels
import TensorKernels

/// What this device was measured to do, in the words of a household file.
package struct LocalProfile: Sendable, Encodable {
  /// The device, ready to be pasted into a household file.
  package var device: HouseholdFile.Device
  /// Cores that may be used.
  package var cores: Int
  /// Rate of the backbone's products on one core, GFLOP/s.
  package var coreGflops: Double
  /// Rate of the side network's products on one core, GFLOP/s.
  package var sideCoreGflops: Double
  /// What a plan may use of the memory that is available.
  package var memoryBytes: Int
  /// Free space of the disk with the state directory.
  package var freeDiskBytes: Int?
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

  /// Measures the products of a model's layers, memory, and the disk with the state directory.
  ///
  /// Products are those of one text's rows with a feed-forward matrix of the backbone and of the side network, on one core,
  /// times the cores: a layer is nearly all products, and the cores work on different micro-batches.
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
    let backbone = best { measureGemmGFLOPS(m: length, n: hidden, k: architecture.width) }
    let side = best {
      measureGemmGFLOPS(
        m: length, n: max(16, hidden / reduction), k: max(16, architecture.width / reduction))
    }
    let cores = machine.usableCores
    let memory = Int(Double(machine.availableMemory) * memoryShare)
    var device = HouseholdFile.Device(
      name: "this device", memory: "\(memory)", gflops: rounded(backbone * Double(cores)))
    device.sideGflops = rounded(side * Double(cores))
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
      device: device, cores: cores, coreGflops: rounded(backbone), sideCoreGflops: rounded(side),
      memoryBytes: memory, freeDiskBytes: free, notes: notes)
  }

  /// The profile for people.
  package var text: String {
    var lines = [
      "backbone products   \(decimal(coreGflops, 1)) GFLOP/s a core, \(cores) \(cores == 1 ? "core" : "cores")",
      "side products       \(decimal(sideCoreGflops, 1)) GFLOP/s a core",
      "memory for plans    \(ByteCount(memoryBytes))",
    ]
    if let write = device.diskWriteMbS, let read = device.diskReadMbS {
      lines.append("disk                \(decimal(write, 0)) MB/s write, \(decimal(read, 0)) MB/s read")
    }
    if let freeDiskBytes { lines.append("free disk           \(ByteCount(freeDiskBytes))") }
    return (lines + notes.map { "note: \($0)" }).joined(separator: "\n") + "\n"
  }

  /// The best of three: other programs only ever make a measurement worse.
  private static func best(_ measure: () -> Double) -> Double { max(measure(), measure(), measure()) }

  /// Two decimals, which is more than a measurement has.
  private static func rounded(_ value: Double) -> Double { max(0.01, (value * 100).rounded() / 100) }
}
