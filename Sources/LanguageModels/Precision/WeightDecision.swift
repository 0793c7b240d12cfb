package import CryptoPrimitives
public import NeuralNetworks

/// Inputs of a matrix that stay float32 although the matrix does not.
public struct WeightColumns: Codable, Sendable, Equatable {
  /// The matrix's name.
  public var matrix: String
  /// Numbers of its inputs, ascending.
  public var columns: [Int]

  /// Inputs of a matrix.
  public init(matrix: String, columns: [Int]) {
    self.matrix = matrix
    self.columns = columns
  }
}

/// How a frozen backbone's matrices are kept: the precision, and what stays float32 all the same.
///
/// It is decided once, when an adapter is trained, and recorded with it: another machine keeps to the record, so that
/// an error near the bound cannot decide otherwise there.
public struct WeightDecision: Codable, Sendable, Equatable {
  /// Precision of the matrices that are not listed.
  public var precision: WeightPrecision
  /// Names of matrices that stay float32, in the backbone's order.
  public var float32Matrices: [String]
  /// Inputs of other matrices that stay float32 (int8 only), in the backbone's order.
  public var float32Columns: [WeightColumns]

  /// A precision with its exceptions.
  public init(
    precision: WeightPrecision, float32Matrices: [String], float32Columns: [WeightColumns] = []
  ) {
    self.precision = precision
    self.float32Matrices = float32Matrices
    self.float32Columns = float32Columns
  }

  /// Every matrix as it is trained.
  public static let float32 = WeightDecision(precision: .float32, float32Matrices: [])

  /// Identity of a backbone whose checkpoint has the digest `checkpoint` and whose matrices are kept so.
  ///
  /// In float32 it is the checkpoint's digest itself. The conversion is a function of the checkpoint and of this
  /// decision alone, so both together stand for the converted weights.
  package func identity(of checkpoint: ContentDigest) -> ContentDigest {
    guard precision != .float32 else { return checkpoint }
    var hasher = ContentHasher()
    hasher.update("hearth frozen weights")
    hasher.update(Self.conversionVersion)
    hasher.update(bytes: checkpoint.bytes)
    hasher.update(precision.rawValue)
    hasher.update(float32Matrices.count)
    for name in float32Matrices { hasher.update(name) }
    hasher.update(float32Columns.count)
    for part in float32Columns {
      hasher.update(part.matrix)
      hasher.update(part.columns.map(Int32.init(clamping:)))
    }
    return hasher.finalize()
  }

  /// Counts changes of the conversion that change a product's value.
  private static let conversionVersion = 1
}

/// Why a backbone cannot be kept as a decision says.
package enum PrecisionFailure: Error, Equatable, CustomStringConvertible {
  /// The decision names a matrix that the backbone does not have.
  case unknownMatrix(String)
  /// The decision names inputs that the matrix does not have.
  case unknownColumns(WeightColumns, inputs: Int)
  /// A matrix has more inputs than an int8 product can sum.
  case tooManyInputs(matrix: String, inputs: Int, limit: Int)
  /// A matrix holds a value that the precision cannot, and the decision does not keep it in float32.
  case misfit(matrix: String, precision: WeightPrecision, values: Int)

  /// One line: what was wrong, where, and the next step.
  package var description: String {
    switch self {
    case .unknownMatrix(let name):
      "the recorded precision names the matrix \(name), which the model does not have; use the model that the "
        + "adapter was trained on"
    case .unknownColumns(let part, let inputs):
      "the recorded precision names the inputs \(part.columns) of \(part.matrix), which has \(inputs); use the model "
        + "that the adapter was trained on"
    case .tooManyInputs(let matrix, let inputs, let limit):
      "\(matrix) has \(inputs) inputs and an int8 product sums at most \(limit); use --precision bfloat16"
    case .misfit(let matrix, let precision, let values):
      "\(values) values of \(matrix) do not fit \(precision.rawValue), and the recorded precision does not keep it in "
        + "float32; use the model that the adapter was trained on"
    }
  }
}
