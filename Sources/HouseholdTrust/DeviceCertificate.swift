package import CryptoPrimitives
package import MeshModel
package import WireCoding

/// What an admin (or the root) vouches for: these three keys and this name are a device of this household.
///
/// A certificate is also an entry of the membership log, with one signature for both. It has no date of expiry,
/// because boards without a clock exist; its life ends by revocation.
package struct DeviceCertificate: Hashable, Sendable, WireCodable {
  static let kind: UInt8 = 1

  /// The device: the first bytes of its signing key's digest.
  package let device: DeviceID
  /// Verifies what the device signs.
  package let signingKey: SigningPublicKey
  /// The device's Noise static key.
  package let agreementKey: AgreementPublicKey
  /// Network keys are sealed to it.
  package let sealingKey: SealingPublicKey
  /// The name that people see, as `isValidDeviceName` wants it.
  package let name: String
  /// Whether the device is an admin from the start.
  package let isAdmin: Bool
  /// The issuer's signature.
  package let signature: Signature
  let header: EntryHeader

  /// The household that the device is a member of.
  package var household: HouseholdID { header.household }
  /// Who vouches.
  package var issuer: EntryIssuer { header.issuer }
  /// The certificate's number in the issuer's chain.
  package var issuerSequence: UInt32 { header.sequence }

  /// The issuer's next entry after a place of its chain: the device that made the request is a member.
  ///
  /// Whether the request is signed for the exchange at hand is the caller's to check.
  package init(
    _ request: AdmissionRequest, isAdmin: Bool, household: HouseholdID, issuer: EntryIssuer,
    after last: ChainPoint, key: borrowing SigningKey
  ) {
    let header = EntryHeader(household: household, issuer: issuer, after: last)
    let unsigned = DeviceCertificate(
      header: header, signingKey: request.signingKey, agreementKey: request.agreementKey,
      sealingKey: request.sealingKey, name: request.name, isAdmin: isAdmin, signature: nil)
    self.init(
      header: header, signingKey: request.signingKey, agreementKey: request.agreementKey,
      sealingKey: request.sealingKey, name: request.name, isAdmin: isAdmin,
      signature: key.sign(unsigned.message))
  }

  private init(
    header: EntryHeader, signingKey: SigningPublicKey, agreementKey: AgreementPublicKey,
    sealingKey: SealingPublicKey, name: String, isAdmin: Bool, signature: Signature?
  ) {
    device = DeviceID(of: signingKey)
    self.header = header
    self.signingKey = signingKey
    self.agreementKey = agreementKey
    self.sealingKey = sealingKey
    self.name = name
    self.isAdmin = isAdmin
    self.signature = signature ?? .zero
  }

  /// Whether the holder of this key signed the certificate.
  package func isSigned(by key: SigningPublicKey) -> Bool { key.verifies(signature, of: message) }

  /// Reads a certificate; the signature is not verified yet.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    let (kind, header) = try EntryHeader.read(from: &reader)
    guard kind == Self.kind else { throw .invalid(field: "entry kind", value: UInt64(kind)) }
    self = try Self.body(header, &reader)
  }

  static func body(
    _ header: EntryHeader, _ reader: inout ByteReader
  ) throws(DecodingFailure) -> DeviceCertificate {
    let signing = try readSigningKey(&reader, "signing key")
    let agreement = try readAgreementKey(&reader)
    let sealing = try readSealingKey(&reader)
    let name = try readDeviceName(&reader)
    let isAdmin = try reader.flag("admin")
    return DeviceCertificate(
      header: header, signingKey: signing, agreementKey: agreement, sealingKey: sealing, name: name,
      isAdmin: isAdmin, signature: try readSignature(&reader))
  }

  /// Writes the certificate: header, keys, name, admin, signature.
  package func encode(to writer: inout ByteWriter) {
    encodeUnsigned(to: &writer)
    writer.raw(signature.bytes)
  }

  func encodeUnsigned(to writer: inout ByteWriter) {
    header.encode(kind: Self.kind, to: &writer)
    writer.raw(signingKey.bytes)
    writer.raw(agreementKey.bytes)
    writer.raw(sealingKey.bytes)
    writer.text(name)
    writer.flag(isAdmin)
  }

  private var message: [UInt8] {
    var writer = ByteWriter(reserving: 320)
    writer.text(EntryHeader.domain)
    encodeUnsigned(to: &writer)
    return writer.bytes
  }
}

extension Signature {
  /// Stands for a signature that has not been made.
  static var zero: Signature {
    guard let signature = Signature(bytes: [UInt8](repeating: 0, count: byteCount)) else {
      preconditionFailure("a signature of \(byteCount) bytes")
    }
    return signature
  }
}
