import CryptoPrimitives
package import MeshModel
package import WireCoding

/// A short datagram that says "a daemon of this household listens here": a reason to dial, and nothing else.
///
/// On the wire, little-endian: magic (4), version u8, kind u8, household tag u64, instance u64, port u16,
/// discriminator u16, counter u64; then, for the kinds that only members send, 16 bytes of keyed BLAKE2b over
/// all before. The address is that of the datagram. No field outlives the network key's epoch.
package struct Beacon: Hashable, Sendable {
  /// The UDP port that beacons go to.
  package static let port: UInt16 = 24327
  /// The IPv6 group that beacons go to: transient, link-local scope (RFC 4291), `ff12::4845:4152:5448`.
  package static let group = NetworkAddress(
    .v6(high: 0xFF12_0000_0000_0000, low: 0x0000_4845_4152_5448, scope: 0), port: port)
  /// Bytes of a beacon without its authentication.
  package static let plainByteCount = 34
  /// Bytes of the authentication.
  package static let tagByteCount = 16
  /// Bytes of the longest beacon.
  package static let byteLimit = plainByteCount + tagByteCount
  /// The largest discriminator.
  package static let discriminatorLimit: UInt16 = 0xFFF

  private static let magic: [UInt8] = Array("HrtB".utf8)
  private static let version: UInt8 = 1

  /// What a beacon is for; the raw values are the wire's.
  package enum Kind: UInt8, Hashable, Sendable, CaseIterable {
    /// A member says where it listens.
    case member = 1
    /// The same, to one that has just been heard of; it is not answered.
    case answer = 2
    /// A device with an open invitation says where it listens, to devices that hold no key yet.
    case pairingOffer = 3
    /// A device that wants to join asks for offers.
    case pairingQuestion = 4

    /// Whether only members send it, and it carries their authentication.
    package var isAuthenticated: Bool { self == .member || self == .answer }
  }

  /// What it is for.
  package let kind: Kind
  /// The household, as members and past members know it in this epoch; 0 in a question.
  package let householdTag: UInt64
  /// The announcing daemon.
  package let instance: InstanceTag
  /// Where it listens; 0 in a question.
  package let port: UInt16
  /// Which of several open invitations; 0 for members' beacons.
  package let discriminator: UInt16
  /// Grows with every round of one instance.
  package let counter: UInt64

  /// A beacon.
  package init(
    kind: Kind, householdTag: UInt64, instance: InstanceTag, port: UInt16, discriminator: UInt16 = 0,
    counter: UInt64
  ) {
    precondition(discriminator <= Self.discriminatorLimit, "discriminator \(discriminator)")
    self.kind = kind
    self.householdTag = householdTag
    self.instance = instance
    self.port = port
    self.discriminator = discriminator
    self.counter = counter
  }

  /// The datagram; members' beacons are authenticated with the key, which must be there for them.
  package func encoded(key: BeaconKey?) -> [UInt8] {
    var writer = ByteWriter(reserving: Self.byteLimit)
    writer.raw(Self.magic)
    writer.integer(Self.version)
    writer.integer(kind.rawValue)
    writer.integer(householdTag)
    writer.integer(instance.value)
    writer.integer(port)
    writer.integer(discriminator)
    writer.integer(counter)
    if kind.isAuthenticated {
      guard let key else { preconditionFailure("a beacon of kind \(kind) needs the household's key") }
      writer.raw(key.authentication(of: writer.bytes))
    }
    return writer.bytes
  }

  /// Reads a datagram without judging its authentication, which is returned beside the beacon.
  package static func decode(
    _ bytes: [UInt8]
  ) throws(DecodingFailure) -> (beacon: Beacon, authentication: [UInt8]) {
    guard bytes.count <= byteLimit else {
      throw .overLimit(field: "beacon", value: UInt64(bytes.count), limit: byteLimit)
    }
    var reader = ByteReader(bytes)
    let magic = Array(try reader.bytes("beacon magic", count: magic.count))
    guard magic == Self.magic else { throw .invalid(field: "beacon magic", value: UInt64(magic[0])) }
    let version = try reader.integer("beacon version", as: UInt8.self)
    guard version == Self.version else { throw .invalid(field: "beacon version", value: UInt64(version)) }
    let rawKind = try reader.integer("beacon kind", as: UInt8.self)
    guard let kind = Kind(rawValue: rawKind) else {
      throw .invalid(field: "beacon kind", value: UInt64(rawKind))
    }
    let tag = try reader.integer("household tag", as: UInt64.self)
    let instance = InstanceTag(try reader.integer("instance"))
    let port = try reader.integer("port", as: UInt16.self)
    guard (port == 0) == (kind == .pairingQuestion) else {
      throw .invalid(field: "port", value: UInt64(port))
    }
    let discriminator = try reader.integer("discriminator", as: UInt16.self)
    guard discriminator <= discriminatorLimit, discriminator == 0 || kind == .pairingOffer else {
      throw .invalid(field: "discriminator", value: UInt64(discriminator))
    }
    let counter = try reader.integer("counter", as: UInt64.self)
    let authentication = Array(
      try reader.bytes("authentication", count: kind.isAuthenticated ? tagByteCount : 0))
    try reader.finish()
    let beacon = Beacon(
      kind: kind, householdTag: tag, instance: instance, port: port, discriminator: discriminator,
      counter: counter)
    return (beacon, authentication)
  }
}

/// What authenticates the beacons of a household in one epoch of its network key, and the tag that names it there.
///
/// A reference, so that the key is held once however often a plan is copied.
package final class BeaconKey: Sendable {
  /// Bytes of the key.
  package static let byteCount = 32

  /// The household's tag in this epoch, as it stands in announcements.
  package let householdTag: UInt64
  private let key: SecretBytes

  /// A key of 32 bytes.
  package init(householdTag: UInt64, key: UnsafeRawBufferPointer) {
    precondition(key.count == Self.byteCount, "a beacon key of \(key.count) bytes")
    self.householdTag = householdTag
    self.key = SecretBytes(copying: key)
  }

  /// The keyed BLAKE2b (RFC 7693) of some bytes, 16 bytes long.
  func authentication(of bytes: [UInt8]) -> [UInt8] {
    var hasher = ContentHasher(digestByteCount: Beacon.tagByteCount, key: key)
    hasher.update(bytes: bytes)
    return hasher.finalizeBytes()
  }

  /// Whether `authentication` belongs to the datagram that it ends.
  func authenticates(datagram: [UInt8], authentication: [UInt8]) -> Bool {
    let expected = self.authentication(of: Array(datagram.dropLast(Beacon.tagByteCount)))
    // Looks at all bytes whatever they are, so that the time tells nothing.
    guard authentication.count == expected.count else { return false }
    return zip(expected, authentication).reduce(0) { $0 | ($1.0 ^ $1.1) } == 0
  }
}

extension BeaconKey: CustomReflectable {
  /// Nothing: a key is never shown.
  package var customMirror: Mirror { Mirror(self, children: []) }
}

/// An open invitation that was heard of: what a device that wants to join chooses from.
package struct PairingOffer: Hashable, Comparable, Sendable {
  /// Which of several open invitations; the code that people type names it too.
  package let discriminator: UInt16
  /// Where to dial.
  package let address: NetworkAddress
  /// The announcing daemon.
  package let instance: InstanceTag

  /// An offer.
  package init(discriminator: UInt16, address: NetworkAddress, instance: InstanceTag) {
    self.discriminator = discriminator
    self.address = address
    self.instance = instance
  }

  /// By discriminator, instance and address.
  package static func < (left: PairingOffer, right: PairingOffer) -> Bool {
    (left.discriminator, left.instance, left.address) < (right.discriminator, right.instance, right.address)
  }
}
