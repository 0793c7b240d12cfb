package import CryptoPrimitives
package import WireCoding

/// What a device that wants to join sends: its public keys and its name, signed with its own key.
///
/// The signature also covers a binding, for instance the pairing handshake's hash, so that a request proves that the
/// device in this very exchange has the key, and cannot be used in another.
package struct AdmissionRequest: Hashable, Sendable, WireCodable {
  private static let domain = "hearth admission request 1"

  /// Will verify what the device signs.
  package let signingKey: SigningPublicKey
  /// Will be the device's Noise static key.
  package let agreementKey: AgreementPublicKey
  /// Network keys will be sealed to it.
  package let sealingKey: SealingPublicKey
  /// How the device wants to be called.
  package let name: String
  private let signature: Signature

  /// The request of the device with these keys; throws when the name is none.
  package init(keys: DeviceKeys, name: String, binding: [UInt8]) throws(TrustFailure) {
    guard isValidDeviceName(name) else { throw .invalidName(byteCount: name.utf8.count) }
    signingKey = keys.signing.publicKey
    agreementKey = keys.agreement.publicKey
    sealingKey = keys.sealing.publicKey
    self.name = name
    signature = keys.signing.sign(
      Self.message(signingKey, agreementKey, sealingKey, name, binding: binding))
  }

  /// Whether the holder of the signing key made the request for this binding.
  package func isSigned(for binding: [UInt8]) -> Bool {
    signingKey.verifies(
      signature, of: Self.message(signingKey, agreementKey, sealingKey, name, binding: binding))
  }

  /// Reads a request; the signature is not verified yet.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    signingKey = try readSigningKey(&reader, "signing key")
    agreementKey = try readAgreementKey(&reader)
    sealingKey = try readSealingKey(&reader)
    name = try readDeviceName(&reader)
    signature = try readSignature(&reader)
  }

  /// Writes the request.
  package func encode(to writer: inout ByteWriter) {
    writer.raw(signingKey.bytes)
    writer.raw(agreementKey.bytes)
    writer.raw(sealingKey.bytes)
    writer.text(name)
    writer.raw(signature.bytes)
  }

  private static func message(
    _ signingKey: SigningPublicKey, _ agreementKey: AgreementPublicKey, _ sealingKey: SealingPublicKey,
    _ name: String, binding: [UInt8]
  ) -> [UInt8] {
    var writer = ByteWriter(reserving: 256)
    writer.text(domain)
    writer.lengthPrefixed(binding)
    writer.raw(signingKey.bytes)
    writer.raw(agreementKey.bytes)
    writer.raw(sealingKey.bytes)
    writer.text(name)
    return writer.bytes
  }
}
