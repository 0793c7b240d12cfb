import ActivationCache
import CryptoPrimitives
import Determinism
import TensorKernels
import Testing

/// Samples whose keys, shapes and bytes follow from a number, and the buffers to append and read them.
struct CacheFixture: Sendable {
  var identity: CacheIdentity

  init(element: ActivationElement = .float16) {
    identity = CacheIdentity(
      backboneDigest: ContentDigest(of: Array("backbone".utf8)),
      tokenizerDigest: ContentDigest(of: Array("tokenizer".utf8)), maximumLength: 128, element: element,
      stacks: [
        CachedStack(name: "encoder", width: 6, taps: [0, 1, 3]),
        CachedStack(name: "decoder", width: 5, taps: [0, 2]),
      ])
  }

  func key(_ sample: Int) -> SampleKey {
    SampleKey(encoderIDs: [Int32(sample)], types: [], decoderIDs: [])
  }

  /// Encoder tokens 1…9, decoder tokens 1…3.
  func tokens(_ sample: Int) -> [Int] {
    var generator = SeededGenerator(seed: UInt64(sample), 1)
    return [1 + generator.uniform(below: 9), 1 + generator.uniform(below: 3)]
  }

  func recordBytes(_ sample: Int) -> Int {
    CacheFormat.headerBytes + CacheRecordShape(tokens: tokens(sample)).byteCount(identity)
  }

  /// The packed rows of the samples, filled with their bytes.
  func rows(_ samples: [Int]) -> PackedRows {
    let rows = PackedRows(identity, tokens: packedTokens(samples))
    var first = [0, 0]
    for sample in samples {
      var generator = SeededGenerator(seed: UInt64(sample), 2)
      for stack in 0..<2 {
        for tap in rows.blocks[stack] {
          let part = tap.rowRange(first[stack], count: tokens(sample)[stack])
          for byte in 0..<part.byteCount {
            part.base.storeBytes(
              of: UInt8(truncatingIfNeeded: generator.next()), toByteOffset: byte, as: UInt8.self)
          }
        }
        first[stack] += tokens(sample)[stack]
      }
    }
    return rows
  }

  func packedTokens(_ samples: [Int]) -> [Int] {
    [0, 1].map { stack in samples.reduce(0) { $0 + tokens($1)[stack] } }
  }

  func append(_ samples: [Int], to store: ActivationCacheStore) throws(CacheFailure) {
    let rows = rows(samples)
    let sequences = [0, 1].map { stack in PackedSequences(lengths: samples.map { tokens($0)[stack] }) }
    try store.append(samples.map(key), sequences: sequences, taps: rows.blocks)
    withExtendedLifetime(rows) {}
  }

  /// The bytes of the samples as the cache has them, or nil when one is missing.
  func read(_ samples: [Int], from store: ActivationCacheStore) throws(CacheFailure) -> [UInt8]? {
    let rows = PackedRows(identity, tokens: packedTokens(samples))
    let selection = store.resolve(samples.map(key))
    store.prefetch(selection)
    let outcome = try store.read(selection, into: rows.blocks, scratch: store.makeReadScratch())
    return outcome == .complete ? rows.bytes : nil
  }

  /// Whether every one of the samples reads back as the bytes that it was made of.
  func readsBack(_ samples: [Int], from store: ActivationCacheStore) throws(CacheFailure) -> Bool {
    try read(samples, from: store) == rows(samples).bytes
  }
}

/// Memory for token-packed rows of every stack and tap.
///
/// - Safety: one test uses it at a time.
final class PackedRows: @unchecked Sendable {
  let blocks: [[EncodedRows]]

  init(_ identity: CacheIdentity, tokens: [Int]) {
    blocks = identity.stacks.enumerated().map { index, stack in
      stack.taps.map { _ in
        let byteCount = max(1, tokens[index] * identity.element.rowBytes(width: stack.width))
        let memory = UnsafeMutableRawPointer.allocate(byteCount: byteCount, alignment: 64)
        memory.initializeMemory(as: UInt8.self, repeating: 0xEE, count: byteCount)
        return EncodedRows(memory, rows: tokens[index], width: stack.width, element: identity.element)
      }
    }
  }

  deinit { for block in blocks.joined() { block.base.deallocate() } }

  var bytes: [UInt8] {
    defer { withExtendedLifetime(self) {} }
    return blocks.joined().flatMap { Array(UnsafeRawBufferPointer(start: $0.base, count: $0.byteCount)) }
  }
}
