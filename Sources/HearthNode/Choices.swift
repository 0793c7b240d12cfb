package import FineTuning
package import NeuralNetworks
package import TensorKernels

/// The named values of options whose types belong to other parts of the house.
package enum Choices {
  /// How a cached activation can be stored.
  package static let cacheElements = ActivationElement.allCases.map(\.rawValue)
  /// The formats of a file with rows and labels.
  package static let tableFormats = DataFormat.allCases.filter { $0 != .text }.map(\.rawValue)
  /// The formats of a file with texts to predict for.
  package static let textFormats = DataFormat.allCases.map(\.rawValue)
  /// The storage of a cached activation unless a person says otherwise.
  package static let defaultCacheElement = ActivationElement.float16.rawValue

  /// What the side network of an encoder can be asked for.
  package static let poolings = ParallelAdapterConfiguration.Pooling.allCases.map(\.rawValue)
  /// The pooling of that name.
  package static func pooling(_ name: String) -> ParallelAdapterConfiguration.Pooling? {
    ParallelAdapterConfiguration.Pooling(rawValue: name)
  }

  /// How a frozen backbone's matrices can be kept.
  package static let weightPrecisions = WeightPrecision.allCases.map(\.rawValue)
  /// The precision of this name.
  package static func weightPrecision(_ name: String) -> WeightPrecision? { WeightPrecision(rawValue: name) }

  /// How finely gradients can be rounded.
  package static let gradientPrecisions = GradientPrecision.allCases.map(\.rawValue)
  /// The precision of gradients unless a person says otherwise.
  package static let defaultGradientPrecision = GradientPrecision.full.rawValue
  /// The precision of gradients of this name.
  package static func gradientPrecision(_ name: String) -> GradientPrecision? {
    GradientPrecision(rawValue: name)
  }

  /// The layers that LoRA can add a pair to.
  package static let loraTargets = LoRATarget.allCases.map(\.rawValue)
  /// Those that get one unless a person says otherwise.
  package static let defaultLoRATargets = LoRAConfiguration().targets.map(\.rawValue)
  /// LoRA's rank unless a person says otherwise.
  package static let defaultRank = LoRAConfiguration().rank
  /// The techniques' learning rates, for a help text.
  package static let learningRates =
    RunTechnique.allCases.map { "\($0.rawValue) \($0.defaultLearningRate)" }.joined(separator: ", ")
  /// Most rows of a data file.
  package static let rowLimit = DataLimits().rows

  /// The storage of this name.
  package static func cacheElement(_ name: String) -> ActivationElement? { ActivationElement(rawValue: name) }

  /// The format of this name.
  package static func dataFormat(_ name: String) -> DataFormat? { DataFormat(rawValue: name) }
}
