package import CryptoPrimitives
import HouseholdTrust

/// Puts the parts of a welcome together.
package struct WelcomeCollector: Sendable {
  /// The signature over the welcome; nil before it has come.
  package private(set) var signature: Signature?
  private var expectedCount = 0
  private var bytes: [UInt8] = []

  /// Has collected nothing.
  package init() {}

  /// Takes the next message; the welcome when it is complete.
  package mutating func add(_ message: PairingMessage) throws(PairingFailure) -> [UInt8]? {
    switch message.kind {
    case .welcome where signature == nil:
      let fields = try message.fields(Signature.byteCount, 4)
      let count = fields[1].reversed().reduce(0) { $0 << 8 | Int($1) }
      guard (1...Welcome.byteLimit).contains(count) else { throw .overLimit(byteCount: count) }
      signature = Signature(bytes: fields[0])
      expectedCount = count
      return nil
    case .part where signature != nil && !message.body.isEmpty:
      guard bytes.count + message.body.count <= expectedCount else {
        throw .overLimit(byteCount: bytes.count + message.body.count)
      }
      bytes += message.body
      return bytes.count == expectedCount ? bytes : nil
    default: throw .unexpected(kind: message.kind.rawValue)
    }
  }
}
