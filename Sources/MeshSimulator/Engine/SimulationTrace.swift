package import CryptoPrimitives
package import Determinism

/// A digest over everything that happens in a run, and its lines for a person when they are wanted.
///
/// Two runs with equal digests did the same at the same times, down to the bytes on the wire.
package struct SimulationTrace: Sendable {
  /// Most lines that are kept; later ones only reach the digest.
  package static let lineLimit = 2_000_000

  private var chain = [UInt8](repeating: 0, count: ContentDigest.byteCount)
  private var pending: [UInt8] = []
  private let keepsLines: Bool
  /// The lines, when they are wanted.
  package private(set) var lines: [String] = []
  /// How much happened.
  package private(set) var count = 0

  /// A trace; lines cost much more than the digest.
  package init(keepingLines: Bool) { keepsLines = keepingLines }

  /// Adds one happening: numbers, bytes and, if lines are kept, words.
  package mutating func add(
    _ time: MonotonicInstant, _ kind: UInt8, _ first: Int, _ second: Int, bytes: [UInt8] = [],
    line: @autoclosure () -> String
  ) {
    count += 1
    append(UInt64(bitPattern: time.nanoseconds))
    pending.append(kind)
    append(UInt64(bitPattern: Int64(first)))
    append(UInt64(bitPattern: Int64(second)))
    append(UInt64(bytes.count))
    pending.append(contentsOf: bytes)
    if pending.count > 16_384 { flush() }
    if keepsLines, lines.count < Self.lineLimit { lines.append("\(time) \(line())") }
  }

  /// The digest of all that has been added.
  package mutating func digest() -> ContentDigest {
    flush()
    return ContentDigest(of: chain)
  }

  private mutating func append(_ value: UInt64) {
    for shift in stride(from: UInt64(0), to: 64, by: 8) {
      pending.append(UInt8(truncatingIfNeeded: value >> shift))
    }
  }

  private mutating func flush() {
    guard !pending.isEmpty else { return }
    chain = ContentDigest(of: chain + pending).bytes
    pending.removeAll(keepingCapacity: true)
  }
}
