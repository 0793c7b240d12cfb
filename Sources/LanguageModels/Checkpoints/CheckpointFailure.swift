/// Why a checkpoint's bytes cannot be used as weights.
///
/// Each case carries what was found and what was expected; `description` is one line that also says
/// what to do next.
package enum CheckpointFailure: Error, Equatable, CustomStringConvertible {
  /// The file ends before the part that is named.
  case truncated(file: String, part: String, needs: Int, has: Int)
  /// The header's length field is zero or beyond the limit.
  case headerLength(file: String, found: UInt64, limit: Int)
  /// The header is not the JSON that the format asks for.
  case malformedHeader(file: String, reason: String)
  /// Two entries of one header have the same name.
  case duplicateTensor(file: String, tensor: String)
  /// More tensors, dimensions or elements than the limit of that name.
  case limitExceeded(file: String, tensor: String, what: String, found: Int, limit: Int)
  /// The element type is not one that the format defines.
  case unknownElementType(file: String, tensor: String, found: String)
  /// The element type is known but holds no real numbers that could be weights.
  case notLoadable(file: String, tensor: String, elementType: String)
  /// The byte range is reversed, outside the data, or overlaps or leaves a gap before its neighbour.
  case byteRange(file: String, tensor: String, begin: Int, end: Int, reason: String)
  /// The byte range has another length than shape × element size.
  case byteCount(file: String, tensor: String, shape: [Int], elementType: String, found: Int, expected: Int)
  /// The file goes on after the last tensor.
  case trailingBytes(file: String, count: Int)
  /// No tensor has this name.
  case missingTensor(file: String, tensor: String, nearest: String?)
  /// The tensor has another shape than the caller needs.
  case wrongShape(file: String, tensor: String, found: [Int], expected: [Int])
  /// The index of a sharded checkpoint is not the JSON that it should be.
  case malformedIndex(file: String, reason: String)
  /// The index names a shard that is not there.
  case missingShard(index: String, shard: String)
  /// The index says that a shard holds the tensor, but it does not.
  case tensorNotInShard(index: String, tensor: String, shard: String)
  /// A shard holds a tensor that the index places in another shard or does not list.
  case unlistedTensor(index: String, tensor: String, shard: String)
  /// The bytes could not be had from storage.
  case unreadable(file: String, reason: String)

  /// One line: what was wrong, where, and the next step.
  package var description: String {
    switch self {
    case .truncated(let file, let part, let needs, let has):
      "\(file): \(part) needs \(needs) bytes but the file has \(has); it is truncated, fetch it again"
    case .headerLength(let file, let found, let limit):
      "\(file): the header length is \(found) bytes, expected 2 to \(limit); this is not a safetensors file"
        + ", check its name and fetch it again"
    case .malformedHeader(let file, let reason):
      "\(file): the safetensors header is malformed: \(reason); fetch the file again"
    case .duplicateTensor(let file, let tensor):
      "\(file): tensor \(tensor) is listed twice; write the file again with unique names"
    case .limitExceeded(let file, let tensor, let what, let found, let limit):
      "\(file): tensor \(tensor): \(what) is \(found), the limit is \(limit); the file is damaged or not a model"
    case .unknownElementType(let file, let tensor, let found):
      "\(file): tensor \(tensor) has dtype \(found), expected one of "
        + "\(TensorElement.allCases.map(\.rawValue).joined(separator: ", ")); convert the file to F32"
    case .notLoadable(let file, let tensor, let elementType):
      "\(file): tensor \(tensor) has dtype \(elementType), but weights must be F32, F16 or BF16"
        + "; convert the file to F32"
    case .byteRange(let file, let tensor, let begin, let end, let reason):
      "\(file): tensor \(tensor) lies at bytes \(begin)..<\(end) of the data, which \(reason); fetch the file again"
    case .byteCount(let file, let tensor, let shape, let elementType, let found, let expected):
      "\(file): tensor \(tensor) of \(elementType) \(shape) has \(found) bytes, expected \(expected)"
        + "; fetch the file again"
    case .trailingBytes(let file, let count):
      "\(file): \(count) bytes follow the last tensor, expected none; fetch the file again"
    case .missingTensor(let file, let tensor, let nearest):
      "\(file): there is no tensor \(tensor)"
        + (nearest.map { " (the nearest name is \($0))" } ?? "")
        + "; check that the checkpoint is of the architecture in config.json"
    case .wrongShape(let file, let tensor, let found, let expected):
      "\(file): tensor \(tensor) has shape \(found), expected \(expected); check that config.json belongs to it"
    case .malformedIndex(let file, let reason):
      "\(file): the index of shards is malformed: \(reason); fetch it again"
    case .missingShard(let index, let shard):
      "\(index) names \(shard), which is not there; fetch that shard into the same directory"
    case .tensorNotInShard(let index, let tensor, let shard):
      "\(index) places tensor \(tensor) in \(shard), which does not hold it; fetch index and shards of one version"
    case .unlistedTensor(let index, let tensor, let shard):
      "\(shard) holds tensor \(tensor), which \(index) does not place there; fetch index and shards of one version"
    case .unreadable(let file, let reason):
      "\(file) cannot be read: \(reason)"
    }
  }
}
