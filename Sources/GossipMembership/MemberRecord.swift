package import MeshModel
package import WireCoding

/// What is believed of a member; at one incarnation the later case overrides the earlier (SWIM §4.2).
package enum MemberState: UInt8, Hashable, Sendable, CaseIterable, Comparable {
  /// It answers, or nobody has said otherwise.
  case alive = 1
  /// It did not answer somebody; it has time to refute.
  case suspect = 2
  /// It did not refute in time; it stays in the view and comes back by itself. There is no "dead".
  case unreachable = 3
  /// It said itself that it leaves.
  case left = 4
  /// It has been removed from the household, for ever; decided by trust, never by gossip.
  case revoked = 5

  /// Whether `left` is overridden by `right` at one incarnation.
  package static func < (left: MemberState, right: MemberState) -> Bool { left.rawValue < right.rawValue }

  /// Whether the member takes part: it is probed, asked and counted.
  package var takesPart: Bool { self <= .suspect }
}

/// What a device says about itself, and what is believed of it.
///
/// The device's own statements (addresses, traits, leader) change only together with its incarnation, so a device
/// and an incarnation name one content. They are kept as they were received, so that what a later version adds
/// travels through this one unchanged.
package struct MemberRecord: Hashable, Sendable {
  /// Whom it is about.
  package let device: DeviceID
  /// How recent it is; only the device itself raises it.
  package internal(set) var incarnation: Incarnation
  /// What is believed of it.
  package internal(set) var state: MemberState
  /// Where it may be reached, best first.
  package private(set) var addresses: [NetworkAddress]
  /// What it can do.
  package private(set) var traits: DeviceTraits
  /// Whom it takes for the leader.
  package private(set) var leader: DeviceID?
  /// FNV-1a of everything that the device says of itself beside its incarnation; never 0.
  ///
  /// Two records of one incarnation that differ here come from two copies of a disk, or from a lost boot counter.
  package private(set) var capabilityHash: UInt64
  /// Leader, traits, addresses and what later versions say after them, on the wire.
  private var statements: [UInt8]

  /// The record of a device that is alive.
  ///
  /// Of the addresses the first that fit the limits are kept; link-local ones mean nothing elsewhere and are left
  /// out.
  package init(
    device: DeviceID, incarnation: Incarnation, addresses: [NetworkAddress], traits: DeviceTraits,
    leader: DeviceID? = nil
  ) {
    self.device = device
    self.incarnation = incarnation
    state = .alive
    self.addresses = Self.fitting(addresses)
    self.traits = traits
    self.leader = leader
    (statements, capabilityHash) = Self.encode(leader, traits, self.addresses)
  }

  /// Replaces what the device says of itself; false when nothing changes.
  mutating func restate(
    addresses: [NetworkAddress]? = nil, traits: DeviceTraits? = nil, leader: DeviceID?? = nil
  ) -> Bool {
    if let addresses { self.addresses = Self.fitting(addresses) }
    if let traits { self.traits = traits }
    if let leader { self.leader = leader }
    let before = statements
    (statements, capabilityHash) = Self.encode(self.leader, self.traits, self.addresses)
    return statements != before
  }

  private static func fitting(_ candidates: [NetworkAddress]) -> [NetworkAddress] {
    var addresses: [NetworkAddress] = []
    var byteCount = 0
    for address in candidates where !address.isLinkLocal && !addresses.contains(address) {
      byteCount += address.encoded.count
      guard addresses.count < GossipLimits.addresses, byteCount <= GossipLimits.addressBytes else { break }
      addresses.append(address)
    }
    return addresses
  }

  private static func encode(
    _ leader: DeviceID?, _ traits: DeviceTraits, _ addresses: [NetworkAddress]
  ) -> ([UInt8], UInt64) {
    var writer = ByteWriter(reserving: GossipLimits.recordBytes)
    writer.flag(leader != nil)
    leader?.encode(to: &writer)
    traits.encode(to: &writer)
    writer.integer(UInt8(addresses.count))
    for address in addresses { address.encode(to: &writer) }
    return (writer.bytes, hash(writer.bytes))
  }

  private static func hash(_ statements: [UInt8]) -> UInt64 {
    max(1, FowlerNollVo.hash64(statements))
  }
}

extension MemberRecord: WireCodable {
  private static let headByteCount = DeviceID.byteCount + 8 + 1

  /// Reads a length byte and the record in that many bytes; what follows the known fields is kept.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    let length = Int(try reader.integer("record length", as: UInt8.self))
    guard length <= GossipLimits.recordBytes else {
      throw .overLimit(field: "record length", value: UInt64(length), limit: GossipLimits.recordBytes)
    }
    var head = ByteReader(try reader.bytes("record", count: min(length, Self.headByteCount)))
    device = try DeviceID(from: &head)
    incarnation = try Incarnation(from: &head)
    state = try MemberState.read(from: &head)
    statements = Array(try reader.bytes("record", count: length - head.consumed))
    capabilityHash = Self.hash(statements)

    var body = ByteReader(statements)
    leader = try body.flag("leader known") ? DeviceID(from: &body) : nil
    traits = try DeviceTraits(from: &body)
    let count = try body.integer("address count", as: UInt8.self)
    guard count <= GossipLimits.addresses else {
      throw .overLimit(field: "address count", value: UInt64(count), limit: GossipLimits.addresses)
    }
    var addresses: [NetworkAddress] = []
    for _ in 0..<count {
      let address = try NetworkAddress(from: &body)
      guard !address.isLinkLocal else { throw .invalid(field: "link-local address", value: 0) }
      addresses.append(address)
    }
    self.addresses = addresses
  }

  /// Writes a length byte and the record.
  package func encode(to writer: inout ByteWriter) {
    let length = Self.headByteCount + statements.count
    precondition(length <= GossipLimits.recordBytes, "a record of \(length) bytes")
    writer.integer(UInt8(length))
    device.encode(to: &writer)
    incarnation.encode(to: &writer)
    writer.integer(state.rawValue)
    writer.raw(statements)
  }
}

extension MemberState {
  /// Reads a state that may be told to others, which `revoked` may not.
  static func read(from reader: inout ByteReader) throws(DecodingFailure) -> MemberState {
    let value = try reader.integer("member state", as: UInt8.self)
    guard let state = MemberState(rawValue: value), state != .revoked else {
      throw .invalid(field: "member state", value: UInt64(value))
    }
    return state
  }
}
