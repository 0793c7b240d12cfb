import FineTuning
import LanguageModels
import NeuralNetworks

extension TrainedTechnique {
  /// One stage of a pipeline that computes this technique.
  func stage(
    _ backbone: any Backbone, parameters: ParameterTree, layers: Range<Int>, capacity: MicroBatchCapacity,
    slots: Int, ahead: Int, workers: Int, dropoutSeed: UInt64
  ) -> any StageComputation {
    guard let sideShape else {
      return TunedStage(
        configuration: configuration, head: head, backbone: backbone, parameters: parameters, layers: layers,
        capacity: capacity, slots: slots, workers: workers, checkpointsActivations: checkpointsActivations,
        dropoutSeed: dropoutSeed, gradientPrecision: gradientPrecision)
    }
    return ParallelAdapterStage(
      shape: sideShape, backbone: backbone, parameters: parameters, layers: layers, element: element,
      capacity: capacity, slots: slots, ahead: ahead, workers: workers, gradientPrecision: gradientPrecision)
  }

  /// The trained leaves that a stage of these layers has to do with; the same on every device.
  func leaves(of layers: Range<Int>, in tree: ParameterTree, backbone: any Backbone) -> StageLeaves {
    guard let sideShape else {
      return StageLeaves(configuration, head: head, backbone: backbone, layers: layers, in: tree)
    }
    return StageLeaves(sideShape, layers: layers, in: tree)
  }
}
