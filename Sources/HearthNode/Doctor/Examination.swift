import ComputeRuntime
import Glibc
import TensorKernels

extension Diagnosis {
  /// Side of the square matrices of the measured multiplication: three fit the second-level cache of few
  /// CPUs and the third-level cache of all, as a real layer's do.
  private static let gemmSide = 768

  /// Measures this machine: takes about a second of one core and writes 64 MiB to the state directory's disk.
  package static func examine(environment: [String: String]) -> Diagnosis {
    let machine = MachineProfile.current()
    let report = BLASCore.select()
    let gemm = report.contradictsCPU ? nil : best { measureGemmGFLOPS(m: gemmSide, n: gemmSide, k: gemmSide) }
    let statePath = StateDirectory.path(environment: environment)
    let temporaryPath = environment["TMPDIR"].flatMap { $0.isEmpty ? nil : $0 } ?? "/tmp"
    return Diagnosis(
      version: hearthVersion,
      system: kernelRelease(),
      processor: Processor(
        brand: machine.cpu.brand, architecture: machine.cpu.architecture, kernels: machine.cpu.kernelSet,
        onlineCores: machine.onlineCores, usableCores: machine.usableCores, coreQuota: machine.coreQuota,
        peakGflops: best(measurePeakGFLOPS)),
      linearAlgebra: LinearAlgebra(
        library: report.library, core: report.coreName, changedFrom: report.changedFrom,
        contradictsCpu: report.contradictsCPU, explanation: report.explanation, gemmGflops: gemm),
      memory: Memory(
        total: machine.totalMemory, available: machine.availableMemory, limit: machine.memoryLimit),
      state: statePath.map { DiskProbe.examine($0, byteCount: DiskProbe.rateBytes) }
        ?? Directory(
          path: "", measuredAt: "", free: nil, writeRate: nil, readRate: nil,
          failure: "neither HEARTH_HOME, XDG_STATE_HOME nor HOME is set"),
      temporary: DiskProbe.examine(temporaryPath, byteCount: DiskProbe.touchBytes))
  }

  /// The best of three: other programs only ever make a measurement worse.
  private static func best(_ measure: () -> Double) -> Double { max(measure(), measure(), measure()) }

  private static func kernelRelease() -> String {
    var name = utsname()
    guard uname(&name) == 0 else { return "unknown" }
    func text<Field>(_ field: Field) -> String {
      withUnsafeBytes(of: field) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    }
    return "\(text(name.sysname)) \(text(name.release))"
  }
}

/// Writes, reads and removes a file to learn whether and how fast a directory works.
enum DiskProbe {
  /// Bytes that tell a rate within about a tenth on disks and SSDs.
  static let rateBytes = 64 << 20
  /// Bytes that only tell whether writing works.
  static let touchBytes = 4096

  private static let blockBytes = 1 << 20

  /// Examines `path`, or its nearest existing parent, with a file of `byteCount` bytes.
  static func examine(_ path: String, byteCount: Int) -> Diagnosis.Directory {
    let place = RunPreflight.nearestExisting(path)
    var result = Diagnosis.Directory(
      path: path, measuredAt: place, free: MachineProfile.freeDiskBytes(at: place), writeRate: nil,
      readRate: nil, failure: nil)
    var name = Array("\(place)/.hearth-doctor-XXXXXX".utf8CString)
    let descriptor = mkstemp(&name)
    guard descriptor >= 0 else {
      result.failure = String(cString: strerror(errno))
      return result
    }
    defer {
      close(descriptor)
      unlink(name)
    }
    // A tight disk is reported, not filled.
    if let free = result.free, free < 4 * byteCount {
      result.failure = free < touchBytes ? "the disk is full" : nil
      return result
    }
    if byteCount > touchBytes { settle(descriptor) }
    let writeStart = MonotonicClock.seconds()
    guard transfer(byteCount, { Glibc.write(descriptor, $0, $1) }), fdatasync(descriptor) == 0 else {
      result.failure = String(cString: strerror(errno))
      return result
    }
    let writeEnd = MonotonicClock.seconds()
    // Dropping clean pages makes the read reach the disk, or what the host of a virtual one caches.
    posix_fadvise(descriptor, 0, 0, Int32(POSIX_FADV_DONTNEED))
    lseek(descriptor, 0, SEEK_SET)
    let readStart = MonotonicClock.seconds()
    guard transfer(byteCount, { Glibc.read(descriptor, $0, $1) }) else {
      result.failure = String(cString: strerror(errno))
      return result
    }
    if byteCount >= rateBytes {
      result.writeRate = Double(byteCount) / max(writeEnd - writeStart, 1e-9)
      result.readRate = Double(byteCount) / max(MonotonicClock.seconds() - readStart, 1e-9)
    }
    return result
  }

  /// Leaves no older dirty pages of this file system to the first synchronisation that is timed.
  private static func settle(_ descriptor: Int32) { fsync(descriptor) }

  private static func transfer(
    _ byteCount: Int, _ call: (UnsafeMutableRawPointer, Int) -> Int
  ) -> Bool {
    let block = UnsafeMutableRawPointer.allocate(byteCount: blockBytes, alignment: 4096)
    defer { block.deallocate() }
    // Not zeros, which some file systems do not store.
    for index in 0..<blockBytes {
      block.storeBytes(
        of: UInt8(truncatingIfNeeded: index &* 31 &+ index >> 8), toByteOffset: index, as: UInt8.self)
    }
    var done = 0
    while done < byteCount {
      let count = call(block, min(blockBytes, byteCount - done))
      if count < 0 && errno == EINTR { continue }
      guard count > 0 else { return false }
      done += count
    }
    return true
  }
}
