import CSodium
import Synchronization

/// Secret bytes in locked memory that is wiped when the value ends.
///
/// The value cannot be copied by accident (`copy()` says so where it must be), has no description, and is
/// compared in constant time. Short secrets share locked pages; a longer one gets guarded pages of its own.
// Safety: the memory is written by initialisers and wiped by deinit, which one owner runs; all else only reads.
package struct SecretBytes: ~Copyable, @unchecked Sendable {
  /// How many bytes there are.
  package let count: Int
  private let memory: UnsafeMutableRawPointer

  /// Bytes that `body` writes into zeroed locked memory.
  package init<Failure: Error>(
    count: Int, filledBy body: (UnsafeMutableRawBufferPointer) throws(Failure) -> Void
  ) throws(Failure) {
    precondition(count >= 0, "a secret of \(count) bytes")
    self.count = count
    memory = allocateLocked(count)
    try body(UnsafeMutableRawBufferPointer(start: memory, count: count))
  }

  /// A copy of some bytes; wiping their source is the caller's duty.
  package init(copying source: UnsafeRawBufferPointer) {
    self.init(count: source.count) { $0.copyMemory(from: source) }
  }

  /// A copy of the bytes of an array, for bytes that are not secret on their own.
  package init(copying source: [UInt8]) {
    self.init(count: source.count) { $0.copyBytes(from: source) }
  }

  /// Takes the bytes of an array and wipes the array's own; for bytes that were just read from a file.
  package init(wiping array: inout [UInt8]) {
    self.init(count: array.count) { bytes in
      array.withUnsafeMutableBytes { source in
        bytes.copyMemory(from: UnsafeRawBufferPointer(source))
        wipe(source)
      }
    }
    array = []
  }

  /// Bytes drawn from a source of entropy.
  package init(count: Int, entropy: inout some EntropySource) {
    self.init(count: count) { entropy.fill($0) }
  }

  deinit { releaseLocked(memory, count) }

  /// Lends the bytes for reading; the pointer is not valid afterwards.
  package borrowing func withUnsafeBytes<Result: ~Copyable, Failure: Error>(
    _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    try body(UnsafeRawBufferPointer(start: memory, count: count))
  }

  /// A second secret with the same bytes.
  package borrowing func copy() -> SecretBytes {
    SecretBytes(copying: UnsafeRawBufferPointer(start: memory, count: count))
  }

  /// A second secret with the bytes of `range`.
  package borrowing func part(_ range: Range<Int>) -> SecretBytes {
    precondition(range.lowerBound >= 0 && range.upperBound <= count, "part \(range) of \(count) secret bytes")
    return SecretBytes(copying: UnsafeRawBufferPointer(start: memory + range.lowerBound, count: range.count))
  }

  /// Whether this is one of the public seeds of keys/test; whoever reads real keys refuses it.
  package var isTestOnly: Bool {
    withUnsafeBytes { $0.starts(with: "TEST-ONLY".utf8) }
  }

  /// Whether both have the same bytes; takes the same time wherever they differ.
  package borrowing func hasSameBytes(as other: borrowing SecretBytes) -> Bool {
    count == other.count && (count == 0 || sodium_memcmp(memory, other.memory, count) == 0)
  }
}

/// Whether two byte strings are equal; takes the same time wherever they differ.
package func equalInConstantTime(_ left: [UInt8], _ right: [UInt8]) -> Bool {
  left.count == right.count && (left.isEmpty || sodium_memcmp(left, right, left.count) == 0)
}

/// Overwrites bytes with zeros in a way that the compiler may not leave out.
package func wipe(_ bytes: UnsafeMutableRawBufferPointer) {
  guard let base = bytes.baseAddress, !bytes.isEmpty else { return }
  sodium_memzero(base, bytes.count)
}

/// Overwrites an array's bytes with zeros and empties it.
package func wipe(_ bytes: inout [UInt8]) {
  bytes.withUnsafeMutableBytes { wipe($0) }
  bytes = []
}

// Locked pages cost several system calls each, and a handshake makes some twenty secrets, so those that fit a
// slot share pages. A slot is wiped when it is given back.
private let slotByteCount = 192
private let slabByteCount = 4096

private struct SlotPool {
  var free: [Int] = []
}

private let slotPool = Mutex(SlotPool())

private func allocateLocked(_ count: Int) -> UnsafeMutableRawPointer {
  precondition(sodiumIsReady, "libsodium could not be initialised")
  guard count <= slotByteCount else {
    let memory = lockedPages(count)
    sodium_memzero(memory, count)
    return memory
  }
  let address = slotPool.withLock { pool in
    if let slot = pool.free.popLast() { return slot }
    let slab = lockedPages(slabByteCount)
    sodium_memzero(slab, slabByteCount)
    for offset in stride(from: slotByteCount, through: slabByteCount - slotByteCount, by: slotByteCount) {
      pool.free.append(Int(bitPattern: slab + offset))
    }
    return Int(bitPattern: slab)
  }
  guard let memory = UnsafeMutableRawPointer(bitPattern: address) else {
    preconditionFailure("a slot of the secret pool at address 0")
  }
  return memory
}

private func lockedPages(_ count: Int) -> UnsafeMutableRawPointer {
  guard let memory = sodium_malloc(count) else {
    preconditionFailure("no memory for \(count) secret bytes")
  }
  return memory
}

private func releaseLocked(_ memory: UnsafeMutableRawPointer, _ count: Int) {
  guard count <= slotByteCount else {
    // Wipes before it unmaps.
    sodium_free(memory)
    return
  }
  sodium_memzero(memory, slotByteCount)
  let address = Int(bitPattern: memory)
  slotPool.withLock { $0.free.append(address) }
}
