import ComputeRuntime
package import LanguageModels
package import NeuralNetworks
import TensorKernels

/// How the matrices of a model that is opened are to be kept.
package enum RequestedWeights: Sendable, Equatable {
  /// In this precision, but for what a calibration finds that it does not suit.
  case deciding(WeightPrecision)
  /// As was decided when an adapter was trained.
  case recorded(WeightDecision)

  /// As they are trained.
  package static let float32 = RequestedWeights.deciding(.float32)

  /// The precision of all matrices that are not excepted.
  package var precision: WeightPrecision {
    switch self {
    case .deciding(let precision): precision
    case .recorded(let decision): decision.precision
    }
  }

  /// The backbone with its matrices so, or nil when they stay as they are.
  func convert(
    _ backbone: any Backbone, tokenizer: any Tokenizer, checkpoint: Checkpoint
  ) throws -> ConvertedBackbone? {
    guard precision != .float32 else { return nil }
    _ = BLASCore.select()
    let team = ComputeTeam(width: MachineProfile.current().usableCores)
    let conversion = PrecisionConversion(backbone, loop: team, layerDone: checkpoint.releaseResidentPages)
    switch self {
    case .deciding(let precision):
      return conversion.deciding(
        precision, calibration: [CalibrationText.batch(tokenizer, backbone.architecture)])
    case .recorded(let decision): return try conversion.following(decision)
    }
  }
}

/// What a person wants to know of a backbone in another precision.
package struct WeightReport: Sendable, Codable, Equatable {
  /// The precision of all matrices that are not excepted.
  package var precision: String
  /// Matrices of the backbone's blocks.
  package var matrices: Int
  /// Names of those that stay float32.
  package var float32Matrices: [String]
  /// Inputs of the other matrices that stay float32, all together.
  package var float32Columns: Int
  /// Bytes of the backbone in memory.
  package var bytes: Int
  /// The largest relative error of a converted product in the calibration; nil where none was made.
  package var largestError: Double?

  /// What a conversion found.
  package init(_ converted: ConvertedBackbone) {
    precision = converted.decision.precision.rawValue
    matrices = converted.matrices.count
    float32Matrices = converted.decision.float32Matrices
    float32Columns = converted.decision.float32Columns.reduce(0) { $0 + $1.columns.count }
    bytes = converted.convertedBytes + converted.otherBytes
    largestError = converted.matrices.filter { !$0.isKept }.compactMap(\.relativeError).max()
  }

  /// One line: "int8 in 36 matrices, 9 of their input columns in float32".
  package var text: String {
    let kept = float32Matrices.count
    var text = "\(precision) in \(matrices - kept) matrices"
    if kept > 0 { text += ", \(kept) stay float32" }
    if float32Columns > 0 { text += ", \(float32Columns) input columns in float32" }
    return text
  }
}

/// Why frozen weights cannot be kept, or gradients rounded, as asked.
package enum PrecisionRequestFailure: UserFacingFailure, Equatable {
  /// The technique computes gradients through the backbone.
  case technique(name: String, precision: String)
  /// The technique's gradient sums know one precision only.
  case gradients(technique: String, precision: String)

  /// Decides the exit code.
  package var reason: ExitReason { .usage }

  /// One line: what was wrong, where, and the next step.
  package var description: String {
    switch self {
    case .technique(let name, let precision):
      "--precision \(precision) is for backbones that run forward only, and --technique \(name) also goes back "
        + "through them; use --technique parallel or --precision float32"
    case .gradients(let technique, let precision):
      "--gradient-precision \(precision) is not for --technique \(technique): its sums have 32 bits and an exponent a "
        + "layer already; use \(RunTechnique.allCases.filter(\.hasCoarseGradients).map(\.rawValue).joined(separator: ", ")) "
        + "or leave the option out"
    }
  }
}

extension TrainRequest {
  /// Refuses a precision that the technique cannot use.
  package func checkPrecision() throws(PrecisionRequestFailure) {
    if let gradientPrecision, gradientPrecision != .full, !technique.hasCoarseGradients {
      throw .gradients(technique: technique.rawValue, precision: gradientPrecision.rawValue)
    }
    guard let precision, precision != .float32, technique != .parallel else { return }
    throw .technique(name: technique.rawValue, precision: precision.rawValue)
  }

  /// How the backbone's matrices are to be kept.
  var requestedWeights: RequestedWeights { .deciding(precision ?? .float32) }
}

extension PrecisionFailure: UserFacingFailure {
  /// A record that does not fit the model is a mismatch.
  package var reason: ExitReason { .mismatch }
}
