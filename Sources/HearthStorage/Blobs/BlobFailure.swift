package import CryptoPrimitives

/// Why a blob could not be kept or read.
package enum BlobFailure: Error, Equatable, Sendable, CustomStringConvertible {
  /// The disk or the file system refused.
  case file(FileFailure)
  /// The store holds as much as it may. Bytes.
  case overBudget(directory: String, needed: Int, free: Int, budget: Int)
  /// There is no such blob here.
  case unknown(ContentDigest)
  /// The chunk has not been fetched yet.
  case missingChunk(ContentDigest, chunk: Int)
  /// The bytes are not those that the manifest names.
  case wrongBytes(ContentDigest, chunk: Int)
  /// The blob has another length than whoever named it said. Bytes.
  case otherLength(ContentDigest, found: Int, expected: Int)
  /// A file that a blob refers to was changed or removed.
  case changed(path: String)
  /// A file is too long for a blob. Bytes.
  case tooLarge(path: String, byteCount: Int, limit: Int)
  /// A file of the store cannot be read as what it should be.
  case malformed(path: String)
  /// There are as many blobs as the store may know.
  case tooMany(directory: String, limit: Int)

  /// What is wrong, where, and the next step.
  package var description: String {
    switch self {
    case .file(let failure): failure.description
    case .overBudget(let directory, let needed, let free, let budget):
      "\(directory) may hold \(budget >> 20) MiB, of which \(free >> 20) MiB are free; this takes "
        + "\(needed >> 20) MiB; end the jobs that need what is there"
    case .unknown(let id): "there is no blob \(id) here; fetch it again"
    case .missingChunk(let id, let chunk): "chunk \(chunk) of blob \(id) is not here; fetch it first"
    case .wrongBytes(let id, let chunk):
      "chunk \(chunk) of blob \(id) is not what its manifest names; fetch it from another device"
    case .otherLength(let id, let found, let expected):
      "blob \(id) has \(found) bytes where \(expected) were announced; bring all devices to one version of Hearth and run "
        + "the same command again"
    case .changed(let path):
      "\(path) has changed since it was offered to the other devices; submit the job again"
    case .tooLarge(let path, let byteCount, let limit):
      "\(path) has \(byteCount) bytes; a blob has at most \(limit)"
    case .malformed(let path): "\(path) cannot be read; remove it, and its blob is fetched again"
    case .tooMany(let directory, let limit):
      "\(directory) knows \(limit) blobs, the most it may; end old jobs"
    }
  }
}
