import ComputeRuntime
import CryptoPrimitives
import FoundationEssentials
import HearthStorage
import LanguageModels
import NeuralNetworks
package import ParallelPlanner
import TensorKernels

/// What a person lets a job use of a device; nil where nothing is said.
package struct DeviceLimits: Sendable, Equatable {
  /// Threads that compute.
  package var threads: Int?
  /// Bytes of memory.
  package var memoryBytes: Int?
  /// Bytes of the disk for activations.
  package var cacheBytes: Int?

  /// Limits.
  package init(threads: Int? = nil, memoryBytes: Int? = nil, cacheBytes: Int? = nil) {
    self.threads = threads
    self.memoryBytes = memoryBytes
    self.cacheBytes = cacheBytes
  }
}

/// What one device measured and may use for a job: all that a plan needs to know of it.
package struct DeviceReport: Sendable, Codable, Equatable {
  /// Most bytes of the encoded form.
  package static let maximumBytes = 48 << 10

  /// The device's name in its household.
  package var name: String
  /// The job's shape that `timings` were measured for, with processor, threads and share; equal on devices that are alike.
  package var shapeDigest: String
  /// Bytes of memory that a plan may use.
  package var memoryBytes: Int64
  /// Bytes of disk that the activation cache may use.
  package var cacheBytes: Int64
  /// Rate at which the disk takes data.
  package var diskWriteBytesPerSecond: Int64
  /// Rate at which the disk gives data.
  package var diskReadBytesPerSecond: Int64
  /// Rate of a large matrix product on one core, in millions of operations a second.
  package var productMegaflops: Int64
  /// What the parts of the model take.
  package var timings: PartTimings
  /// Bits of a gradient sum on the wire in the last job of this kind here; nil when there was none.
  package var sumBits: Int64?

  /// The encoded form; equal reports have equal bytes.
  package func encoded() throws(JobPlanningFailure) -> [UInt8] {
    guard let bytes = canonicalJSON(self), bytes.count <= Self.maximumBytes else {
      throw .report(device: name, detail: "it takes more than \(Self.maximumBytes) bytes")
    }
    return bytes
  }

  /// Reads and checks an encoded form.
  package init(decoding bytes: [UInt8]) throws(JobPlanningFailure) {
    guard bytes.count <= Self.maximumBytes else {
      throw .report(device: "?", detail: "it takes \(bytes.count) bytes; \(Self.maximumBytes) are allowed")
    }
    do {
      self = try JSONDecoder().decode(DeviceReport.self, from: Data(bytes))
    } catch {
      throw .report(device: "?", detail: "it is damaged, or from a newer Hearth")
    }
    if let problem { throw .report(device: String(name.prefix(80)), detail: problem) }
  }

  /// A report from its numbers.
  package init(
    name: String, shapeDigest: String, memoryBytes: Int64, cacheBytes: Int64, diskWriteBytesPerSecond: Int64,
    diskReadBytesPerSecond: Int64, productMegaflops: Int64, timings: PartTimings, sumBits: Int64? = nil
  ) {
    self.name = name
    self.shapeDigest = shapeDigest
    self.memoryBytes = memoryBytes
    self.cacheBytes = cacheBytes
    self.diskWriteBytesPerSecond = diskWriteBytesPerSecond
    self.diskReadBytesPerSecond = diskReadBytesPerSecond
    self.productMegaflops = productMegaflops
    self.timings = timings
    self.sumBits = sumBits
  }

  private var problem: String? {
    guard name.utf8.count <= 320 else { return "its name has \(name.utf8.count) bytes" }
    guard memoryBytes >= 0, memoryBytes <= PlanningLimits.bytes, cacheBytes >= 0,
      cacheBytes <= PlanningLimits.bytes
    else { return "it has \(memoryBytes) bytes of memory and \(cacheBytes) of disk" }
    let rates = PlanningLimits.slowestBytesPerSecond...PlanningLimits.bytes
    guard rates.contains(diskWriteBytesPerSecond), rates.contains(diskReadBytesPerSecond) else {
      return "its disk takes \(diskWriteBytesPerSecond) and gives \(diskReadBytesPerSecond) bytes a second"
    }
    if let sumBits, !PlanningLimits.sumBits.contains(sumBits) { return "its sums had \(sumBits) bits" }
    return timings.problem
  }

  /// The device as the planner sees it, in a household of so many.
  package func profile(_ work: [KindWork], units: Int, devices: Int) -> DeviceProfile {
    let timings = timings.amongst(devices: devices)
    return DeviceProfile(
      name: name, memoryBudget: memoryBytes, workers: timings.threads, cacheBudget: cacheBytes,
      diskWriteBytesPerSecond: diskWriteBytesPerSecond, diskReadBytesPerSecond: diskReadBytesPerSecond,
      updateBytesPerSecond: timings.updateBytesPerSecond,
      exchangeBytesPerSecond: timings.exchangeBytesPerSecond,
      freshBytesPerSecond: timings.freshBytesPerSecond, mappedBytesPerSecond: timings.mappedBytesPerSecond,
      standstill: timings.standstill ?? 0, times: timings.unitTimes(work, units: units))
  }
}

/// What was measured on this device, kept from one job to the next.
struct MeasuredDevice: Codable, Equatable {
  var timings: PartTimings
  var diskWriteBytesPerSecond: Int64
  var diskReadBytesPerSecond: Int64
  var productMegaflops: Int64
}

/// Measurements of this device by shape, below the state directory: a second job of a shape need not measure.
struct MeasuredDevices {
  /// Changed when what is measured changes.
  private static let version = 7
  private static let maximumBytes = 64 << 10
  private let directory: String

  init(stateDirectory: String) { directory = stateDirectory + "/profiles" }

  /// The name of a shape's measurement on this processor and share of it: devices that give the same are alike.
  static func digest(_ shape: JobShape, threads: Int) -> String {
    var hasher = ContentHasher()
    hasher.update("device measurement")
    hasher.update(version)
    hasher.update(threads)
    let machine = MachineProfile.current()
    hasher.update(machine.cpu.brand)
    // In hundredths of a core: what is measured under one share of the processor says nothing of another.
    hasher.update(machine.coreQuota.map { Int(min(max(0, $0), 1e6) * 100) } ?? -1)
    hasher.update(KernelSet.best.name)
    hasher.update(shape.digest)
    return hasher.finalize().description
  }

  /// A kept measurement; nil when there is none that can be read.
  func kept(_ digest: String) -> MeasuredDevice? {
    guard let bytes = try? readWholeFile("\(directory)/\(digest).json", limit: Self.maximumBytes),
      let measured = try? JSONDecoder().decode(MeasuredDevice.self, from: Data(bytes)),
      measured.timings.problem == nil
    else { return nil }
    return measured
  }

  /// Keeps a measurement; a disk that refuses costs the next job its time only.
  func keep(_ measured: MeasuredDevice, as digest: String) {
    guard let bytes = canonicalJSON(measured), (try? createDirectory(directory, isPrivate: true)) != nil
    else { return }
    try? AtomicFile.write(bytes, to: "\(directory)/\(digest).json")
  }

  /// Measures this device for a shape.
  func measure(_ shape: JobShape, threads: Int, memory: Int) throws -> MeasuredDevice {
    let timings = try PartProbe(shape, threads: threads, directory: directory, memory: memory).measure()
    try createDirectory(directory, isPrivate: true)
    let disk = DiskProbe.examine(directory, byteCount: DiskProbe.rateBytes)
    let architecture = try shape.architecture()
    let hidden = architecture.stacks.map(\.block.hidden).max() ?? 4 * architecture.width
    let product = measureGemmGFLOPS(m: shape.encoderLength, n: hidden, k: architecture.width)
    func rate(_ measured: Double?) -> Int64 {
      Int64(min(1e12, max(1e4, measured ?? Double(Self.unknownDiskRate))))
    }
    return MeasuredDevice(
      timings: timings, diskWriteBytesPerSecond: rate(disk.writeRate),
      diskReadBytesPerSecond: rate(disk.readRate), productMegaflops: Int64(product * 1000))
  }

  /// Rate of disks that could not be measured.
  private static let unknownDiskRate = 50_000_000
}
