package import CryptoPrimitives
package import HouseholdTrust
package import MeshModel
package import WireCoding

/// An admin's word that a job that lost its majority goes on with the devices that are there: it begins a new term.
package struct JobAdoption: Hashable, Sendable, WireCodable {
  /// Separates these signatures from all others that devices make.
  private static let domain = "hearth job adoption 1"

  /// The job, the new term, and the plan epoch after which it goes on.
  package let stamp: JobStamp
  /// The devices that decide on the next plan, ascending.
  package let roster: [DeviceID]
  /// Who says so.
  package let admin: DeviceID
  /// The admin's signature over all of that.
  package let signature: Signature

  /// Signs an adoption.
  package init(_ stamp: JobStamp, roster: [DeviceID], keys: borrowing DeviceKeys) {
    self.stamp = stamp
    self.roster = Set(roster).sorted()
    admin = keys.device
    signature = keys.signing.sign(Self.message(stamp, self.roster, keys.device))
  }

  /// The first term after this one that this admin may begin.
  ///
  /// The upper half of a term counts, the lower one is the admin's: two admins that adopt the two sides of a divided
  /// household begin different terms, of which the higher one stays.
  package static func term(after term: UInt32, by admin: DeviceID) -> UInt32 {
    let own = admin.bytes.prefix(2).reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
    return (min(term >> 16, 0xFFFE) + 1) << 16 | own
  }

  /// Whether an admin has signed this.
  package func isSigned(admins: Set<DeviceID>, key: (DeviceID) -> SigningPublicKey?) -> Bool {
    guard admins.contains(admin), let key = key(admin) else { return false }
    return key.verifies(signature, of: Self.message(stamp, roster, admin))
  }

  private static func message(_ stamp: JobStamp, _ roster: [DeviceID], _ admin: DeviceID) -> [UInt8] {
    var writer = ByteWriter()
    writer.text(domain)
    stamp.encode(to: &writer)
    writer.count(roster.count)
    for device in roster { device.encode(to: &writer) }
    admin.encode(to: &writer)
    return writer.bytes
  }

  /// Reads an adoption; nothing is verified yet.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    stamp = try JobStamp(from: &reader)
    roster = try readDevices(&reader, "roster of an adoption", limit: JobLimits.roster)
    guard !roster.isEmpty else { throw .invalid(field: "roster of an adoption", value: 0) }
    admin = try DeviceID(from: &reader)
    signature = try readSignature(&reader, "adoption")
  }

  /// Writes stamp, roster, admin and signature.
  package func encode(to writer: inout ByteWriter) {
    stamp.encode(to: &writer)
    writer.count(roster.count)
    for device in roster { device.encode(to: &writer) }
    admin.encode(to: &writer)
    writer.raw(signature.bytes)
  }
}
