import DistributedTraining
import FineTuning
import LanguageModels
import NeuralNetworks

extension TrainedTechnique {
  /// One stage of a pipeline that computes this technique.
  func stage(
    _ backbone: any Backbone, parameters: ParameterTree, layers: Range<Int>, capacity: MicroBatchCapacity,
    slots: Int, workers: Int, dropoutSeed: UInt64
  ) throws -> any StageComputation {
    guard let sideShape else {
      throw DistributedRunFailure.unfitPlan("no stages of \(configuration.name) yet")
    }
    return ParallelAdapterStage(
      shape: sideShape, backbone: backbone, parameters: parameters, layers: layers, element: element,
      capacity: capacity, slots: slots, workers: workers)
  }
}
