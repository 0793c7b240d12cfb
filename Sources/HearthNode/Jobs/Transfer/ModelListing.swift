package import CryptoPrimitives
package import HearthStorage
package import LanguageModels
package import WireCoding

/// The bounds of a model's listing.
package enum ModelListingLimits {
  /// Files of one model.
  package static let files = 1100
  /// Bytes of a file's name.
  package static let name = 255
  /// Bytes of a listing.
  package static let listing = 2 + files * (2 + name + 8 + 32)
}

/// The files of a model directory with the blobs that they are: what a job names as its model, itself kept as a blob.
package struct ModelListing: Hashable, Sendable, WireCodable {
  /// One file.
  package struct File: Hashable, Sendable {
    /// Its name in the directory.
    package let name: String
    /// Its length.
    package let byteCount: Int
    /// Its content.
    package let blob: ContentDigest

    /// Whether it holds weights, of which a device may need a part only.
    package var holdsWeights: Bool { name.hasSuffix(".safetensors") }
  }

  /// What a model directory may have beside weights, that loading it reads.
  private static let smallFiles = [
    "config.json", "dict.txt", "encoder.json", "generation_config.json", "merges.txt",
    "special_tokens_map.json",
    "spiece.model", "tokenizer.json", "tokenizer_config.json", "vocab.bpe", "vocab.json", "vocab.txt",
  ]
  private static let weights = "model.safetensors"
  private static let index = "model.safetensors.index.json"

  /// In ascending order of names.
  package let files: [File]

  /// Lists a model directory; its files become blobs of the store, without copies.
  ///
  /// Reads all weights once, which takes about a second for each gigabyte; a file that the store knows is not read.
  package init(directory: String, store: BlobStore) throws(WeightFailure) {
    var files: [File] = []
    for name in try Self.names(in: directory) {
      let blob: ContentDigest
      do throws(BlobFailure) { blob = try store.add(referenceTo: "\(directory)/\(name)") } catch {
        throw .blob(error)
      }
      guard let manifest = store.manifest(of: blob) else { throw .blob(.unknown(blob)) }
      files.append(File(name: name, byteCount: manifest.byteCount, blob: blob))
    }
    guard files.contains(where: \.holdsWeights), files.count <= ModelListingLimits.files else {
      throw .noModel(directory: directory)
    }
    self.files = files
  }

  /// Whether a directory holds the very files of the listing, as far as can be told without reading them.
  package func isUnchanged(in directory: String, store: BlobStore) -> Bool {
    guard let names = try? Self.names(in: directory), names == files.map(\.name) else { return false }
    return files.allSatisfy { store.id(ofUnchanged: "\(directory)/\($0.name)") == $0.blob }
  }

  /// The names of a directory's files that belong to a model.
  private static func names(in directory: String) throws(WeightFailure) -> [String] {
    let names: [String]
    do throws(FileFailure) { names = try directoryNames(directory) } catch { throw .blob(.file(error)) }
    let isSharded = !names.contains(weights)
    return names.filter { name in
      name == weights || smallFiles.contains(name)
        || isSharded && (name == index || name.hasSuffix(".safetensors"))
    }
  }

  /// Reads number u16 and for each file name, length u64 and blob 32.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    let count = try reader.count("files", limit: ModelListingLimits.files)
    var files: [File] = []
    for _ in 0..<count {
      let name = try reader.text("file name", limit: ModelListingLimits.name)
      // A name that leads elsewhere would have a file written there.
      guard !name.isEmpty, !name.hasPrefix("."), !name.utf8.contains(UInt8(ascii: "/")),
        !name.utf8.contains(0)
      else { throw .invalid(field: "file name", value: UInt64(name.utf8.count)) }
      if let last = files.last, last.name >= name { throw .notAscending(field: "files") }
      let byteCount = try reader.integer("file length", as: UInt64.self)
      guard byteCount <= UInt64(BlobLimits.chunks * BlobLimits.chunk) else {
        throw .overLimit(
          field: "file length", value: byteCount, limit: BlobLimits.chunks * BlobLimits.chunk)
      }
      guard let blob = ContentDigest(bytes: try reader.bytes("blob", count: ContentDigest.byteCount)) else {
        preconditionFailure("a digest of \(ContentDigest.byteCount) bytes was not taken")
      }
      files.append(File(name: name, byteCount: Int(byteCount), blob: blob))
    }
    self.files = files
  }

  /// Writes the same.
  package func encode(to writer: inout ByteWriter) {
    writer.count(files.count)
    for file in files {
      writer.text(file.name)
      writer.integer(UInt64(file.byteCount))
      writer.raw(file.blob.bytes)
    }
  }

  /// The blobs that a device of the job may ask for.
  package var blobs: [ContentDigest] { files.map(\.blob) }

  /// Takes on the files of a local directory that are the listing's, so that they are not fetched.
  ///
  /// Only files of the right name and length are read. Returns whether all are there.
  package func adopt(directory: String, into store: BlobStore) throws(WeightFailure) -> Bool {
    var isWhole = true
    for file in files {
      if store.isComplete(file.blob) { continue }
      let path = "\(directory)/\(file.name)"
      guard let found = try? OpenFile(path, .reading), (try? found.byteCount()) == file.byteCount else {
        isWhole = false
        continue
      }
      let blob: ContentDigest
      do throws(BlobFailure) { blob = try store.add(referenceTo: path) } catch { throw .blob(error) }
      if blob != file.blob { isWhole = false }
    }
    return isWhole
  }
}

/// Why a model's weights are not there for use.
package enum WeightFailure: UserFacingFailure, Equatable {
  /// The store refused.
  case blob(BlobFailure)
  /// No device gave what is needed.
  case fetch(BlobFetchFailure)
  /// The directory holds no model in safetensors.
  case noModel(directory: String)
  /// What was fetched is no model that Hearth reads.
  case model(ModelFailure)
  /// Some of the weights that the layers need have not been fetched.
  case missing(tensor: String, file: String)

  /// Decides the exit code.
  package var reason: ExitReason {
    switch self {
    case .blob: .cannotCreateOutput
    case .fetch: .unreachable
    case .noModel, .model, .missing: .badData
    }
  }

  /// What is wrong and the next step.
  package var description: String {
    switch self {
    case .blob(let failure): failure.description
    case .fetch(let failure): failure.description
    case .noModel(let directory):
      "\(directory) holds no model.safetensors and no shards; give the directory of a model"
    case .model(let failure): failure.description
    case .missing(let tensor, let file):
      "\(tensor) of \(file) has not been fetched; fetch the weights of the stage first"
    }
  }
}
