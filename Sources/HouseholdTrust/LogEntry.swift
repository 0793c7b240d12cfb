package import CryptoPrimitives
package import MeshModel
package import WireCoding

/// Why a device was removed; shown to people, decides nothing.
package enum RevocationReason: UInt8, Hashable, Sendable, CaseIterable {
  /// No reason was given.
  case unspecified = 0
  /// It was lost or stolen.
  case lost = 1
  /// It is not used any more.
  case retired = 2
  /// Its keys may be in other hands.
  case compromised = 3
  /// It removed itself (`hearth leave`).
  case left = 4
}

/// The removal of a device, for ever.
package struct Revocation: Hashable, Sendable {
  /// The device that is removed.
  package let device: DeviceID
  /// The last of its own entries that counts.
  package let through: ChainPoint
  /// Why.
  package let reason: RevocationReason

  /// The removal of a device whose entries count through a place of its chain.
  package init(device: DeviceID, through: ChainPoint, reason: RevocationReason) {
    self.device = device
    self.through = through
    self.reason = reason
  }
}

/// A device becomes an admin (again).
package struct Promotion: Hashable, Sendable {
  /// The device.
  package let device: DeviceID
  /// The running number of its time as an admin; an admin certificate grants number 1.
  package let term: UInt32
  /// Entries of the device up to this number do not count by this promotion.
  package let after: UInt32

  /// The start of a device's time as an admin, after the entry with number `after`; terms count from 1.
  package init(device: DeviceID, term: UInt32, after: UInt32) {
    precondition(term > 0, "an admin's time has a number from 1")
    self.device = device
    self.term = term
    self.after = after
  }
}

/// A device is no admin any more; it stays a member.
package struct Demotion: Hashable, Sendable {
  /// The device.
  package let device: DeviceID
  /// The last of its times as an admin that ends.
  package let term: UInt32
  /// The last of its entries that counts by those times.
  package let through: ChainPoint

  /// The end of a device's times as an admin up to `term`, whose entries count through a place of its chain.
  package init(device: DeviceID, term: UInt32, through: ChainPoint) {
    precondition(term > 0, "an admin's time has a number from 1")
    self.device = device
    self.term = term
    self.through = through
  }
}

/// A network key, sealed for some devices.
package struct NetworkKeyCopies: Hashable, Sendable {
  /// A sealed copy.
  package struct Copy: Hashable, Comparable, Sendable {
    /// Bytes of a sealed network key.
    package static let byteCount = NetworkKey.byteCount + SealingPublicKey.overheadByteCount
    /// Who can open it.
    package let device: DeviceID
    /// The sealed box.
    package let box: [UInt8]

    /// By device, then by the bytes of the box.
    package static func < (left: Copy, right: Copy) -> Bool {
      left.device != right.device
        ? left.device < right.device : left.box.lexicographicallyPrecedes(right.box)
    }
  }

  /// Which key it is.
  package let key: NetworkKeyID
  /// The copies in ascending order of their devices.
  package let copies: [Copy]

  /// The copies of a key for these members.
  ///
  /// A member whose public key takes no seal gets none; no honest device admits one.
  package init(_ key: NetworkKey, for members: [DeviceCertificate], entropy: inout some EntropySource) {
    var copies: [Copy] = []
    for member in members.sorted(by: { $0.device < $1.device }) {
      guard let box = key.sealed(to: member.sealingKey, entropy: &entropy) else { continue }
      copies.append(Copy(device: member.device, box: box))
    }
    self.key = key.id
    self.copies = copies
  }
}

/// One signed statement of the membership log.
///
/// Each issuer's entries form a chain: they are numbered from 1 and name the digest of the one before.
package struct LogEntry: Hashable, Sendable, WireCodable {
  /// What an entry states.
  package enum Body: Hashable, Sendable {
    /// A device is a member.
    case addDevice(DeviceCertificate)
    /// A device is removed.
    case revoke(Revocation)
    /// A network key exists.
    case networkKey(NetworkKeyCopies)
    /// A device becomes an admin.
    case promote(Promotion)
    /// A device is no admin any more.
    case demote(Demotion)
  }

  /// What is stated.
  package let body: Body
  /// The issuer's signature.
  package let signature: Signature
  /// The digest of the whole encoding.
  package let digest: ContentDigest
  let header: EntryHeader
  /// Bytes of the encoding.
  let byteCount: Int

  /// The household that the entry belongs to.
  package var household: HouseholdID { header.household }
  /// Who states it.
  package var issuer: EntryIssuer { header.issuer }
  /// The entry's number in the issuer's chain.
  package var sequence: UInt32 { header.sequence }
  /// The digest of the issuer's entry before, or of the genesis for its first.
  package var previous: ContentDigest { header.previous }
  /// The entry's place in the issuer's chain.
  package var point: ChainPoint { ChainPoint(sequence: sequence, digest: digest) }

  /// The entry that a certificate is.
  package init(_ certificate: DeviceCertificate) {
    self.init(header: certificate.header, body: .addDevice(certificate), signature: certificate.signature)
  }

  /// The issuer's next entry after a place of its chain, signed with the issuer's key.
  package init(
    _ body: Body, household: HouseholdID, issuer: EntryIssuer, after last: ChainPoint,
    key: borrowing SigningKey
  ) {
    if case .addDevice = body { preconditionFailure("a certificate is its own entry") }
    let header = EntryHeader(household: household, issuer: issuer, after: last)
    var writer = ByteWriter(reserving: 512)
    writer.text(EntryHeader.domain)
    Self.encode(header, body, to: &writer)
    self.init(header: header, body: body, signature: key.sign(writer.bytes))
  }

  private init(header: EntryHeader, body: Body, signature: Signature) {
    self.header = header
    self.body = body
    self.signature = signature
    var writer = ByteWriter(reserving: 512)
    Self.encode(header, body, to: &writer)
    writer.raw(signature.bytes)
    byteCount = writer.bytes.count
    digest = ContentDigest(of: writer.bytes)
  }

  /// The device that the entry is about; nil for network keys.
  package var subject: DeviceID? {
    switch body {
    case .addDevice(let certificate): certificate.device
    case .revoke(let revocation): revocation.device
    case .networkKey: nil
    case .promote(let promotion): promotion.device
    case .demote(let demotion): demotion.device
    }
  }

  /// Whether the holder of this key signed the entry.
  package func isSigned(by key: SigningPublicKey) -> Bool {
    var writer = ByteWriter(reserving: 512)
    writer.text(EntryHeader.domain)
    Self.encode(header, body, to: &writer)
    return key.verifies(signature, of: writer.bytes)
  }

  /// Whether two entries are the same statement under the same signature.
  package static func == (left: LogEntry, right: LogEntry) -> Bool { left.digest == right.digest }

  /// Hashes the digest.
  package func hash(into hasher: inout Hasher) { hasher.combine(digest) }

  /// Reads an entry; the signature is not verified yet.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    let (kind, header) = try EntryHeader.read(from: &reader)
    let body: Body
    switch kind {
    case DeviceCertificate.kind:
      self.init(try DeviceCertificate.body(header, &reader))
      return
    case 2: body = .revoke(try Revocation(from: &reader))
    case 3: body = .networkKey(try NetworkKeyCopies(from: &reader))
    case 4: body = .promote(try Promotion(from: &reader))
    case 5: body = .demote(try Demotion(from: &reader))
    default: throw .invalid(field: "entry kind", value: UInt64(kind))
    }
    self.init(header: header, body: body, signature: try readSignature(&reader))
  }

  /// Writes header, body and signature.
  package func encode(to writer: inout ByteWriter) {
    Self.encode(header, body, to: &writer)
    writer.raw(signature.bytes)
  }

  private static func encode(_ header: EntryHeader, _ body: Body, to writer: inout ByteWriter) {
    switch body {
    case .addDevice(let certificate): certificate.encodeUnsigned(to: &writer)
    case .revoke(let revocation):
      header.encode(kind: 2, to: &writer)
      revocation.encode(to: &writer)
    case .networkKey(let copies):
      header.encode(kind: 3, to: &writer)
      copies.encode(to: &writer)
    case .promote(let promotion):
      header.encode(kind: 4, to: &writer)
      promotion.encode(to: &writer)
    case .demote(let demotion):
      header.encode(kind: 5, to: &writer)
      demotion.encode(to: &writer)
    }
  }
}

extension Revocation {
  init(from reader: inout ByteReader) throws(DecodingFailure) {
    device = try DeviceID(from: &reader)
    through = try ChainPoint(from: &reader)
    let value = try reader.integer("revocation reason", as: UInt8.self)
    guard let reason = RevocationReason(rawValue: value) else {
      throw .invalid(field: "revocation reason", value: UInt64(value))
    }
    self.reason = reason
  }

  func encode(to writer: inout ByteWriter) {
    device.encode(to: &writer)
    through.encode(to: &writer)
    writer.integer(reason.rawValue)
  }
}

extension Promotion {
  init(from reader: inout ByteReader) throws(DecodingFailure) {
    device = try DeviceID(from: &reader)
    term = try readTerm(&reader)
    after = try reader.integer("last entry before the promotion")
  }

  func encode(to writer: inout ByteWriter) {
    device.encode(to: &writer)
    writer.integer(term)
    writer.integer(after)
  }
}

extension Demotion {
  init(from reader: inout ByteReader) throws(DecodingFailure) {
    device = try DeviceID(from: &reader)
    term = try readTerm(&reader)
    through = try ChainPoint(from: &reader)
  }

  func encode(to writer: inout ByteWriter) {
    device.encode(to: &writer)
    writer.integer(term)
    through.encode(to: &writer)
  }
}

private func readTerm(_ reader: inout ByteReader) throws(DecodingFailure) -> UInt32 {
  let term = try reader.integer("admin term", as: UInt32.self)
  guard term > 0 else { throw .invalid(field: "admin term", value: 0) }
  return term
}

extension NetworkKeyCopies {
  init(from reader: inout ByteReader) throws(DecodingFailure) {
    key = try NetworkKeyID(from: &reader)
    let count = try reader.count("sealed copies", limit: TrustLimits.devices)
    var copies: [Copy] = []
    for _ in 0..<count {
      let device = try DeviceID(from: &reader)
      if let last = copies.last, last.device >= device { throw .notAscending(field: "sealed copies") }
      let box = try reader.bytes("sealed network key", count: Copy.byteCount)
      copies.append(Copy(device: device, box: Array(box)))
    }
    self.copies = copies
  }

  func encode(to writer: inout ByteWriter) {
    key.encode(to: &writer)
    writer.count(copies.count)
    for copy in copies {
      copy.device.encode(to: &writer)
      writer.raw(copy.box)
    }
  }
}
