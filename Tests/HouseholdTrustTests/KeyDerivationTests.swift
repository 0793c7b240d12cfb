import CryptoPrimitives
import HouseholdTrust
import MeshModel
import Testing
import WireCoding

/// Expected values computed by a Python program of its own (hashlib's BLAKE2b; Ed25519 and X25519 of OpenSSL).
@Suite struct KeyDerivationTests {
  private func keys(_ seed: [UInt8]) -> DeviceKeys? { DeviceKeys(seed: secret(seed)) }

  private func secret(_ bytes: [UInt8]) -> SecretBytes {
    var bytes = bytes
    return SecretBytes(wiping: &bytes)
  }

  @Test("A device's three keys are those of an independent implementation")
  func deviceKeys() throws {
    let keys = try #require(self.keys(Array(0..<32)))
    #expect(
      keys.signing.publicKey.description == "92cb3c58a378cb7e3851bf458b1ca0777188e535cb29da9ad30480cbc2ade6ca"
    )
    #expect(
      keys.agreement.publicKey.description
        == "5d23e2d995cc668e616878ce4ea232bfb7ef9c72ca59cdbcc7abf08e6b328640")
    #expect(
      keys.sealing.publicKey.description == "385d27a8e563251e3eedc97e99926d1918fd9a617e4ce8810b0b0b3af28a9236"
    )
    #expect(keys.device.description == "0eeeec2f8380734dfa1c3e62e05bf511")
    #expect(keys.seedCopy().withUnsafeBytes { Array($0) } == Array(0..<32))
  }

  @Test("A seed of another length makes no keys", arguments: [0, 16, 31, 33, 64])
  func seedLength(_ count: Int) {
    #expect(keys([UInt8](repeating: 1, count: count)) == nil)
  }

  @Test("A network key's derivations are those of an independent implementation")
  func networkKey() {
    var entropy = FixedEntropy(bytes: Array(0..<32))
    let key = NetworkKey(epoch: 7, entropy: &entropy)
    #expect(
      hexadecimal(key.noisePSK().withUnsafeBytes { Array($0) })
        == "2259401af24b63b7b2a2ab01bac6bb64a7f99a0c30f9b537077bb20090991b4a")
    #expect(
      hexadecimal(key.beaconKey().withUnsafeBytes { Array($0) })
        == "aa9c3c98da43b9a82ea88cdefe0262d14ad6a3b4eb95754ed61f6b38d2bc062e")
    #expect(key.householdTag == 0x6111_8cca_4f00_0dc9)
    #expect(hexadecimal(key.epochHint) == "6020d7e40a29793d")
    #expect(key.id.epoch == 7)
    #expect(hexadecimal(key.id.check) == "8f66a928da610a285f6de7c4c4952663")
  }

  @Test("No description, reflection or dump of what holds secrets shows a secret")
  func secretsAreNotPrinted() throws {
    var entropy = SeededEntropy(seed: 8)
    let phrase = RecoveryPhrase(entropy: &entropy)
    let keys = DeviceKeys(entropy: &entropy)
    let household = try Household(creating: phrase, keys: keys, name: "desk", entropy: &entropy)
    let key = try #require(household.ring.current)
    var printed = ""
    dump(household, to: &printed, maxItems: 100_000)
    dump(household.snapshot, to: &printed, maxItems: 100_000)
    for text in [
      String(describing: keys), String(reflecting: keys), String(describing: key), String(reflecting: key),
      String(describing: household.ring), String(reflecting: household.snapshot), "\(household)",
    ] { printed += text }
    for bytes in [
      keys.seedCopy().withUnsafeBytes { Array($0) },
      keys.agreement.privateBytes().withUnsafeBytes { Array($0) },
      keys.sealing.privateBytes().withUnsafeBytes { Array($0) },
      keys.signing.seed().withUnsafeBytes { Array($0) }, key.noisePSK().withUnsafeBytes { Array($0) },
      key.beaconKey().withUnsafeBytes { Array($0) },
    ] {
      // As hexadecimal digits, as a list of numbers, and as an element of a dump.
      #expect(!printed.contains(hexadecimal(bytes.prefix(4))))
      #expect(!printed.contains(bytes.prefix(4).map(String.init).joined(separator: ", ")))
      #expect(!printed.contains(bytes.prefix(4).map { "- \($0)\n" }.joined()))
    }
    #expect(!printed.contains(phrase.revealed().prefix(5)))
    // The dump is no empty text: public parts are in it.
    #expect(printed.contains("\(keys.device)"))
  }

  @Test("A machine binding fits its own machine only, with or without the line break of /etc/machine-id")
  func machineBinding() throws {
    var entropy = SeededEntropy(seed: 9)
    let id = Array("1f8e6b3c2d4a5968778695a4b3c2d1e0\n".utf8)
    let binding = MachineBinding(machineID: id, entropy: &entropy)
    #expect(binding.matches(machineID: id))
    #expect(binding.matches(machineID: Array(id.dropLast())))
    #expect(!binding.matches(machineID: Array("1f8e6b3c2d4a5968778695a4b3c2d1e1\n".utf8)))
    #expect(!binding.matches(machineID: []))
    #expect(try MachineBinding(decoding: binding.encoded) == binding)
    // Two devices of one machine do not show that they are.
    #expect(MachineBinding(machineID: id, entropy: &entropy).encoded != binding.encoded)
    #expect(!binding.encoded.contains(id.prefix(8)))
  }
}
