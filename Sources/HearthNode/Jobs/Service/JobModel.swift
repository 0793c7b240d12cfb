import CryptoPrimitives
import FoundationEssentials
import Glibc
import HearthStorage
import MeshModel
import TrainingCoordination

/// The files of a job's model: offered by the owner as they lie there, fetched by the others.
enum JobModel {
  /// One file of a model's directory.
  private struct File: Codable {
    var name: String
    var byteCount: Int
    var blob: ContentDigest
  }

  /// Files of one model.
  private static let fileLimit = 512
  /// Bytes of an encoded listing.
  private static let listingLimit = 256 << 10

  /// Refers to every file of a model's directory, and keeps the list of them as a blob.
  ///
  /// Reads all files; not to be called on the cooperative pool.
  static func offer(
    _ directory: String, store: BlobStore
  ) throws -> (listing: BlobReference, blobs: [ContentDigest]) {
    var files: [File] = []
    for name in try directoryNames(directory) where !name.hasPrefix(".") && files.count < fileLimit {
      let path = "\(directory)/\(name)"
      // Directories and the like are no part of a model.
      guard let byteCount = regularFileBytes(path), byteCount > 0 else { continue }
      files.append(File(name: name, byteCount: byteCount, blob: try store.add(referenceTo: path)))
    }
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    let bytes = Array(try encoder.encode(files))
    let listing = try store.add(bytes: bytes)
    return (BlobReference(digest: listing, byteCount: UInt64(bytes.count)), [listing] + files.map(\.blob))
  }

  /// Fetches what a device's part of a plan needs into a directory that can be opened as a model's.
  ///
  /// - Parameters:
  ///   - layers: through all stacks from the model's input; none for a device that only trains from the cache.
  ///   - needsOutput: whether the model's output is computed here.
  static func obtain(
    _ listing: ContentDigest, layers: Range<Int>, needsOutput: Bool, job: JobID, from sources: [DeviceID],
    desk: BulkDesk, store: BlobStore, into directory: String,
    progress: @escaping @Sendable (_ fetched: UInt64, _ of: UInt64) -> Void
  ) async throws -> [ContentDigest] {
    try await desk.fetch(listing, for: job, from: sources)
    let bytes = try store.readAll(listing, limit: listingLimit)
    let files = try JSONDecoder().decode([File].self, from: Data(bytes))
    guard files.count <= fileLimit,
      files.allSatisfy({ !$0.name.contains("/") && !$0.name.hasPrefix(".") && $0.byteCount >= 0 })
    else { throw JobPackageFailure.damaged(detail: "the list of the model's files") }
    try createDirectory(directory, isPrivate: true)
    let total = files.reduce(0) { $0 + $1.byteCount }
    var before = 0
    for file in files {
      let start = before
      try await desk.fetch(file.blob, for: job, from: sources) { chunks, wanted in
        let done = wanted > 0 ? file.byteCount / wanted * chunks : 0
        progress(UInt64(start + min(done, file.byteCount)), UInt64(total))
      }
      before += file.byteCount
      try place(store.dataPath(of: file.blob), as: "\(directory)/\(file.name)")
    }
    progress(UInt64(total), UInt64(total))
    return [listing] + files.map(\.blob)
  }

  /// Gives a blob's file a name in the model's directory: a second name of the same file.
  private static func place(_ path: String, as name: String) throws(FileFailure) {
    try removeFile(name)
    guard link(path, name) == 0 else {
      throw .system(operation: "make a second name of", path: path, code: errno)
    }
  }

  private static func regularFileBytes(_ path: String) -> Int? {
    var status = stat()
    guard stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFREG else { return nil }
    return Int(status.st_size)
  }
}
