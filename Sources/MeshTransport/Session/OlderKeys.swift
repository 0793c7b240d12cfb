import HouseholdTrust
import MeshModel

/// Which older network key a dial offers after the other side closed on the current one.
///
/// Two admins that renew the key while the network is split leave two halves that do not know each other's; a key from
/// before is what they have in common. The oldest is tried first, at each later failure the next newer one.
struct OlderKeys {
  /// Addresses whose failures are remembered; with more, all are forgotten.
  private static let addresses = 256

  private var failures: [NetworkAddress: Int] = [:]

  /// The key for the second try at an address; nil when only the current one is kept.
  mutating func next(for address: NetworkAddress, of ring: NetworkKeyRing) -> NetworkKey? {
    let older = ring.keys.dropFirst().reversed()
    guard !older.isEmpty else { return nil }
    if failures.count >= Self.addresses, failures[address] == nil { failures = [:] }
    let count = failures[address, default: 0]
    failures[address] = count &+ 1
    return Array(older)[count % older.count]
  }

  /// The address has given a session.
  mutating func forget(_ address: NetworkAddress) { failures[address] = nil }
}
