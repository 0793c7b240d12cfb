package import Determinism
package import MeshModel

/// The random name under which a daemon announces itself, drawn anew at every start and key change.
///
/// It ties the announcements of one daemon together without telling who it is, on any day or in any network.
package struct InstanceTag: Hashable, Comparable, Sendable, CustomStringConvertible {
  /// The 64 random bits.
  package let value: UInt64

  /// The instance with these bits.
  package init(_ value: UInt64) { self.value = value }

  /// Draws a tag.
  package init(from generator: inout SeededGenerator) { self.init(generator.next()) }

  /// The instance written as exactly 16 lower-case hexadecimal digits; nil for any other text.
  package init?(text: some StringProtocol) {
    guard let value = fixedHexadecimal(text) else { return nil }
    self.init(value)
  }

  /// 16 hexadecimal digits.
  package var description: String { fixedHexadecimal(value) }

  /// Whether the bits of `left` are the smaller number.
  package static func < (left: InstanceTag, right: InstanceTag) -> Bool { left.value < right.value }
}

/// An address at which a device of the household might answer, and who said so: never a sign of life.
package struct DiscoveryHint: Hashable, Sendable {
  /// Who said so.
  package enum Source: UInt8, Hashable, Sendable, CaseIterable {
    /// A session stood there once, or its device told the address inside one.
    case persisted = 0
    /// Another member's gossip.
    case gossip = 1
    /// The person's own list.
    case staticPeer = 2
    /// Multicast DNS, through Avahi.
    case avahi = 3
    /// Hearth's own beacon.
    case beacon = 4

    /// Whether a running daemon says so itself, just now.
    var isAnnouncement: Bool { self == .avahi || self == .beacon }
  }

  /// Where to dial.
  package let address: NetworkAddress
  /// Who said so.
  package let source: Source
  /// The device that is said to be there; the handshake decides.
  package let device: DeviceID?
  /// The announcing daemon, for announcements.
  package let instance: InstanceTag?
  /// The household that is said to be there, for announcements; others are not dialled.
  package let householdTag: UInt64?
  /// The discriminator of an open invitation that is announced there.
  package let pairing: UInt16?

  /// A hint.
  package init(
    address: NetworkAddress, source: Source, device: DeviceID? = nil, instance: InstanceTag? = nil,
    householdTag: UInt64? = nil, pairing: UInt16? = nil
  ) {
    self.address = address
    self.source = source
    self.device = device
    self.instance = instance
    self.householdTag = householdTag
    self.pairing = pairing
  }

  /// The hint that lies in a service found by multicast DNS at `address`.
  package init(service: ServiceRecord, at address: NetworkAddress) {
    self.init(
      address: address, source: .avahi, instance: service.instance, householdTag: service.householdTag,
      pairing: service.pairing)
  }
}

/// A peer that the person listed: a host name or address, and a port.
package struct StaticPeer: Hashable, Comparable, Sendable, CustomStringConvertible {
  /// A host name, or an address in its usual notation.
  package let host: String
  /// The port.
  package let port: UInt16

  /// A listed peer.
  package init(host: String, port: UInt16) {
    self.host = host
    self.port = port
  }

  /// `host:port`, with brackets around an IPv6 address.
  package var description: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }

  /// By name, then by port.
  package static func < (left: StaticPeer, right: StaticPeer) -> Bool {
    (left.host, left.port) < (right.host, right.port)
  }
}

/// Exactly 16 lower-case hexadecimal digits.
func fixedHexadecimal(_ value: UInt64) -> String {
  let digits = String(value, radix: 16)
  return String(repeating: "0", count: 16 - digits.count) + digits
}

/// The number that exactly 16 lower-case hexadecimal digits stand for.
func fixedHexadecimal(_ text: some StringProtocol) -> UInt64? {
  let digits = text.utf8
  guard digits.count == 16,
    digits.allSatisfy({ (0x30...0x39).contains($0) || (0x61...0x66).contains($0) })
  else { return nil }
  return UInt64(text, radix: 16)
}
