package import MeshModel
package import WireCoding

/// What a device remembers of another between two runs: hints, and nothing that decides.
package struct KnownPeer: Hashable, Sendable, WireCodable {
  /// Which device.
  package var device: DeviceID
  /// Where it was reached, the last good address first; link-local ones are not kept.
  package var addresses: [NetworkAddress]
  /// When it was last reached, in seconds since 1970 by this device's own clock; only shown to people.
  package var lastContact: UInt64?
  /// The round trip on the last good path, in microseconds.
  package var roundTripMicroseconds: UInt32?

  /// What is remembered; addresses beyond the limit, link-local ones and repetitions are left out.
  package init(
    device: DeviceID, addresses: [NetworkAddress] = [], lastContact: UInt64? = nil,
    roundTripMicroseconds: UInt32? = nil
  ) {
    self.device = device
    var kept: [NetworkAddress] = []
    for address in addresses
    where !address.isLinkLocal && !kept.contains(address) && kept.count < TrustLimits.peerAddresses {
      kept.append(address)
    }
    self.addresses = kept
    self.lastContact = lastContact
    self.roundTripMicroseconds = roundTripMicroseconds
  }

  /// Reads what is remembered.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    device = try DeviceID(from: &reader)
    let count = try reader.count("peer addresses", limit: TrustLimits.peerAddresses)
    addresses = []
    for _ in 0..<count { addresses.append(try NetworkAddress(from: &reader)) }
    lastContact = try reader.flag("has last contact") ? try reader.integer("last contact") : nil
    roundTripMicroseconds = try reader.flag("has round trip") ? try reader.integer("round trip") : nil
  }

  /// Writes what is remembered.
  package func encode(to writer: inout ByteWriter) {
    device.encode(to: &writer)
    writer.count(addresses.count)
    for address in addresses { address.encode(to: &writer) }
    writer.flag(lastContact != nil)
    if let lastContact { writer.integer(lastContact) }
    writer.flag(roundTripMicroseconds != nil)
    if let roundTripMicroseconds { writer.integer(roundTripMicroseconds) }
  }
}
