import CSodium

/// Where random bytes for keys come from; an argument wherever keys are made, so that a simulation repeats.
package protocol EntropySource: Sendable {
  /// Fills the buffer with random bytes.
  mutating func fill(_ buffer: UnsafeMutableRawBufferPointer)
}

extension EntropySource {
  /// Random bytes that are not secret: nonces and identifiers.
  package mutating func bytes(_ count: Int) -> [UInt8] {
    [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
      fill(UnsafeMutableRawBufferPointer(buffer))
      initialized = count
    }
  }

  /// A random integer of its type's width.
  package mutating func integer<Integer: FixedWidthInteger>(as type: Integer.Type = Integer.self) -> Integer {
    var value: Integer = 0
    withUnsafeMutableBytes(of: &value) { fill($0) }
    return value
  }
}

/// The operating system's random generator, through libsodium.
package struct SystemEntropy: EntropySource {
  /// The system's generator.
  package init() { precondition(sodiumIsReady, "libsodium could not be initialised") }

  /// Fills the buffer with the system's random bytes.
  package mutating func fill(_ buffer: UnsafeMutableRawBufferPointer) {
    guard let base = buffer.baseAddress, !buffer.isEmpty else { return }
    randombytes_buf(base, buffer.count)
  }
}

/// TEST-ONLY: a stream of bytes that its seed decides, for tests and the simulator; keys made from it are public.
///
/// Each filling is a ChaCha20 stream whose key is a BLAKE2b of the seed and a counter.
package struct SeededEntropy: EntropySource {
  private let seed: UInt64
  private var fillings: UInt64 = 0

  /// The stream that belongs to `seed`.
  package init(seed: UInt64) { self.seed = seed }

  /// Fills the buffer with the next bytes of the stream.
  package mutating func fill(_ buffer: UnsafeMutableRawBufferPointer) {
    guard let base = buffer.baseAddress, !buffer.isEmpty else { return }
    var hasher = ContentHasher(digestByteCount: Int(randombytes_SEEDBYTES))
    hasher.update("TEST-ONLY seeded entropy")
    hasher.update(seed)
    hasher.update(fillings)
    fillings += 1
    randombytes_buf_deterministic(base, buffer.count, hasher.finalizeBytes())
  }
}
