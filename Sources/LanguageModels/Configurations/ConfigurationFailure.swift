/// Why a model's configuration cannot be used.
package enum ConfigurationFailure: Error, Equatable, CustomStringConvertible {
  /// The file is longer than any configuration.
  case tooLong(file: String, bytes: Int, limit: Int)
  /// The file is not a JSON object.
  case malformed(file: String, reason: String)
  /// A key that has no default is absent.
  case missing(file: String, key: String)
  /// The value of a key has the wrong JSON type.
  case wrongType(file: String, key: String, found: String, expected: String)
  /// The value of a key lies outside its range.
  case outOfRange(file: String, key: String, found: String, expected: String)
  /// The value of a key names something that Hearth does not implement.
  case unsupported(file: String, key: String, found: String, supported: [String])
  /// Two values of the configuration cannot both hold.
  case inconsistent(file: String, reason: String)
  /// The configuration asks for a tensor that the checkpoint does not have.
  case absentTensor(file: String, tensor: String, shape: [Int], because: String)
  /// The configuration and a tensor's shape cannot both hold.
  case contradiction(
    file: String, key: String, configured: Int, tensor: String, shape: [Int], expected: [Int])
  /// The weights have more blocks than the configuration.
  case surplusBlock(file: String, key: String, configured: Int, tensor: String)

  /// One line: what was wrong, where, and the next step.
  package var description: String {
    switch self {
    case .tooLong(let file, let bytes, let limit):
      "\(file) has \(bytes) bytes, the limit is \(limit); it is not a model configuration"
    case .malformed(let file, let reason):
      "\(file) is not a JSON object: \(reason); fetch it again"
    case .missing(let file, let key):
      "\(file): the key \(key) is missing; fetch the model's configuration again"
    case .wrongType(let file, let key, let found, let expected):
      "\(file): \(key) is \(found), expected \(expected); correct it"
    case .outOfRange(let file, let key, let found, let expected):
      "\(file): \(key) is \(found), expected \(expected); correct it"
    case .unsupported(let file, let key, let found, let supported):
      "\(file): \(key) is \"\(found)\", supported are \(supported.joined(separator: ", ")); choose such a model"
    case .inconsistent(let file, let reason):
      "\(file): \(reason); correct it"
    case .absentTensor(let file, let tensor, let shape, let because):
      "\(file): \(because), so the weights need a tensor \(tensor) of shape \(shape), which they do not hold"
        + "; use the configuration and the weights of one model"
    case .contradiction(let file, let key, let configured, let tensor, let shape, let expected):
      "\(file): \(key) is \(configured), but tensor \(tensor) has shape \(shape) where \(expected) is expected"
        + "; use the configuration and the weights of one model"
    case .surplusBlock(let file, let key, let configured, let tensor):
      "\(file): \(key) is \(configured), but the weights go on with tensor \(tensor)"
        + "; use the configuration and the weights of one model"
    }
  }
}
