package import CryptoPrimitives
package import NeuralNetworks
import Synchronization
import TensorKernels

#if _endian(big)
  #error("safetensors holds little-endian numbers, which this reader borrows in place")
#endif

/// The weights of one model, in one safetensors file or in several shards.
///
/// A float32 tensor is borrowed in place from its region; other loadable types are converted once, into
/// memory that the checkpoint owns. Borrowed pointers stay valid while any copy of the checkpoint lives, so
/// whoever stores a pointer stores the checkpoint beside it.
package struct Checkpoint: Sendable {
  /// What to call the whole in an error: the file, or the index of the shards.
  package let name: String
  private let files: [SafetensorsFile]
  private let fileByTensor: [String: Int]
  private let owned = OwnedTensors()
  private var defersDecoding = false

  /// The checkpoint that is one file.
  package init(region: any ByteRegion) throws(CheckpointFailure) {
    let file = try SafetensorsFile(region: region)
    name = region.name
    files = [file]
    fileByTensor = Dictionary(uniqueKeysWithValues: file.tensors.map { ($0.name, 0) })
  }

  /// The checkpoint whose shards a `model.safetensors.index.json` names; `open` gives a shard or nil.
  package init(
    index: any ByteRegion, open: (String) throws(CheckpointFailure) -> (any ByteRegion)?
  ) throws(CheckpointFailure) {
    let parsed = try ShardIndex(region: index)
    var files: [SafetensorsFile] = []
    var fileByTensor: [String: Int] = [:]
    for shard in parsed.shards {
      guard let region = try open(shard) else {
        throw .missingShard(index: index.name, shard: shard)
      }
      let file = try SafetensorsFile(region: region)
      for tensor in file.tensors {
        guard parsed.shardByTensor[tensor.name] == shard else {
          throw .unlistedTensor(index: index.name, tensor: tensor.name, shard: shard)
        }
        fileByTensor[tensor.name] = files.count
      }
      files.append(file)
    }
    for tensor in parsed.tensors where fileByTensor[tensor] == nil {
      throw .tensorNotInShard(
        index: index.name, tensor: tensor, shard: parsed.shardByTensor[tensor] ?? "no shard")
    }
    name = index.name
    self.files = files
    self.fileByTensor = fileByTensor
  }

  /// Every tensor's name, in the order of their UTF-8 bytes.
  package var names: [String] {
    files.flatMap { $0.tensors.map(\.name) }.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
  }

  /// True when there is a tensor of this name.
  package func contains(_ tensor: String) -> Bool { fileByTensor[tensor] != nil }

  /// The header entry of a tensor: its type, shape and bytes' place.
  package func entry(_ tensor: String) -> SafetensorsEntry? {
    fileByTensor[tensor].flatMap { files[$0].tensor(tensor) }
  }

  /// Number of weights in all tensors of a loadable type.
  package var parameterCount: Int {
    files.reduce(0) { $0 + $1.tensors.reduce(0) { $0 + ($1.element.isLoadable ? $1.elementCount : 0) } }
  }

  /// Bytes of all files.
  package var byteCount: Int { files.reduce(0) { $0 + $1.region.bytes.count } }

  /// The values of a tensor as float32, row-major; the shape must be exactly `shape`.
  ///
  /// The pointer is read-only and stays valid while the checkpoint is kept.
  package func float32(named tensor: String, shape: [Int]) throws(CheckpointFailure) -> UnsafePointer<Float> {
    guard let fileIndex = fileByTensor[tensor], let entry = files[fileIndex].tensor(tensor) else {
      throw .missingTensor(file: name, tensor: tensor, nearest: nearestName(to: tensor))
    }
    let file = files[fileIndex]
    guard entry.shape == shape else {
      throw .wrongShape(file: file.region.name, tensor: tensor, found: entry.shape, expected: shape)
    }
    guard entry.element.isLoadable else {
      throw .notLoadable(file: file.region.name, tensor: tensor, elementType: entry.element.rawValue)
    }
    let bytes = file.bytes(of: entry)
    if entry.element == .float32, let base = bytes.baseAddress,
      Int(bitPattern: base) % MemoryLayout<Float>.alignment == 0
    {
      return base.assumingMemoryBound(to: Float.self)
    }
    return owned.values(of: tensor) { destination in
      entry.element.decode(bytes, into: destination)
    } count: {
      entry.elementCount
    }
  }

  /// The same checkpoint, whose 16-bit matrices a backbone reads as they are stored, where it can.
  package var deferringDecoding: Checkpoint {
    var copy = self
    copy.defersDecoding = true
    return copy
  }

  /// A matrix that is stored in 16 bits, as it is; nil for other types, or when this checkpoint decodes at once.
  package func deferred(named tensor: String, shape: [Int]) throws(CheckpointFailure) -> (any DeferredValues)?
  {
    guard defersDecoding, shape.count == 2, let fileIndex = fileByTensor[tensor],
      let entry = files[fileIndex].tensor(tensor), entry.shape == shape
    else { return nil }
    let format: HalfFormat
    switch entry.element {
    case .float16: format = .float16
    case .bfloat16: format = .bfloat16
    default: return nil
    }
    guard let base = files[fileIndex].bytes(of: entry).baseAddress,
      Int(bitPattern: base) % MemoryLayout<UInt16>.alignment == 0
    else { return nil }
    let elements = base.assumingMemoryBound(to: UInt16.self)
    let half = HalfMatrix(elements, rows: shape[0], columns: shape[1], format: format)
    return StoredHalf(half, checkpoint: self, name: tensor)
  }

  /// Tells the system that the resident pages of every file may go.
  package func releaseResidentPages() {
    for file in files { file.region.releaseResidentPages() }
  }

  /// Bytes of converted tensors, which no file can bring back: they stay in memory with the checkpoint.
  package var ownedByteCount: Int { owned.byteCount }

  /// Bytes of the leaves that are borrowed in place from a file.
  package func borrowedByteCount(_ leaves: [Parameter]) -> Int {
    borrowedRanges(leaves).reduce(0) { $0 + $1.range.count }
  }

  /// Asks the system to fetch the leaves' bytes now.
  package func willNeed(_ leaves: [Parameter]) {
    for part in borrowedRanges(leaves) { files[part.file].region.willNeed(part.range) }
  }

  /// Lets the leaves' bytes leave memory; reading them again brings them back.
  package func release(_ leaves: [Parameter]) {
    for part in borrowedRanges(leaves) { files[part.file].region.release(part.range) }
  }

  /// Where borrowed leaves lie in the files, neighbours together.
  private func borrowedRanges(_ leaves: [Parameter]) -> [(file: Int, range: Range<Int>)] {
    var parts: [(file: Int, range: Range<Int>)] = []
    for leaf in leaves {
      let address = leaf.half.map { UnsafeRawPointer($0.base) } ?? UnsafeRawPointer(leaf.values)
      let size = leaf.half == nil ? MemoryLayout<Float>.stride : MemoryLayout<UInt16>.stride
      for (file, bytes) in files.lazy.map(\.region.bytes).enumerated() {
        guard let base = bytes.baseAddress, address >= base, address < base + bytes.count else { continue }
        let first = address - base
        parts.append((file, first..<first + leaf.count * size))
      }
    }
    parts.sort { ($0.file, $0.range.lowerBound) < ($1.file, $1.range.lowerBound) }
    var merged: [(file: Int, range: Range<Int>)] = []
    for part in parts {
      if let last = merged.last, last.file == part.file, last.range.upperBound >= part.range.lowerBound {
        merged[merged.count - 1].range =
          last.range.lowerBound..<max(last.range.upperBound, part.range.upperBound)
      } else {
        merged.append(part)
      }
    }
    return merged
  }

  /// The content digest over every tensor's name, type, shape and bytes, sorted by name.
  ///
  /// Sharding and the order inside a file do not change it. The first call reads all bytes; later
  /// calls return the same value.
  package var digest: ContentDigest { digest(releasing: false) }

  /// The digest; `releasing` lets every piece leave memory once it was read, for a device that cannot hold all.
  package func digest(releasing: Bool) -> ContentDigest {
    owned.digest { computeDigest(releasing: releasing) }
  }

  /// Bytes that are hashed, and let go, at a time.
  private static let digestPieceBytes = 8 << 20

  private func computeDigest(releasing: Bool) -> ContentDigest {
    var hasher = ContentHasher()
    hasher.update("hearth checkpoint 1")
    let sorted = names
    hasher.update(sorted.count)
    for tensor in sorted {
      guard let fileIndex = fileByTensor[tensor], let entry = files[fileIndex].tensor(tensor) else {
        preconditionFailure("tensor \(tensor) vanished from \(name)")
      }
      hasher.update(tensor)
      hasher.update(entry.element.rawValue)
      hasher.update(entry.shape.count)
      for dimension in entry.shape { hasher.update(dimension) }
      let bytes = files[fileIndex].bytes(of: entry)
      hasher.update(bytes.count)
      for first in stride(from: 0, to: bytes.count, by: Self.digestPieceBytes) {
        let piece = first..<min(first + Self.digestPieceBytes, bytes.count)
        hasher.update(UnsafeRawBufferPointer(rebasing: bytes[piece]))
        // From the front of the file each time: the system keeps units that a range holds only in part.
        if releasing { files[fileIndex].region.release(0..<entry.byteRange.lowerBound + piece.upperBound) }
      }
    }
    return hasher.finalize()
  }

  /// A name that differs by a prefix only, or that ends alike: what a person probably looks for.
  private func nearestName(to tensor: String) -> String? {
    let all = names
    if let suffixed = all.first(where: { $0.hasSuffix("." + tensor) || tensor.hasSuffix("." + $0) }) {
      return suffixed
    }
    let tail = tensor.split(separator: ".").suffix(2).joined(separator: ".")
    return all.first { $0.hasSuffix("." + tail) }
  }
}

/// A matrix of a checkpoint that is stored in 16 bits.
private final class StoredHalf: DeferredValues {
  let half: HalfMatrix
  private let checkpoint: Checkpoint
  private let name: String

  init(_ half: HalfMatrix, checkpoint: Checkpoint, name: String) {
    self.half = half
    self.checkpoint = checkpoint
    self.name = name
  }

  var decoded: UnsafeMutablePointer<Float> {
    do {
      return UnsafeMutablePointer(
        mutating: try checkpoint.float32(named: name, shape: [half.rows, half.columns]))
    } catch {
      preconditionFailure("\(name) was there in 16 bits: \(error)")
    }
  }
}

extension TensorElement {
  /// Writes float32 values for `bytes` of this type; the type must be loadable.
  fileprivate func decode(_ bytes: UnsafeRawBufferPointer, into values: UnsafeMutableBufferPointer<Float>) {
    switch self {
    case .float32:
      for index in values.indices {
        values[index] = bytes.loadUnaligned(fromByteOffset: 4 * index, as: Float.self)
      }
    case .float16:
      for index in values.indices {
        let bits = bytes.loadUnaligned(fromByteOffset: 2 * index, as: UInt16.self)
        values[index] = Float(Float16(bitPattern: bits))
      }
    case .bfloat16:
      for index in values.indices {
        let bits = bytes.loadUnaligned(fromByteOffset: 2 * index, as: UInt16.self)
        values[index] = Float(bitPattern: UInt32(bits) << 16)
      }
    case .float64, .int64, .int32, .int16, .int8, .uint8, .bool:
      preconditionFailure("\(rawValue) is not loadable as weights")
    }
  }
}

/// Memory and results that belong to a checkpoint and come into being on first use.
///
/// - Safety: everything is reached under the mutex; a published buffer is never written again and is freed
///   only with the last copy of the checkpoint.
private final class OwnedTensors: @unchecked Sendable {
  private struct State {
    var buffers: [String: UnsafeMutableBufferPointer<Float>] = [:]
    var digest: ContentDigest?
  }
  private let state = Mutex(State())

  deinit {
    state.withLock { state in
      for buffer in state.buffers.values { buffer.deallocate() }
    }
  }

  /// The converted values of a tensor; `fill` runs at most once for a name.
  func values(
    of tensor: String, fill: (UnsafeMutableBufferPointer<Float>) -> Void, count: () -> Int
  ) -> UnsafePointer<Float> {
    let address = state.withLock { state -> UInt in
      if let known = state.buffers[tensor] { return UInt(bitPattern: known.baseAddress) }
      let buffer = UnsafeMutableBufferPointer<Float>.allocate(capacity: max(1, count()))
      buffer.initialize(repeating: 0)
      fill(UnsafeMutableBufferPointer(rebasing: buffer[0..<count()]))
      state.buffers[tensor] = buffer
      return UInt(bitPattern: buffer.baseAddress)
    }
    guard let pointer = UnsafePointer<Float>(bitPattern: address) else {
      preconditionFailure("tensor \(tensor) was converted into no memory")
    }
    return pointer
  }

  /// Bytes of all converted values.
  var byteCount: Int {
    state.withLock { $0.buffers.values.reduce(0) { $0 + $1.count * MemoryLayout<Float>.stride } }
  }

  /// The digest, computed on the first call.
  func digest(_ compute: () -> ContentDigest) -> ContentDigest {
    state.withLock { state in
      if let known = state.digest { return known }
      let digest = compute()
      state.digest = digest
      return digest
    }
  }
}
