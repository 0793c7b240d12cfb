import CryptoPrimitives
import Foundation
import Testing

func hex(_ text: String) -> [UInt8] {
  guard let bytes = decodeHexadecimal(text) else { preconditionFailure("'\(text)' is not hexadecimal") }
  return bytes
}

func secret(_ text: String) -> SecretBytes { SecretBytes(copying: hex(text)) }

func revealed(_ secret: borrowing SecretBytes) -> [UInt8] { secret.withUnsafeBytes { Array($0) } }

enum MissingValue: Error { case noKey, noSecret }

private func signingKey(seed: String) throws -> SigningKey {
  guard let key = SigningKey(seed: secret(seed)) else { throw MissingValue.noKey }
  return key
}

@Suite("Signing keys")
struct SigningKeyTests {
  @Test("key and signature are those of RFC 8032, section 7.1, test 2")
  func exampleOfTheRFC() throws {
    let key = try signingKey(seed: "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    let publicKey = key.publicKey
    #expect(publicKey.description == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
    let signature = key.sign([0x72])
    #expect(
      signature.description
        == "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        + "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00")
    #expect(publicKey.verifies(signature, of: [0x72]))
    #expect(!publicKey.verifies(signature, of: [0x73]))
    #expect(!publicKey.verifies(signature, of: []))
  }

  @Test("a signature with any byte changed, or by another key, does not verify")
  func changedSignature() throws {
    var entropy = SeededEntropy(seed: 1)
    let key = SigningKey(entropy: &entropy)
    let other = SigningKey(entropy: &entropy)
    let publicKey = key.publicKey
    let otherKey = other.publicKey
    let message = Array("a message".utf8)
    let signature = key.sign(message)
    #expect(!otherKey.verifies(signature, of: message))
    for position in signature.bytes.indices {
      var bytes = signature.bytes
      bytes[position] ^= 1
      let changed = try #require(Signature(bytes: bytes))
      #expect(!publicKey.verifies(changed, of: message))
    }
  }

  @Test("a public key of low order verifies nothing")
  func lowOrder() throws {
    // The neutral element with R the neutral element and S zero satisfies the bare equation for any message.
    let neutral = try #require(SigningPublicKey(bytes: [1] + [UInt8](repeating: 0, count: 31)))
    let forged = try #require(Signature(bytes: [1] + [UInt8](repeating: 0, count: 63)))
    #expect(!neutral.verifies(forged, of: Array("anything".utf8)))
  }

  @Test("the seed that is kept gives the same key again")
  func seedRoundTrip() throws {
    var entropy = SeededEntropy(seed: 2)
    let key = SigningKey(entropy: &entropy)
    guard let again = SigningKey(seed: key.seed()) else { throw MissingValue.noKey }
    let keys = (key.publicKey, again.publicKey)
    #expect(keys.0 == keys.1)
    let isNone = SigningKey(seed: SecretBytes(copying: [UInt8](repeating: 1, count: 31))) == nil
    #expect(isNone)
  }

  @Test("the public keys of the TEST-ONLY seeds are those that another library makes")
  func testOnlySeeds() throws {
    let file = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .deletingLastPathComponent().appendingPathComponent("keys/test/seeds.txt")
    let lines = try String(contentsOf: file, encoding: .utf8).split(separator: "\n")
      .filter { !$0.hasPrefix("#") }
    #expect(lines.count == 4)
    for line in lines {
      let columns = line.split(separator: " ").map(String.init)
      let seed = secret(columns[0])
      #expect(seed.isTestOnly == true)
      let signing = try signingKey(seed: columns[0]).publicKey
      #expect(signing.description == columns[1])
      guard let agreement = AgreementKey(privateBytes: seed) else { throw MissingValue.noKey }
      #expect(agreement.publicKey.description == columns[2])
    }
    #expect(secret("00ff").isTestOnly == false)
  }
}

@Suite("Agreement keys")
struct AgreementKeyTests {
  @Test("public keys and shared secret are those of RFC 7748, section 6.1")
  func exampleOfTheRFC() throws {
    guard
      let alice = AgreementKey(
        privateBytes: secret("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")),
      let bob = AgreementKey(
        privateBytes: secret("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
    else { throw MissingValue.noKey }
    #expect(
      alice.publicKey.description == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
    #expect(
      bob.publicKey.description == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
    guard let ofAlice = alice.sharedSecret(with: bob.publicKey),
      let ofBob = bob.sharedSecret(with: alice.publicKey)
    else { throw MissingValue.noSecret }
    #expect(
      revealed(ofAlice) == hex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"))
    #expect(ofAlice.hasSameBytes(as: ofBob) == true)
  }

  @Test("a copy agrees as the key does, and its private bytes are the same")
  func copies() throws {
    var entropy = SeededEntropy(seed: 3)
    let key = AgreementKey(entropy: &entropy)
    let peer = AgreementKey(entropy: &entropy).publicKey
    let copy = key.copy()
    #expect(key.privateBytes().hasSameBytes(as: copy.privateBytes()) == true)
    guard let one = key.sharedSecret(with: peer), let other = copy.sharedSecret(with: peer) else {
      throw MissingValue.noSecret
    }
    #expect(one.hasSameBytes(as: other) == true)
  }

  @Test("zero and one are no partners to agree with")
  func lowOrder() throws {
    var entropy = SeededEntropy(seed: 4)
    let key = AgreementKey(entropy: &entropy)
    for first in [UInt8(0), 1] {
      let point = try #require(AgreementPublicKey(bytes: [first] + [UInt8](repeating: 0, count: 31)))
      let isRefused = key.sharedSecret(with: point) == nil
      #expect(isRefused)
    }
  }
}

@Suite("Sealing keys")
struct SealingKeyTests {
  @Test("libsodium's crypto_box_seal_open opens what is sealed here, with the key it is for")
  func opens() throws {
    var entropy = SeededEntropy(seed: 5)
    let key = SealingKey(entropy: &entropy)
    let other = SealingKey(entropy: &entropy)
    for count in [0, 1, 32, 500] {
      let message = SecretBytes(copying: entropy.bytes(count))
      let box = try #require(key.publicKey.seal(message, entropy: &entropy))
      #expect(box.count == count + SealingPublicKey.overheadByteCount)
      guard let opened = key.open(box) else { throw MissingValue.noSecret }
      #expect(opened.hasSameBytes(as: message) == true)
      let isForOther = other.open(box) != nil
      #expect(!isForOther)
    }
  }

  @Test("a box with any byte changed or cut off does not open")
  func changed() throws {
    var entropy = SeededEntropy(seed: 6)
    let key = SealingKey(entropy: &entropy)
    let box = try #require(key.publicKey.seal(SecretBytes(copying: [1, 2, 3]), entropy: &entropy))
    for position in box.indices {
      var changed = box
      changed[position] ^= 0x10
      let opens = key.open(changed) != nil
      #expect(!opens, "byte \(position)")
      let opensCut = key.open(Array(box.prefix(position))) != nil
      #expect(!opensCut)
    }
  }

  @Test("nothing can be sealed to a point of low order")
  func lowOrder() throws {
    var entropy = SeededEntropy(seed: 7)
    let zero = try #require(SealingPublicKey(bytes: [UInt8](repeating: 0, count: 32)))
    #expect(zero.seal(SecretBytes(copying: [1]), entropy: &entropy) == nil)
  }

  @Test("public keys have 32 bytes and signatures 64")
  func lengths() {
    for count in [0, 31, 33] {
      let bytes = [UInt8](repeating: 1, count: count)
      #expect(SigningPublicKey(bytes: bytes) == nil)
      #expect(AgreementPublicKey(bytes: bytes) == nil)
      #expect(SealingPublicKey(bytes: bytes) == nil)
      #expect(Signature(bytes: bytes) == nil)
      let isAgreement = AgreementKey(privateBytes: SecretBytes(copying: bytes)) != nil
      let isSealing = SealingKey(privateBytes: SecretBytes(copying: bytes)) != nil
      let isScalar = RistrettoScalar(bytes: SecretBytes(copying: bytes)) != nil
      #expect(!isAgreement && !isSealing && !isScalar)
    }
  }
}
