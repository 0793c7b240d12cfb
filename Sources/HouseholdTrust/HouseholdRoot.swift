package import CryptoPrimitives

/// The private key at the root of a household: it makes the first admin, and a new one when all are lost.
///
/// It exists in memory only between the making of a household (or the typing of the phrase) and the end of that
/// command; on disk it never is.
package struct HouseholdRoot: ~Copyable, Sendable {
  /// Signs the genesis and the root's entries.
  package let key: SigningKey

  /// The root that a recovery phrase stands for.
  package init(_ phrase: borrowing RecoveryPhrase) {
    let seed = deriveSecret(label: "hearth household root 1", from: phrase.secret)
    guard let key = SigningKey(seed: seed) else { preconditionFailure("a derived seed has 32 bytes") }
    self.key = key
  }

  /// The public half, as the genesis names it.
  package var publicKey: SigningPublicKey { key.publicKey }
}

/// 32 secret bytes for one purpose, derived from a secret: BLAKE2b-256 of the label (length-prefixed) and the secret.
func deriveSecret(label: String, from secret: borrowing SecretBytes) -> SecretBytes {
  var bytes = deriveBytes(label: label, from: secret, count: 32)
  return SecretBytes(wiping: &bytes)
}

/// Bytes that may be shown, derived from a secret for one purpose.
func deriveBytes(label: String, from secret: borrowing SecretBytes, count: Int) -> [UInt8] {
  var hasher = ContentHasher(digestByteCount: count)
  hasher.update(label)
  secret.withUnsafeBytes { hasher.update($0) }
  return hasher.finalizeBytes()
}
