import CryptoPrimitives
import Testing

private func cipher() -> ChaChaPoly { ChaChaPoly(key: SecretBytes(copying: [UInt8](0..<32))) }

@Suite("ChaCha20-Poly1305")
struct ChaChaPolyTests {
  @Test(
    "the nonce is four zero bytes and the counter, little-endian, as Noise §12.3 says",
    arguments: [
      // Made with pyca/cryptography 48.0.0 (OpenSSL) from the same key, nonce, message and associated data.
      (0, "50dd2343d98e86ba76042c128f2a3a0790de9e908521b47a4ee373c3906e4a6b7d090ed6"),
      (1, "d732922dc1428f734cd3de2f72fceda7ad12866bcc56d838ddd6bd0131fdaacf388c3c84"),
      (0x0102_0304_0506_0708, "b82ccc96df51ca7301ce5abf5311159888699fa1d709912050640d69b9181acdf342d9ea"),
      (UInt64.max - 1, "18725b775855a1ff3f9b4a76aa607750cd3cc0d091d749da9edd90daa71ca9f45d11b741"),
    ])
  func otherLibrary(_ counter: UInt64, _ expected: String) throws {
    let message = Array("Hearth keeps it home".utf8)
    let associated = Array("associated".utf8)
    let sealed = cipher().sealed(message, counter: counter, associated: associated)
    #expect(hexadecimal(sealed) == expected)
    #expect(cipher().opened(sealed, counter: counter, associated: associated) == message)
    #expect(cipher().opened(sealed, counter: counter &+ 1, associated: associated) == nil)
    #expect(cipher().opened(sealed, counter: counter, associated: []) == nil)
    #expect(cipher().opened(sealed.prefix(15), counter: counter, associated: associated) == nil)
  }

  @Test("REKEY is the first 32 bytes of zeros sealed under the counter 2^64-1 (Noise §4.2)")
  func rekey() {
    // The key stream from `openssl enc -chacha20` with block counter 1 and a nonce of four zero and eight 0xff
    // bytes, over 32 zeros, under the key 00..1f.
    let next = secret("50835543a205b22c9323f2022bc4f67d838f90e61d5ccf33c4513e01f85b5042")
    var rekeyed = cipher()
    rekeyed.rekey()
    let expected = ChaChaPoly(key: next)
    #expect(rekeyed.sealed([1, 2, 3], counter: 9) == expected.sealed([1, 2, 3], counter: 9))
  }
}

@Suite("SHA-512 and HMAC")
struct SHA512Tests {
  @Test("SHA-512 of abc is the example of FIPS 180-4, whole, in parts and around a secret")
  func exampleOfTheStandard() {
    let expected =
      "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
      + "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
    #expect(SHA512Digest(of: Array("abc".utf8)).description == expected)
    #expect(SHA512Digest(of: Array("a".utf8), [], Array("bc".utf8)).description == expected)
    let around = SHA512Digest.secret(
      before: Array("a".utf8), secret: SecretBytes(copying: Array("b".utf8)), after: Array("c".utf8))
    #expect(hexadecimal(revealed(around)) == expected)
  }

  @Test(
    "HMAC-SHA-512 gives the tags of RFC 4231, cases 1 and 2",
    arguments: [
      (
        [UInt8](repeating: 0x0b, count: 20), "Hi There",
        "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cde"
          + "daa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854"
      ),
      (
        Array("Jefe".utf8), "what do ya want for nothing?",
        "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"
          + "9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737"
      ),
    ])
  func authentication(_ key: [UInt8], _ message: String, _ expected: String) {
    let tag = HMACSHA512.tag(of: Array(message.utf8), key: SecretBytes(copying: key))
    #expect(hexadecimal(tag) == expected)
  }

  @Test("Noise's HKDF gives HMACs of 1, 2 and 3 behind each other (§4.3)")
  func noiseKeys() {
    // Made with Python's hmac from the chaining key 00..3f and the input 64..83.
    let expected = hex(
      "c4d42ec3c5954a2ff3cf8b1e9a0172917563a0673bd32fce0bc131a3ce7b9be5785dc50c8c1bf5e227343c6b7e0801efa5a915da"
        + "ac34c48643bf4cf2b2c90405d48bed19c06051da9fa58364ea0a97587374517d7c4a126d827d27b019be2210f87805df1faa9f"
        + "902bb67707e44c173b507bc758b02456e597b9514aabf4db02d1d5b82b84d314427cd66d6d85afd9ae097b7a812b0b1112e6dd"
        + "47a053b7ee84465797a8cb59ec7a00c088a14bb231bcdfd002bfabbd2a62daab497f9c933737")
    let chainingKey = SecretBytes(copying: [UInt8](0..<64))
    let input = SecretBytes(copying: [UInt8](100..<132))
    let three = HMACSHA512.noiseKeys(chainingKey: chainingKey, input: input, outputs: 3)
    #expect(revealed(three) == expected)
    let two = HMACSHA512.noiseKeys(chainingKey: chainingKey, input: input, outputs: 2)
    #expect(revealed(two) == Array(expected.prefix(128)))
  }

  @Test("keyed BLAKE2b takes its key from a secret as from an array; the tag is that of Python's hashlib")
  func keyedBLAKE2b() {
    var fromSecret = ContentHasher(key: SecretBytes(copying: [UInt8](0..<32)))
    fromSecret.update(bytes: Array("abc".utf8))
    var fromArray = ContentHasher(key: [UInt8](0..<32))
    fromArray.update(bytes: Array("abc".utf8))
    let tags = (fromSecret.finalize().description, fromArray.finalize().description)
    #expect(tags.0 == "d63a32d3e44738d7907f964316c241adaba0abfeabc32349677578a15a203f7f")
    #expect(tags.1 == tags.0)
  }
}

@Suite("ristretto255")
struct RistrettoTests {
  @Test("2 times the generator and the map of 64 bytes are those of RFC 9496, appendix A")
  func examplesOfTheRFC() throws {
    let generator = secret("e2f2ae0a6abc4e71a884a961c500515f58e30b6aa582dd8db6a65945e08d2d76")
    guard let two = RistrettoScalar(bytes: SecretBytes(copying: [2] + [UInt8](repeating: 0, count: 31))),
      let product = two.times(generator)
    else { throw MissingValue.noSecret }
    #expect(
      revealed(product) == hex("6a493210f7499cd17fecb510ae0cea23a110e8d5b901f8acadd3095c73a3b919"))
    let input = SHA512Digest(of: Array("Ristretto is traditionally a short shot of espresso coffee".utf8))
    #expect(
      revealed(RistrettoPoint.mapped(from: SecretBytes(copying: input.bytes)))
        == hex("3066f82a1a747d45120d1740f14358531a8f04bbffe6a819f86dfe50f44a0a46"))
  }

  @Test(
    "scalars times a point are the same in either order, and encodings that are not canonical are refused")
  func commutes() throws {
    var entropy = SeededEntropy(seed: 9)
    let (one, other) = (entropy.bytes(64), entropy.bytes(64))
    #expect(one != other)
    let first = RistrettoScalar(entropy: &entropy)
    let second = RistrettoScalar(entropy: &entropy)
    let point = RistrettoPoint.mapped(from: SecretBytes(copying: one))
    guard let a = first.times(point), let b = second.times(point), let ab = second.times(a),
      let ba = first.times(b)
    else { throw MissingValue.noSecret }
    #expect(ab.hasSameBytes(as: ba) == true)
    // Not below the field's prime, and negative: RFC 9496, appendix A.2.
    for bad in [
      "00ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
      "0100000000000000000000000000000000000000000000000000000000000000",
    ] {
      #expect(!RistrettoPoint.isValid(hex(bad)))
      let isRefused = first.times(secret(bad)) == nil
      #expect(isRefused)
    }
    let neutralIsRefused = first.times(SecretBytes(count: 32) { _ in }) == nil
    #expect(neutralIsRefused)
  }
}

@Suite("ChaCha20-Poly1305 for bulk")
struct BulkChaChaPolyTests {
  @Test(
    "OpenSSL and libsodium seal to the same bytes and open each other's, at every length and after rekeys")
  func sameBytes() {
    let key = SecretBytes(copying: [UInt8](0..<32))
    var fast = BulkChaChaPoly(key: key.copy(), .sealing)
    var plain = BulkChaChaPoly.byLibsodium(key: key.copy(), .sealing)
    var fastOpener = BulkChaChaPoly(key: key.copy(), .opening)
    var plainOpener = BulkChaChaPoly.byLibsodium(key: key.copy(), .opening)
    #expect(plain.usesOpenSSL == false)
    var entropy = SeededEntropy(seed: 11)
    let counts = Array(0..<600) + [1_023, 1_024, 4_096, 16_384, 65_519]
    for (index, count) in counts.enumerated() {
      let message = entropy.bytes(count)
      let counter = index % 7 == 0 ? entropy.integer() : UInt64(index)
      var one = message + [UInt8](repeating: 0, count: 16)
      var other = one
      one.withUnsafeMutableBytes { fast.seal($0, counter: counter) }
      other.withUnsafeMutableBytes { plain.seal($0, counter: counter) }
      #expect(one == other, "\(count) bytes")
      var changed = one
      changed[entropy.bytes(1)[0] % 16 < 8 ? 0 : count] ^= 1
      let opens = one.withUnsafeMutableBytes { plainOpener.open($0, counter: counter) }
      let opensOther = other.withUnsafeMutableBytes { fastOpener.open($0, counter: counter) }
      let opensChanged = changed.withUnsafeMutableBytes { fastOpener.open($0, counter: counter) }
      #expect(opens && opensOther && !opensChanged)
      #expect(Array(one.prefix(count)) == message && Array(other.prefix(count)) == message)
      if index % 100 == 99 {
        fast.rekey()
        plain.rekey()
        fastOpener.rekey()
        plainOpener.rekey()
      }
    }
    var short = [UInt8](repeating: 0, count: 15)
    let opensShort = short.withUnsafeMutableBytes { fastOpener.open($0, counter: 0) }
    #expect(!opensShort)
  }

  @Test(
    "a message whose end lies elsewhere is sealed to the bytes of one that lies together, wherever it is cut")
  func tails() {
    let key = SecretBytes(copying: [UInt8](1...32))
    var together = BulkChaChaPoly(key: key.copy(), .sealing)
    var apart = BulkChaChaPoly(key: key.copy(), .sealing)
    var plain = BulkChaChaPoly.byLibsodium(key: key.copy(), .sealing)
    var entropy = SeededEntropy(seed: 12)
    for (index, count) in [1, 15, 61, 64, 127, 128, 1_000, 16_384, 61_501].enumerated() {
      let message = entropy.bytes(count)
      let counter = UInt64(index)
      var expected = message + [UInt8](repeating: 0, count: 16)
      expected.withUnsafeMutableBytes { together.seal($0, counter: counter) }
      for cut in [0, 1, 61, 63, 64, 65, count / 2, count - 1, count] where (0...count).contains(cut) {
        // What stands in the tail's place is not read.
        let record = message[..<cut] + [UInt8](repeating: 0xA5, count: count - cut + 16)
        var (one, other) = (Array(record), Array(record))
        message[cut...].withUnsafeBytes { tail in
          one.withUnsafeMutableBytes { apart.seal($0, tail: tail, counter: counter) }
          other.withUnsafeMutableBytes { plain.seal($0, tail: tail, counter: counter) }
        }
        #expect(one == expected && other == expected, "\(count) bytes, cut at \(cut)")
      }
    }
  }
}
