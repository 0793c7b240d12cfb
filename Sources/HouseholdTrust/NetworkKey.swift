package import CryptoPrimitives
package import WireCoding

/// Which network key: the number of its epoch, and 16 bytes that tell two keys of one epoch apart.
///
/// Two admins who cannot reach each other may both make the next epoch. Every device then prefers the greater name,
/// and still knows the other.
package struct NetworkKeyID: Hashable, Comparable, Sendable, WireCodable, CustomStringConvertible {
  static let checkByteCount = 16

  /// The epoch, from 1.
  package let epoch: UInt32
  /// Derived from the key; proves to who opens a sealed copy that it is the right one.
  package let check: [UInt8]

  init(epoch: UInt32, check: [UInt8]) {
    precondition(check.count == Self.checkByteCount, "a key check of \(check.count) bytes")
    self.epoch = epoch
    self.check = check
  }

  /// The epoch and the first digits of the check.
  package var description: String { "\(epoch).\(hexadecimal(check.prefix(4)))" }

  /// By epoch, then by check.
  package static func < (left: NetworkKeyID, right: NetworkKeyID) -> Bool {
    left.epoch != right.epoch ? left.epoch < right.epoch : left.check.lexicographicallyPrecedes(right.check)
  }

  /// Reads the epoch and the check.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    let epoch = try reader.integer("network key epoch", as: UInt32.self)
    guard epoch > 0 else { throw .invalid(field: "network key epoch", value: 0) }
    self.epoch = epoch
    check = Array(try reader.bytes("network key check", count: Self.checkByteCount))
  }

  /// Writes the epoch and the check.
  package func encode(to writer: inout ByteWriter) {
    writer.integer(epoch)
    writer.raw(check)
  }
}

/// The 32 secret bytes that all members of an epoch share; used only through derivations, one for each purpose.
package final class NetworkKey: Sendable {
  /// Bytes of the key.
  package static let byteCount = 32

  /// Which key it is.
  package let id: NetworkKeyID
  /// Names the household to its members in beacons and service records; strangers see a number that changes with
  /// the epoch.
  package let householdTag: UInt64
  /// Eight bytes by which the other side of a handshake finds the key that the initiator uses.
  package let epochHint: [UInt8]
  private let secret: SecretBytes

  /// A new key for an epoch, which counts from 1.
  package init(epoch: UInt32, entropy: inout some EntropySource) {
    precondition(epoch > 0, "epochs count from 1")
    let secret = SecretBytes(count: Self.byteCount, entropy: &entropy)
    id = NetworkKeyID(epoch: epoch, check: Self.check(secret, epoch: epoch))
    (householdTag, epochHint) = Self.tags(secret)
    self.secret = secret
  }

  init?(opened secret: consuming SecretBytes, as id: NetworkKeyID) {
    guard secret.count == Self.byteCount, Self.check(secret, epoch: id.epoch) == id.check else { return nil }
    self.id = id
    (householdTag, epochHint) = Self.tags(secret)
    self.secret = secret
  }

  /// The pre-shared key of the Noise handshake.
  package func noisePSK() -> SecretBytes { deriveSecret(label: "hearth network noise 1", from: secret) }

  /// The key of the beacon's MAC.
  package func beaconKey() -> SecretBytes { deriveSecret(label: "hearth network beacon 1", from: secret) }

  func sealed(to key: SealingPublicKey, entropy: inout some EntropySource) -> [UInt8]? {
    key.seal(secret, entropy: &entropy)
  }

  private static func check(_ secret: borrowing SecretBytes, epoch: UInt32) -> [UInt8] {
    deriveBytes(
      label: "hearth network check 1 \(epoch)", from: secret, count: NetworkKeyID.checkByteCount)
  }

  private static func tags(_ secret: borrowing SecretBytes) -> (UInt64, [UInt8]) {
    // BLAKE2b gives 16 bytes at least; the tags are the first eight of them.
    let tag = deriveBytes(label: "hearth network tag 1", from: secret, count: 16)
    let hint = deriveBytes(label: "hearth network hint 1", from: secret, count: 16)
    return (tag.prefix(8).reduce(0) { $0 << 8 | UInt64($1) }, Array(hint.prefix(8)))
  }
}

/// The network keys that a device can use: the current one and the last eight before it.
package final class NetworkKeyRing: Sendable {
  /// The keys, the current one first.
  package let keys: [NetworkKey]

  /// The newest of these keys, each once.
  package init(_ keys: [NetworkKey]) {
    var seen: Set<NetworkKeyID> = []
    let unique = keys.filter { seen.insert($0.id).inserted }
    self.keys = Array(unique.sorted { $0.id > $1.id }.prefix(TrustLimits.pastNetworkKeys + 1))
  }

  /// The key that new sessions and beacons use; nil when the device has none yet.
  package var current: NetworkKey? { keys.first }

  /// The epochs that the device has keys of, the newest first.
  package var epochs: [UInt32] {
    var epochs: [UInt32] = []
    for key in keys where epochs.last != key.id.epoch { epochs.append(key.id.epoch) }
    return epochs
  }

  /// The preferred key of an epoch.
  package func key(epoch: UInt32) -> NetworkKey? { keys.first { $0.id.epoch == epoch } }

  /// The key that an eight-byte hint of a handshake stands for.
  package func key(hint: some Collection<UInt8>) -> NetworkKey? {
    keys.first { $0.epochHint.elementsEqual(hint) }
  }

  /// The key that a beacon or a service record names the household with.
  package func key(householdTag: UInt64) -> NetworkKey? { keys.first { $0.householdTag == householdTag } }

  /// The pre-shared key of the Noise handshake in an epoch.
  package func noisePSK(_ epoch: UInt32) -> SecretBytes? {
    guard let key = key(epoch: epoch) else { return nil }
    return key.noisePSK()
  }

  /// The key of the beacon's MAC in an epoch.
  package func beaconKey(_ epoch: UInt32) -> SecretBytes? {
    guard let key = key(epoch: epoch) else { return nil }
    return key.beaconKey()
  }

  /// The household's tag in an epoch.
  package func householdTag(_ epoch: UInt32) -> UInt64? { key(epoch: epoch)?.householdTag }

  /// The handshake's hint for an epoch.
  package func epochHint(_ epoch: UInt32) -> [UInt8]? { key(epoch: epoch)?.epochHint }
}
