package import CryptoPrimitives
import Synchronization
import WireCoding

/// The blobs of this device: whole files, files in the making, and files elsewhere that are only referred to.
///
/// Each has a directory in `blobs/` of the state directory, named by the digest of its manifest. A chunk is written only
/// when it is what the manifest names. What a crash left of a blob is verified again before it counts, so nothing is
/// synchronised on the way.
package final class BlobStore: Sendable {
  /// The directory's name in the state directory.
  package static let name = "blobs"

  /// Where a blob's bytes are.
  private enum Place {
    /// In the store.
    case own
    /// In a file elsewhere, as long as it does not change.
    case reference(path: String, FileStamp)
  }

  private struct Blob {
    let manifest: BlobManifest
    let place: Place
    let file: OpenFile
    var held: BlobChunks

    /// Bytes that the store's disk gives for it.
    var ownBytes: Int {
      guard case .own = place else { return 0 }
      return held.chunks.reduce(0) { $0 + manifest.range($1).count }
    }
  }

  private struct State {
    var blobs: [ContentDigest: Blob] = [:]
    var usedBytes = 0
  }

  /// The path of the directory.
  package let path: String
  /// Bytes that chunks in the store may take.
  package let budget: Int
  private let state = Mutex(State())
  /// Held while blobs come and go, so that two threads never make or remove one at once.
  private let change = Mutex(())

  /// Opens the store in a state directory, and makes it if there is none.
  ///
  /// What is there is verified, which takes about a second for each gigabyte.
  package init(stateDirectory: String, budget: Int) throws(BlobFailure) {
    path = "\(stateDirectory)/\(Self.name)"
    self.budget = budget
    let path = path
    let names = try inBlobs { () throws(FileFailure) in
      try createDirectory(path, isPrivate: true)
      return try directoryNames(path)
    }
    for name in names {
      guard let id = ContentDigest(hexadecimal: name) else { continue }
      // A blob that cannot be read is fetched again; it must not keep the daemon from starting.
      guard let blob = try? load(id) else {
        try erase(id)
        continue
      }
      state.withLock { state in
        state.usedBytes += blob.ownBytes
        state.blobs[id] = blob
      }
    }
  }

  // MARK: - What is there

  /// The blobs that are known, in ascending order.
  package var ids: [ContentDigest] { state.withLock { $0.blobs.keys.sorted() } }
  /// Bytes of the chunks in the store.
  package var usedBytes: Int { state.withLock { $0.usedBytes } }

  /// The manifest of a blob; nil when it is not known here.
  package func manifest(of id: ContentDigest) -> BlobManifest? { state.withLock { $0.blobs[id]?.manifest } }

  /// The chunks of a blob that are here; nil when it is not known here.
  package func held(of id: ContentDigest) -> BlobChunks? { state.withLock { $0.blobs[id]?.held } }

  /// Whether all of a blob is here.
  package func isComplete(_ id: ContentDigest) -> Bool {
    held(of: id).map { $0.population == $0.count } ?? false
  }

  /// The file with the bytes of a blob; holes where chunks are not here.
  package func dataPath(of id: ContentDigest) throws(BlobFailure) -> String { try blob(id).file.path }

  /// A chunk's bytes.
  package func read(_ chunk: Int, of id: ContentDigest) throws(BlobFailure) -> [UInt8] {
    let blob = try blob(id)
    guard blob.held.contains(chunk) else { throw .missingChunk(id, chunk: chunk) }
    if case .reference(let path, let stamp) = blob.place {
      let now = try inBlobs { () throws(FileFailure) in try blob.file.stamp() }
      guard now == stamp else { throw .changed(path: path) }
    }
    return try Self.bytes(blob.manifest.range(chunk), of: blob.file)
  }

  /// All bytes of a blob, verified again; at most `limit`.
  package func readAll(_ id: ContentDigest, limit: Int) throws(BlobFailure) -> [UInt8] {
    let manifest = try blob(id).manifest
    guard manifest.byteCount <= limit else {
      throw .tooLarge(path: "blob \(id)", byteCount: manifest.byteCount, limit: limit)
    }
    var bytes: [UInt8] = []
    bytes.reserveCapacity(manifest.byteCount)
    try forEachChunk(of: id, manifest) { bytes += $0 }
    return bytes
  }

  /// The file with the bytes of a blob of exactly that length, all verified again.
  package func verifiedPath(of id: ContentDigest, byteCount: Int) throws(BlobFailure) -> String {
    let blob = try blob(id)
    guard blob.manifest.byteCount == byteCount else {
      throw .otherLength(id, found: blob.manifest.byteCount, expected: byteCount)
    }
    try forEachChunk(of: id, blob.manifest) { _ in }
    return blob.file.path
  }

  private func forEachChunk(
    of id: ContentDigest, _ manifest: BlobManifest, _ body: ([UInt8]) -> Void
  ) throws(BlobFailure) {
    for chunk in 0..<manifest.chunkCount {
      let part = try read(chunk, of: id)
      guard manifest.verifies(part, as: chunk) else { throw .wrongBytes(id, chunk: chunk) }
      body(part)
    }
  }

  private func blob(_ id: ContentDigest) throws(BlobFailure) -> Blob {
    guard let blob = state.withLock({ $0.blobs[id] }) else { throw .unknown(id) }
    return blob
  }

  // MARK: - Adding

  /// Takes a file on as it lies there, without a copy; it must not change as long as the blob is offered.
  ///
  /// A file that is known already is not read again.
  package func add(referenceTo path: String) throws(BlobFailure) -> ContentDigest {
    let (file, stamp) = try inBlobs { () throws(FileFailure) in
      let file = try OpenFile(path, .reading)
      return (file, try file.stamp())
    }
    if let known = known(path, stamp) { return known }
    let manifest = try Self.manifest(of: file, stamp.byteCount)
    let id = manifest.id
    return try change.withLock { _ throws(BlobFailure) in
      if isComplete(id) { return id }
      if self.manifest(of: id) != nil { try forget(id) }
      try make(id, manifest)
      var writer = ByteWriter()
      writer.integer(UInt64(stamp.byteCount))
      writer.integer(stamp.inode)
      writer.integer(UInt64(bitPattern: stamp.modified))
      writer.text(path)
      try write(writer.bytes, to: Self.referenceFile, of: id)
      enter(
        Blob(
          manifest: manifest, place: .reference(path: path, stamp), file: file,
          held: BlobChunks(all: manifest.chunkCount)), id)
      return id
    }
  }

  /// The blob that a file was taken on as, if it is still as it was then; it is not read.
  package func id(ofUnchanged path: String) -> ContentDigest? {
    (try? OpenFile(path, .reading).stamp()).flatMap { known(path, $0) }
  }

  private func known(_ path: String, _ stamp: FileStamp) -> ContentDigest? {
    state.withLock { state in
      state.blobs.keys.sorted().first { id in
        guard case .reference(path, stamp)? = state.blobs[id]?.place else { return false }
        return true
      }
    }
  }

  /// Keeps bytes.
  package func add(bytes: [UInt8]) throws(BlobFailure) -> ContentDigest {
    try bytes.withUnsafeBufferPointer { bytes throws(BlobFailure) in
      try add(memory: UnsafeRawBufferPointer(bytes))
    }
  }

  /// Keeps the bytes of some memory, which it reads twice from the first to the last.
  ///
  /// - Parameter passed: told every range once it was read, so that its pages may leave memory meanwhile.
  package func add(
    memory bytes: UnsafeRawBufferPointer, passed: (Range<Int>) -> Void = { _ in }
  ) throws(BlobFailure) -> ContentDigest {
    func chunk(_ range: Range<Int>) -> UnsafeRawBufferPointer { .init(rebasing: bytes[range]) }
    let digests = stride(from: 0, to: bytes.count, by: BlobLimits.chunk).map {
      let range = $0..<min(bytes.count, $0 + BlobLimits.chunk)
      defer { passed(range) }
      return ContentDigest(of: chunk(range))
    }
    let manifest = BlobManifest(byteCount: bytes.count, digests: digests)
    let id = manifest.id
    try begin(manifest, for: BlobChunks(all: manifest.chunkCount))
    // The digests are of this very memory, which does not change meanwhile.
    for number in 0..<manifest.chunkCount {
      let range = manifest.range(number)
      try keep(chunk(range), as: number, of: id, in: blob(id))
      passed(range)
    }
    return id
  }

  /// Makes room for chunks of a blob that are to be written; nothing but a check when the blob is known.
  package func begin(_ manifest: BlobManifest, for wanted: BlobChunks) throws(BlobFailure) {
    let id = manifest.id
    try change.withLock { _ throws(BlobFailure) in
      let missing = held(of: id).map(wanted.subtracting) ?? wanted
      let needed = missing.chunks.reduce(0) { $0 + manifest.range($1).count }
      let path = path
      let onDisk = try inBlobs { () throws(FileFailure) in try freeDiskBytes(path) }
      let free = min(budget - usedBytes, onDisk)
      guard needed <= free else {
        throw .overBudget(directory: path, needed: needed, free: max(0, free), budget: budget)
      }
      guard self.manifest(of: id) == nil else { return }
      try make(id, manifest)
      let held = BlobChunks(none: manifest.chunkCount)
      try write(held.bits, to: Self.heldFile, of: id)
      let file = try inBlobs { () throws(FileFailure) in
        let file = try OpenFile("\(directory(id))/\(Self.dataFile)", .updating)
        try file.truncate(to: manifest.byteCount)
        return file
      }
      enter(Blob(manifest: manifest, place: .own, file: file, held: held), id)
    }
  }

  /// Keeps a chunk of a blob that was begun, if it is what the manifest names.
  package func write(_ hashed: HashedChunk, as chunk: Int, of id: ContentDigest) throws(BlobFailure) {
    let blob = try blob(id)
    guard blob.manifest.verifies(hashed, as: chunk) else { throw .wrongBytes(id, chunk: chunk) }
    try hashed.bytes.withUnsafeBufferPointer { bytes throws(BlobFailure) in
      try keep(UnsafeRawBufferPointer(bytes), as: chunk, of: id, in: blob)
    }
  }

  /// Keeps a chunk that is what the manifest names, unless it is here.
  private func keep(
    _ bytes: UnsafeRawBufferPointer, as chunk: Int, of id: ContentDigest, in blob: Blob
  ) throws(BlobFailure) {
    guard case .own = blob.place, !blob.held.contains(chunk) else { return }
    let used = usedBytes
    guard used + bytes.count <= budget else {
      throw .overBudget(directory: path, needed: bytes.count, free: max(0, budget - used), budget: budget)
    }
    try inBlobs { () throws(FileFailure) in
      try blob.file.write(bytes, at: blob.manifest.range(chunk).lowerBound)
    }
    let bits: UInt8? = state.withLock { state in
      guard var known = state.blobs[id], !known.held.contains(chunk) else { return nil }
      known.held.insert(chunk)
      state.usedBytes += bytes.count
      state.blobs[id] = known
      return known.held.bits(with: chunk)
    }
    guard let bits else { return }
    let name = "\(directory(id))/\(Self.heldFile)"
    try inBlobs { () throws(FileFailure) in
      let file = try OpenFile(name, .updating)
      // A byte of its own: what another thread writes beside it stays.
      try [bits].withUnsafeBufferPointer { buffer throws(FileFailure) in
        try file.write(UnsafeRawBufferPointer(buffer), at: chunk / 8)
      }
    }
  }

  /// Forgets a blob and removes its bytes; a file that it only referred to stays.
  package func remove(_ id: ContentDigest) throws(BlobFailure) {
    try change.withLock { _ throws(BlobFailure) in try forget(id) }
  }

  private func forget(_ id: ContentDigest) throws(BlobFailure) {
    state.withLock { state in
      if let blob = state.blobs.removeValue(forKey: id) { state.usedBytes -= blob.ownBytes }
    }
    try erase(id)
  }

  // MARK: - Files

  private static let manifestFile = "manifest"
  private static let dataFile = "data"
  private static let heldFile = "held"
  private static let referenceFile = "reference"
  /// Longest path of a reference (PATH_MAX).
  private static let pathLimit = 4096

  private func directory(_ id: ContentDigest) -> String { "\(path)/\(id)" }

  private func enter(_ blob: Blob, _ id: ContentDigest) { state.withLock { $0.blobs[id] = blob } }

  private func make(_ id: ContentDigest, _ manifest: BlobManifest) throws(BlobFailure) {
    guard state.withLock({ $0.blobs.count }) < BlobLimits.blobs else {
      throw .tooMany(directory: path, limit: BlobLimits.blobs)
    }
    let directory = directory(id)
    try inBlobs { () throws(FileFailure) in try createDirectory(directory, isPrivate: true) }
    try write(manifest.encoded, to: Self.manifestFile, of: id)
  }

  private func write(_ bytes: [UInt8], to name: String, of id: ContentDigest) throws(BlobFailure) {
    let path = "\(directory(id))/\(name)"
    try inBlobs { () throws(FileFailure) in try AtomicFile.write(bytes, to: path, permissions: 0o600) }
  }

  private func erase(_ id: ContentDigest) throws(BlobFailure) {
    let directory = directory(id)
    try inBlobs { () throws(FileFailure) in
      for name in try directoryNames(directory) { try removeFile("\(directory)/\(name)") }
      try removeEmptyDirectory(directory)
    }
  }

  /// Reads what an earlier run left of a blob.
  private func load(_ id: ContentDigest) throws(BlobFailure) -> Blob {
    let directory = directory(id)
    func read(_ name: String, limit: Int) throws(BlobFailure) -> [UInt8] {
      try inBlobs { () throws(FileFailure) in try readWholeFile("\(directory)/\(name)", limit: limit) }
    }
    let encoded = try read(Self.manifestFile, limit: BlobManifest.encodedLimit)
    guard let manifest = try? BlobManifest(decoding: encoded), ContentDigest(of: encoded) == id else {
      throw .malformed(path: "\(directory)/\(Self.manifestFile)")
    }
    if let bytes = try? read(Self.referenceFile, limit: 32 + Self.pathLimit) {
      return try load(reference: bytes, manifest, directory)
    }
    let bits = try read(Self.heldFile, limit: BlobLimits.chunks / 8)
    guard var held = BlobChunks(bits: bits, count: manifest.chunkCount) else {
      throw .malformed(path: "\(directory)/\(Self.heldFile)")
    }
    let file = try inBlobs { () throws(FileFailure) in
      try OpenFile("\(directory)/\(Self.dataFile)", .updating)
    }
    for chunk in held.chunks {
      let bytes = try Self.bytes(manifest.range(chunk), of: file)
      if !manifest.verifies(bytes, as: chunk) { held.remove(chunk) }
    }
    return Blob(manifest: manifest, place: .own, file: file, held: held)
  }

  private func load(
    reference bytes: [UInt8], _ manifest: BlobManifest, _ directory: String
  ) throws(BlobFailure) -> Blob {
    var reader = ByteReader(bytes)
    guard let byteCount: UInt64 = try? reader.integer("length"),
      let inode: UInt64 = try? reader.integer("inode"),
      let modified: UInt64 = try? reader.integer("modified"),
      let path = try? reader.text("path", limit: Self.pathLimit)
    else { throw .malformed(path: "\(directory)/\(Self.referenceFile)") }
    let stamp = FileStamp(
      byteCount: Int(clamping: byteCount), inode: inode, modified: Int64(bitPattern: modified))
    let (file, now) = try inBlobs { () throws(FileFailure) in
      let file = try OpenFile(path, .reading)
      return (file, try file.stamp())
    }
    guard now == stamp else { throw .changed(path: path) }
    return Blob(
      manifest: manifest, place: .reference(path: path, stamp), file: file,
      held: BlobChunks(all: manifest.chunkCount))
  }

  private static func manifest(of file: OpenFile, _ byteCount: Int) throws(BlobFailure) -> BlobManifest {
    let limit = BlobLimits.chunks * BlobLimits.chunk
    guard byteCount <= limit else {
      throw .tooLarge(path: file.path, byteCount: byteCount, limit: limit)
    }
    var digests: [ContentDigest] = []
    for first in stride(from: 0, to: byteCount, by: BlobLimits.chunk) {
      let range = first..<min(byteCount, first + BlobLimits.chunk)
      digests.append(ContentDigest(of: try bytes(range, of: file)))
    }
    return BlobManifest(byteCount: byteCount, digests: digests)
  }

  private static func bytes(_ range: Range<Int>, of file: OpenFile) throws(BlobFailure) -> [UInt8] {
    try inBlobs { () throws(FileFailure) in
      var bytes = [UInt8](repeating: 0, count: range.count)
      let count = try bytes.withUnsafeMutableBufferPointer { buffer throws(FileFailure) in
        try file.read(at: range.lowerBound, into: UnsafeMutableRawBufferPointer(buffer))
      }
      guard count == range.count else {
        throw .shortened(path: file.path, expected: range.upperBound, found: range.lowerBound + count)
      }
      return bytes
    }
  }
}

/// Runs file work as a part of the store's.
private func inBlobs<Value>(_ body: () throws(FileFailure) -> Value) throws(BlobFailure) -> Value {
  do throws(FileFailure) { return try body() } catch { throw .file(error) }
}
