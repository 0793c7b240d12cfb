package import CryptoPrimitives
import Glibc
package import HearthStorage
package import LanguageModels
package import MeshModel
package import TrainingCoordination
import WireCoding

/// What of a model's weights a device needs.
package struct WeightNeeds: Hashable, Sendable {
  /// Layers, counted through all stacks from the model's input; none for a device that reads cached taps only.
  package var layers: Range<Int>
  /// Whether it computes the model's output: the norm behind the last stack and, for texts, the scores of words.
  package var needsOutput: Bool

  /// Needs.
  package init(layers: Range<Int>, needsOutput: Bool) {
    self.layers = layers
    self.needsOutput = needsOutput
  }
}

/// A model directory of which only what a stage reads has been fetched; elsewhere its files have holes.
///
/// It has the layout of the owner's directory and is opened in the same way, by mapping. What lies in a hole reads as
/// zeros, so whoever uses the weights asks `check` first.
package struct SparseModel: Sendable {
  /// The directory.
  package let directory: String
  /// The files.
  package let listing: ModelListing
  private let store: BlobStore

  /// Offers a model directory to the devices of a job: the blob of its listing, and all blobs to admit.
  package static func offer(
    _ directory: String, store: BlobStore
  ) throws(WeightFailure) -> (listing: ContentDigest, byteCount: Int, blobs: [ContentDigest]) {
    let listing = try ModelListing(directory: directory, store: store)
    let bytes = listing.encoded
    let id = try inStore { () throws(BlobFailure) in try store.add(bytes: bytes) }
    return (id, bytes.count, [id] + listing.blobs)
  }

  /// Fetches what a device needs of a model into `directory`, whose names lead to the store's files.
  ///
  /// Configuration and tokenizer are fetched whole, of the weights the headers and the chunks that hold what is needed.
  /// `listed` is called when it is known which files there are, before any of them is fetched; `progress` is told the bytes of
  /// weights that are here, and that are needed.
  package static func obtain(
    _ listingID: ContentDigest, _ needs: WeightNeeds, for job: JobID, from sources: [DeviceID],
    by desk: BulkDesk, store: BlobStore, into directory: String,
    progress: @escaping @Sendable (_ fetched: UInt64, _ needed: UInt64) -> Void = { _, _ in },
    listed: @Sendable () async -> Void = {}
  ) async throws(WeightFailure) -> SparseModel {
    func fetch(_ id: ContentDigest, _ part: BlobPart) async throws(WeightFailure) {
      do throws(BlobFetchFailure) { try await desk.fetch(id, part: part, for: job, from: sources) } catch {
        throw .fetch(error)
      }
    }
    try await fetch(listingID, .all)
    let bytes = try inStore { () throws(BlobFailure) in
      try store.readAll(listingID, limit: ModelListingLimits.listing)
    }
    guard let listing = try? ModelListing(decoding: bytes) else {
      throw .blob(.malformed(path: "listing \(listingID)"))
    }
    await listed()
    for file in listing.files {
      guard file.holdsWeights else {
        try await fetch(file.blob, .all)
        continue
      }
      try await fetch(file.blob, .bytes([0..<Self.lengthBytes]))
      let header = try inStore { () throws(BlobFailure) in try headerRange(of: file, store) }
      try await fetch(file.blob, .bytes([header]))
    }
    let model = SparseModel(directory: directory, listing: listing, store: store)
    do throws(FileFailure) { try model.lay() } catch { throw .blob(.file(error)) }
    let parts = try model.parts(for: needs)
    let needed = parts.reduce(0) { $0 + $1.byteCount(in: store) }
    var before = 0
    for part in parts {
      let done = before
      let size = part.byteCount(in: store)
      do throws(BlobFetchFailure) {
        try await desk.fetch(part.file.blob, part: .bytes(part.ranges), for: job, from: sources) {
          progress(UInt64(done + size * $0 / max(1, $1)), UInt64(needed))
        }
      } catch { throw .fetch(error) }
      before += size
      progress(UInt64(before), UInt64(needed))
    }
    try model.check(needs)
    return model
  }

  /// Fails unless all that the needs take has been fetched and verified.
  package func check(_ needs: WeightNeeds) throws(WeightFailure) {
    for part in try parts(for: needs) {
      guard let manifest = store.manifest(of: part.file.blob), let held = store.held(of: part.file.blob)
      else {
        throw .missing(tensor: "the header", file: part.file.name)
      }
      for (name, range) in zip(part.tensors, part.ranges)
      where !held.isSuperset(of: BlobPart.bytes([range]).chunks(of: manifest)) {
        throw .missing(tensor: name, file: part.file.name)
      }
    }
  }

  // MARK: - Files

  /// Bytes of the length before a safetensors header.
  private static let lengthBytes = 8

  private static func headerRange(
    of file: ModelListing.File, _ store: BlobStore
  ) throws(BlobFailure) -> Range<Int> {
    let bytes = try store.read(0, of: file.blob)
    var reader = ByteReader(bytes)
    let length = (try? reader.integer("header length", as: UInt64.self)) ?? 0
    // Whether it is a header at all is judged when it is read.
    return 0..<Self.lengthBytes + Int(min(length, UInt64(SafetensorsLimits.headerBytes)))
  }

  /// Has the names of the directory lead to the store's files.
  private func lay() throws(FileFailure) {
    try createDirectory(directory, isPrivate: true)
    for file in listing.files {
      let path = "\(directory)/\(file.name)"
      let target: String
      do throws(BlobFailure) { target = try store.dataPath(of: file.blob) } catch {
        throw .system(operation: "find the blob of", path: path, code: ENOENT)
      }
      try removeFile(path)
      // A state directory may be given by a relative path.
      guard let absolute = realpath(target, nil) else {
        throw .system(operation: "find", path: target, code: errno)
      }
      defer { free(absolute) }
      guard symlink(absolute, path) == 0 else {
        throw .system(operation: "link", path: path, code: errno)
      }
    }
  }

  // MARK: - Needs

  /// What is needed of one file.
  private struct Part {
    let file: ModelListing.File
    var tensors: [String] = []
    var ranges: [Range<Int>] = []

    /// Bytes of the chunks that hold it.
    func byteCount(in store: BlobStore) -> Int {
      guard let manifest = store.manifest(of: file.blob) else { return 0 }
      return BlobPart.bytes(ranges).chunks(of: manifest).chunks.reduce(0) { $0 + manifest.range($1).count }
    }
  }

  private func parts(for needs: WeightNeeds) throws(WeightFailure) -> [Part] {
    let folder = ModelFolder(directory)
    do throws(ModelFailure) {
      let configuration = try ModelDirectory.loadConfiguration(folder)
      let places = TensorPlaces(configuration.architecture)
      var parts: [Part] = []
      for file in listing.files where file.holdsWeights {
        var part = Part(file: file)
        for entry in try Self.tensors(of: file.name, in: folder)
        where places.needs(needs, entry.name, shape: entry.shape) {
          part.tensors.append(entry.name)
          part.ranges.append(entry.byteRange)
        }
        parts.append(part)
      }
      return parts
    } catch { throw .model(error) }
  }

  private static func tensors(
    of name: String, in folder: ModelFolder
  ) throws(ModelFailure) -> [SafetensorsEntry] {
    do throws(CheckpointFailure) {
      guard let region = try folder.region(named: name) else {
        throw .unreadable(file: "\(folder.name)/\(name)", reason: "it is not there")
      }
      return try SafetensorsFile(region: region).tensors
    } catch { throw .checkpoint(error) }
  }
}

/// Which layer a tensor belongs to, by its name in Hugging Face checkpoints.
package struct TensorPlaces: Sendable {
  private let firstLayers: [Int]
  private let layerCount: Int
  private let vocabulary: Int

  /// The places in a model with these stacks.
  package init(_ architecture: BackboneArchitecture) {
    var first = 0
    firstLayers = architecture.stacks.map { stack in
      defer { first += stack.layers }
      return first
    }
    layerCount = first
    vocabulary = architecture.vocabulary
  }

  /// Whether a tensor is read by who has these needs; tensors outside all layers are small but for tables of words.
  package func needs(_ needs: WeightNeeds, _ name: String, shape: [Int]) -> Bool {
    if let layer = layer(of: name) { return needs.layers.contains(layer) }
    guard shape.count == 2, shape[0] == vocabulary else { return true }
    return needs.needsOutput || firstLayers.contains { needs.layers.contains($0) }
      || needs.layers.contains(layerCount - 1)
  }

  /// The layer, counted through all stacks; nil for what several layers read, or none.
  package func layer(of name: String) -> Int? {
    // T5's lies in block 0, and all blocks of the stack read it.
    if name.contains("relative_attention_bias") { return nil }
    let words = name.split(separator: ".")
    for place in words.indices.dropLast(2) {
      guard let stack = ["encoder", "decoder"].firstIndex(of: words[place]), stack < firstLayers.count,
        ["block", "layer", "layers"].contains(words[place + 1]), let layer = Int(words[place + 2])
      else { continue }
      return firstLayers[stack] + layer
    }
    return nil
  }
}

private func inStore<Value>(_ body: () throws(BlobFailure) -> Value) throws(WeightFailure) -> Value {
  do throws(BlobFailure) { return try body() } catch { throw .blob(error) }
}
