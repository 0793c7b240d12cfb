import ComputeRuntime
import TensorKernels

/// The worker's side of the line protocol: one line in, one line of JSON out.
///
/// After set-up it writes a `ready` answer. `step` runs a training step, `forward` a forward, `memory` tells what the
/// process holds, `quit` ends. scripts/benchmarks/pytorch_worker.py speaks the same.
package enum TechniqueWorkerService {
  /// What a worker says of itself.
  struct Ready: Codable, Equatable {
    /// Trained parameters.
    var trainableParameters: Int
    /// The memory that was planned; PyTorch plans none.
    var planned: PlannedMemory?
    /// The instruction set of our kernels.
    var kernels: String?
    /// Versions of the peer's libraries.
    var versions: [String: String]?
  }

  /// A step's or a forward's time; a peer's step is split.
  struct Timing: Codable, Equatable {
    var seconds: Double
    var forward: Double?
    var backward: Double?
    var update: Double?
  }

  /// What the process holds, in bytes.
  struct Memory: Codable, Equatable {
    var anonymousBytes: Int
    var fileBytes: Int
    var peakBytes: Int
  }

  /// Serves standard input until it ends.
  package static func run(_ measured: TechniqueCase, model: String, cachePath: String) throws {
    let blas = BLASCore.select()
    guard !blas.contradictsCPU else {
      throw RunFailure.badInput(role: "OpenBLAS core", path: blas.coreName, detail: blas.explanation)
    }
    let worker = try TechniqueWorker(measured, model: model, cachePath: cachePath)
    try answer(
      Ready(
        trainableParameters: worker.trainableParameters, planned: worker.planned,
        kernels: CPUFeatures.detect().kernelSet))
    while let line = readLine() {
      switch line {
      case "step": try answer(Timing(seconds: try worker.step()))
      case "forward": try answer(Timing(seconds: try worker.forward()))
      case "memory":
        guard let memory = ProcessMemory.current() else {
          throw RunFailure.missingInput(
            role: "memory figures", path: "/proc/self/status", detail: "this system does not tell")
        }
        try answer(
          Memory(
            anonymousBytes: memory.anonymous, fileBytes: memory.mapped, peakBytes: memory.peak))
      case "quit": return
      default:
        throw RunFailure.badInput(
          role: "worker's command", path: line, detail: "it is none of step, forward, memory, quit")
      }
    }
  }

  private static func answer(_ value: some Encodable) throws {
    try OutputStream.standard.write(try jsonLine(value) + "\n")
  }
}
