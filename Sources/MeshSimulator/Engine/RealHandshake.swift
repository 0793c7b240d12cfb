import CryptoPrimitives
import HouseholdTrust
import MeshModel
import MeshProtocol
import SecureChannel
import Synchronization

/// The handshake with its cryptography, for scenarios that want it; keys come from the seed, TEST-ONLY.
///
/// A reference, because the handshake is not copyable and a simulated connection is a value.
final class RealHandshake: Sendable {
  private let handshake: Mutex<SessionHandshake>

  /// The side that dials.
  init(
    dialling purpose: SessionPurpose, expecting: DeviceID?, offering key: NetworkKey?,
    as identity: HandshakeIdentity, seed: UInt64
  ) {
    var entropy = SeededEntropy(seed: seed)
    handshake = Mutex(
      SessionHandshake(
        dialling: purpose, expecting: expecting, offering: key, as: identity, entropy: &entropy))
  }

  /// The side that was dialled.
  init(accepting identity: HandshakeIdentity, seed: UInt64) {
    var entropy = SeededEntropy(seed: seed)
    handshake = Mutex(SessionHandshake(accepting: identity, entropy: &entropy))
  }

  /// The first effects.
  func start() -> [HandshakeEffect] { handshake.withLock { $0.start() } }

  /// Takes bytes.
  func receive(_ bytes: [UInt8]) -> [HandshakeEffect] { handshake.withLock { $0.receive(bytes) } }
}
