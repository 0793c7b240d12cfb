package import CryptoPrimitives
package import MeshModel

/// The three private keys of a device: one signs, one agrees with peers (Noise), one opens what is sealed to it.
///
/// All come from one seed by labelled derivations, so that 32 bytes are what the disk keeps, and no key is used for
/// two purposes.
package final class DeviceKeys: Sendable {
  /// Bytes of the seed.
  package static let seedByteCount = 32

  /// Signs log entries and plans.
  package let signing: SigningKey
  /// The static key of the Noise handshake.
  package let agreement: AgreementKey
  /// Opens network keys that are sealed for this device.
  package let sealing: SealingKey
  /// The device that these keys make.
  package let device: DeviceID
  private let seed: SecretBytes

  /// New keys.
  package convenience init(entropy: inout some EntropySource) {
    let seed = SecretBytes(count: Self.seedByteCount, entropy: &entropy)
    self.init(unchecked: seed)
  }

  /// The keys of a seed that was kept; nil unless it has 32 bytes.
  package convenience init?(seed: borrowing SecretBytes) {
    guard seed.count == Self.seedByteCount else { return nil }
    self.init(unchecked: seed.copy())
  }

  private init(unchecked seed: consuming SecretBytes) {
    guard let signing = SigningKey(seed: deriveSecret(label: "hearth device signing 1", from: seed)),
      let agreement = AgreementKey(
        privateBytes: deriveSecret(label: "hearth device agreement 1", from: seed)),
      let sealing = SealingKey(privateBytes: deriveSecret(label: "hearth device sealing 1", from: seed))
    else { preconditionFailure("derived keys have 32 bytes") }
    device = DeviceID(of: signing.publicKey)
    self.signing = signing
    self.agreement = agreement
    self.sealing = sealing
    self.seed = seed
  }

  /// A copy of the seed, to keep on disk.
  package func seedCopy() -> SecretBytes { seed.copy() }
}
