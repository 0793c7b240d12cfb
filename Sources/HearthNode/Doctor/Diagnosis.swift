/// One thing that is not as it should be, and what to do about it.
package struct Finding: Sendable, Codable, Equatable {
  /// How much it matters.
  package enum Severity: String, Sendable, Codable {
    /// Work is impossible until it is mended.
    case blocking
    /// Work goes on, slower or with less room.
    case advice
  }

  /// How much it matters.
  package var severity: Severity
  /// What is wrong.
  package var problem: String
  /// What to do about it.
  package var remedy: String

  /// A finding.
  package init(_ severity: Severity, _ problem: String, remedy: String) {
    self.severity = severity
    self.problem = problem
    self.remedy = remedy
  }
}

/// What `hearth doctor` measured, and what follows from it.
package struct Diagnosis: Sendable, Codable, Equatable {
  /// The processor and what this process may use of it.
  package struct Processor: Sendable, Codable, Equatable {
    /// Brand, as the CPU tells it.
    package var brand: String
    /// Instruction set architecture.
    package var architecture: String
    /// Kernel set in use, for instance "avx512".
    package var kernels: String
    /// Cores that are online.
    package var onlineCores: Int
    /// Cores that affinity and control groups leave to this process.
    package var usableCores: Int
    /// CPU quota of the control groups in cores; nil when there is none.
    package var coreQuota: Double?
    /// Measured rate of fused multiply-adds in registers, GFLOP/s of one core.
    package var peakGflops: Double

    /// A processor.
    package init(
      brand: String, architecture: String, kernels: String, onlineCores: Int, usableCores: Int,
      coreQuota: Double?, peakGflops: Double
    ) {
      self.brand = brand
      self.architecture = architecture
      self.kernels = kernels
      self.onlineCores = onlineCores
      self.usableCores = usableCores
      self.coreQuota = coreQuota
      self.peakGflops = peakGflops
    }
  }

  /// The linear algebra library.
  package struct LinearAlgebra: Sendable, Codable, Equatable {
    /// Name and version.
    package var library: String
    /// Core (kernel family) in use.
    package var core: String
    /// Core that the library had chosen itself, when Hearth changed it.
    package var changedFrom: String?
    /// True when the core in use cannot be right for this CPU.
    package var contradictsCpu: Bool
    /// Why the core is what it is.
    package var explanation: String
    /// Measured matrix multiplication in float32, GFLOP/s of one core; nil when the core contradicts the CPU,
    /// because such a number says nothing about this machine.
    package var gemmGflops: Double?

    /// A linear algebra library.
    package init(
      library: String, core: String, changedFrom: String?, contradictsCpu: Bool, explanation: String,
      gemmGflops: Double?
    ) {
      self.library = library
      self.core = core
      self.changedFrom = changedFrom
      self.contradictsCpu = contradictsCpu
      self.explanation = explanation
      self.gemmGflops = gemmGflops
    }
  }

  /// Memory in bytes.
  package struct Memory: Sendable, Codable, Equatable {
    /// The machine's, or the control group's when that is less.
    package var total: Int
    /// What can be had without swapping or reaching a limit.
    package var available: Int
    /// Limit of the control groups; nil when there is none.
    package var limit: Int?

    /// Memory in bytes.
    package init(total: Int, available: Int, limit: Int?) {
      self.total = total
      self.available = available
      self.limit = limit
    }
  }

  /// A directory that Hearth writes to.
  package struct Directory: Sendable, Codable, Equatable {
    /// The directory.
    package var path: String
    /// Where it was measured: the directory or, while it does not exist, its nearest existing parent.
    package var measuredAt: String
    /// Free bytes; nil when the kernel does not tell.
    package var free: Int?
    /// Bytes a second of a synchronised sequential write; nil when not measured.
    package var writeRate: Double?
    /// Bytes a second of a sequential read, the page cache dropped as far as the kernel permits.
    package var readRate: Double?
    /// Why it cannot be written; nil when it can.
    package var failure: String?

    /// A directory.
    package init(
      path: String, measuredAt: String, free: Int?, writeRate: Double?, readRate: Double?, failure: String?
    ) {
      self.path = path
      self.measuredAt = measuredAt
      self.free = free
      self.writeRate = writeRate
      self.readRate = readRate
      self.failure = failure
    }
  }

  /// Version of Hearth.
  package var version: String
  /// Name and release of the operating system's kernel.
  package var system: String
  /// The processor.
  package var processor: Processor
  /// The linear algebra library.
  package var linearAlgebra: LinearAlgebra
  /// Memory.
  package var memory: Memory
  /// The state directory.
  package var state: Directory
  /// The directory for temporary files.
  package var temporary: Directory
  /// The household and its network; nil when not looked at.
  package var mesh: MeshExamination?

  /// A diagnosis; `findings` follow from the measurements.
  package init(
    version: String, system: String, processor: Processor, linearAlgebra: LinearAlgebra, memory: Memory,
    state: Directory, temporary: Directory
  ) {
    self.version = version
    self.system = system
    self.processor = processor
    self.linearAlgebra = linearAlgebra
    self.memory = memory
    self.state = state
    self.temporary = temporary
  }
}
