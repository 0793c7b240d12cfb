import CryptoPrimitives
import Determinism
import HouseholdTrust
import MeshModel
import MeshProtocol
import SecureChannel
import Testing

/// A household of seeded devices, the first of which is its admin.
struct TestHousehold {
  var entropy: SeededEntropy
  var devices: [Household] = []

  init(seed: UInt64, deviceCount: Int = 2) throws {
    entropy = SeededEntropy(seed: seed)
    let phrase = RecoveryPhrase(entropy: &entropy)
    let keys = DeviceKeys(entropy: &entropy)
    devices = [try Household(creating: phrase, keys: keys, name: "first", entropy: &entropy)]
    for number in 1..<deviceCount { try addDevice("device \(number)") }
  }

  /// Admits one more device and gives the new entries to all.
  mutating func addDevice(_ name: String) throws {
    let keys = DeviceKeys(entropy: &entropy)
    let request = try AdmissionRequest(keys: keys, name: name, binding: [1])
    let entries = try devices[0].admit(request, binding: [1], entropy: &entropy)
    for index in devices.indices.dropFirst() { _ = devices[index].merge(entries) }
    devices.append(try Household(log: Welcome(devices[0].log).log(), keys: keys))
  }

  func identity(
    _ index: Int, boot: UInt32 = 1, versions: WireVersions = .current, receiverIndex: UInt32 = 5
  ) -> HandshakeIdentity {
    HandshakeIdentity(
      trust: devices[index].snapshot, boot: BootID(counter: boot, nonce: UInt32(index)), versions: versions,
      features: 1 << UInt32(index), listeningPort: 7_000 + UInt16(index), receiverIndex: receiverIndex)
  }
}

/// Two handshakes and the bytes between them, which a test may change.
final class HandshakePair {
  var initiator: SessionHandshake
  var responder: SessionHandshake
  var initiatorSession: EstablishedSession?
  var responderSession: EstablishedSession?
  var initiatorFailure: HandshakeFailure?
  var responderFailure: HandshakeFailure?
  var pairingBytes: [UInt8]?
  /// Chunks that either side has sent, in order, for a test to change or record.
  var sent: [(fromInitiator: Bool, bytes: [UInt8])] = []

  init(
    _ initiator: HandshakeIdentity, _ responder: HandshakeIdentity, purpose: SessionPurpose = .control,
    expecting: DeviceID? = nil, offering: NetworkKey? = nil, seed: UInt64 = 1
  ) {
    var entropy = SeededEntropy(seed: seed)
    self.initiator = SessionHandshake(
      dialling: purpose, expecting: expecting, offering: offering, as: initiator, entropy: &entropy)
    self.responder = SessionHandshake(accepting: responder, entropy: &entropy)
  }

  /// Runs until nothing is under way; `change` sees each chunk with its number and gives what arrives.
  func run(change: (Int, [UInt8]) -> [UInt8] = { $1 }) {
    take(initiator.start(), fromInitiator: true)
    var next = 0
    while next < sent.count, sent.count < 100 {
      let (fromInitiator, bytes) = sent[next]
      let arriving = change(next, bytes)
      next += 1
      if fromInitiator {
        take(responder.receive(arriving), fromInitiator: false)
      } else {
        take(initiator.receive(arriving), fromInitiator: true)
      }
    }
  }

  private func take(_ effects: [HandshakeEffect], fromInitiator: Bool) {
    for effect in effects {
      switch effect {
      case .send(let bytes): sent.append((fromInitiator, bytes))
      case .established(let session):
        if fromInitiator { initiatorSession = session } else { responderSession = session }
      case .pairing(let received): pairingBytes = received
      case .failed(let failure):
        if fromInitiator { initiatorFailure = failure } else { responderFailure = failure }
      }
    }
  }
}
