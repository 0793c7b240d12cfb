/// Why a cache cannot be opened, written or read.
///
/// `description` is one line: what was wrong, where, and the next step.
package enum CacheFailure: Error, Equatable, CustomStringConvertible {
  /// The directory holds a cache of another model, tokenizer, length, element or tap set.
  case foreign(directory: String, differences: [CacheDifference])
  /// The cache was written in another version of the format.
  case unsupportedVersion(directory: String, found: Int, supported: Int)
  /// Files with the names of a cache's files are there, but nothing tells that they are one.
  case notACache(directory: String, file: String, reason: String)
  /// The disk is full: `needed` bytes did not fit; the `entries` written before stay readable.
  case diskFull(directory: String, needed: Int, entries: Int, reason: String)
  /// Another process uses the cache.
  case locked(directory: String, reason: String)
  /// The cache has as many shards as the format allows.
  case tooManyShards(directory: String, limit: Int)
  /// A file could not be read or written.
  case storage(directory: String, reason: String)

  /// One line for people: what, where, and the next step.
  package var description: String {
    switch self {
    case .foreign(let directory, let differences):
      "the activation cache in '\(directory)' is of another run ("
        + differences.map { "\($0.field): cache \($0.cache), run \($0.run)" }.joined(separator: "; ")
        + "); choose another cache directory or remove it"
    case .unsupportedVersion(let directory, let found, let supported):
      "the activation cache in '\(directory)' has format version \(found), this program reads \(supported)"
        + "; remove the cache, it is made anew"
    case .notACache(let directory, let file, let reason):
      "'\(directory)/\(file)' is not part of an activation cache: \(reason); choose another cache directory"
    case .diskFull(let directory, let needed, let entries, let reason):
      "the activation cache in '\(directory)' is full: the next \(needed) bytes do not fit, its \(entries) "
        + "entries stay (\(reason))"
    case .locked(_, let reason):
      reason
    case .tooManyShards(let directory, let limit):
      "the activation cache in '\(directory)' has reached \(limit) shards; remove it or choose another directory"
    case .storage(_, let reason):
      reason
    }
  }

  /// The failure of a storage operation that was to add nothing.
  init(_ failure: ShardStorageFailure, directory: String) {
    switch failure {
    case .full(let reason): self = .storage(directory: directory, reason: reason)
    case .locked(let reason): self = .locked(directory: directory, reason: reason)
    case .inputOutput(let reason): self = .storage(directory: directory, reason: reason)
    }
  }

  /// The failure of a storage operation that was to add `needed` bytes to a cache of `entries`.
  init(_ failure: ShardStorageFailure, directory: String, needed: Int, entries: Int) {
    if case .full(let reason) = failure {
      self = .diskFull(directory: directory, needed: needed, entries: entries, reason: reason)
    } else {
      self.init(failure, directory: directory)
    }
  }
}

/// Why bytes are not what the format says; the caller knows the file.
struct CacheFormatFailure: Error, Equatable {
  var reason: String
  var unsupportedVersion: Int?

  init(reason: String, unsupportedVersion: Int? = nil) {
    self.reason = reason
    self.unsupportedVersion = unsupportedVersion
  }
}
