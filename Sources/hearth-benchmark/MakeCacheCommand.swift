import ActivationCache
import ArgumentParser
import ComputeRuntime
import FineTuning
import LanguageModels
import Synchronization
import TensorKernels

/// Fills the activation cache that cached steps of a workload read.
struct MakeCacheCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "make-cache",
    abstract: "Run the frozen backbone over a workload and write its taps to an activation cache.")

  @OptionGroup var options: WorkerOptions

  func run() throws {
    let workload = try WorkloadFile(path: options.workload)
    let model = try BenchmarkModel(directory: options.model)
    let shape = try model.sideNetwork(heads: 0)
    let cache = try model.cache(options.cachePath(workload), shape: shape)
    let architecture = model.backbone.architecture
    let batches = Array(workload.microBatches(of: options, architecture: architecture, draw: 0).joined())
    let capacity = MicroBatchCapacity(batches)
    let team = ComputeTeam(width: options.threads)
    let source = BackboneTapSource(
      shape: shape, backbone: model.backbone, cache: cache, capacity: capacity, workers: team.width)
    let buffers = (0..<team.width).map { _ in
      TapBuffer(shape: shape, element: BenchmarkModel.element, capacity: capacity)
    }
    let failure = Mutex<TrainingFailure?>(nil)
    team.forEach(batches.count) { piece, worker in
      do throws(TrainingFailure) {
        try source.load(batches[piece], into: buffers[worker], worker: worker)
      } catch {
        failure.withLock { $0 = $0 ?? error }
      }
    }
    if let failure = failure.withLock({ $0 }) { throw failure }
    try cache.flush()
  }
}
