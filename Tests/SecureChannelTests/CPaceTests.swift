import CryptoPrimitives
import SecureChannel
import Testing

/// keys/vectors/cpace-ristretto255-sha512.json, every value in hexadecimal.
private struct CPaceVectors: Decodable {
  struct Exchange: Decodable {
    let PRS, CI, sid, g, ya, ADa, Ya, yb, ADb, Yb, K, ISK_IR: String
  }
  struct Scalars: Decodable {
    let valid: [String: String]
    let invalid1: String
    let invalid2: String
    enum CodingKeys: String, CodingKey {
      case valid = "Valid"
      case invalid1 = "Invalid Y1"
      case invalid2 = "Invalid Y2"
    }
  }
  let strings: [[String: String]]
  let `protocol`: Exchange
  let scalars: Scalars
}

private func vectors() throws -> CPaceVectors {
  try PublishedVectors.decoded("cpace-ristretto255-sha512.json", as: CPaceVectors.self)
}

private func scalar(_ bytes: [UInt8]) throws -> RistrettoScalar {
  guard let scalar = RistrettoScalar(bytes: SecretBytes(copying: bytes)) else {
    throw CPaceTestFailure.noScalar
  }
  return scalar
}

private enum CPaceTestFailure: Error { case noScalar, noKey }

private func exchange(
  _ code: [UInt8], channel: [UInt8] = [1], sessionID: [UInt8] = [2], seed: UInt64
) -> CPace {
  var entropy = SeededEntropy(seed: seed)
  return CPace(
    code: SecretBytes(copying: code), channel: channel, sessionID: sessionID,
    scalar: RistrettoScalar(entropy: &entropy))
}

@Suite("CPace")
struct CPaceTests {
  @Test("lv_cat is the draft's, with LEB128 lengths below and above 127")
  func lengthsAndValues() throws {
    let strings = try vectors().strings
    #expect(
      CPace.lengthsAndValues(Array("1234".utf8), Array("5".utf8), [], Array("678".utf8))
        == hex(try #require(strings[1]["lv_cat(b'1234',b'5',b'',b'678')"])))
    for count in [127, 128] {
      #expect(
        CPace.lengthsAndValues((0..<count).map { UInt8($0) })
          == hex(try #require(strings[0]["prepend_len(bytes(range(\(count))))"])))
    }
  }

  @Test("generator, shares and key are those of draft-irtf-cfrg-cpace, appendix B.3")
  func draftVector() throws {
    let vector = try vectors().protocol
    let code = SecretBytes(copying: hex(vector.PRS))
    let generator = CPace.generator(code: code, channel: hex(vector.CI), sessionID: hex(vector.sid))
    #expect(generator.withUnsafeBytes { Array($0) } == hex(vector.g))
    let a = CPace(
      code: code, channel: hex(vector.CI), sessionID: hex(vector.sid), scalar: try scalar(hex(vector.ya)))
    let b = CPace(
      code: code, channel: hex(vector.CI), sessionID: hex(vector.sid), scalar: try scalar(hex(vector.yb)))
    let shares = (a.share, b.share)
    #expect(shares.0 == hex(vector.Ya))
    #expect(shares.1 == hex(vector.Yb))
    guard
      let keyOfA = a.key(
        with: shares.1, isFirst: true, ownAssociated: hex(vector.ADa), otherAssociated: hex(vector.ADb)),
      let keyOfB = b.key(
        with: shares.0, isFirst: false, ownAssociated: hex(vector.ADb), otherAssociated: hex(vector.ADa))
    else { throw CPaceTestFailure.noKey }
    #expect(keyOfA.secret.withUnsafeBytes { Array($0) } == hex(vector.ISK_IR))
    #expect(keyOfB.secret.withUnsafeBytes { Array($0) } == hex(vector.ISK_IR))
    #expect(keyOfA.confirms(keyOfB.confirmation()) == true)
    #expect(keyOfB.confirms(keyOfA.confirmation()) == true)
    // A tag does not confirm itself: an echo is no proof.
    #expect(keyOfA.confirms(keyOfA.confirmation()) == false)
  }

  @Test("scalar_mult_vfy gives the draft's product and refuses its invalid points and the neutral element")
  func scalarMultiplication() throws {
    let scalars = try vectors().scalars
    let factor = try scalar(hex(try #require(scalars.valid["s"])))
    let point = SecretBytes(copying: hex(try #require(scalars.valid["X"])))
    guard let product = factor.times(point) else { throw CPaceTestFailure.noKey }
    #expect(
      product.withUnsafeBytes { Array($0) } == hex(try #require(scalars.valid["G.scalar_mult_vfy(s,X)"])))
    for invalid in [scalars.invalid1, scalars.invalid2] {
      let isRefused = factor.times(SecretBytes(copying: hex(invalid))) == nil
      #expect(isRefused, "\(invalid)")
      let a = exchange([1, 2, 3], seed: 1)
      let isAborted = a.key(with: hex(invalid), isFirst: true) == nil
      #expect(isAborted, "\(invalid)")
    }
  }

  @Test("another code, channel or session gives another key, and the confirmation shows it")
  func differencesShow() throws {
    let base = (code: Array("48219037".utf8), channel: [UInt8](1...9), sessionID: [UInt8](10...20))
    let others: [(code: [UInt8], channel: [UInt8], sessionID: [UInt8])] = [
      (Array("48219038".utf8), base.channel, base.sessionID), (base.code, [1], base.sessionID),
      (base.code, base.channel, [10]),
    ]
    for other in others {
      let a = exchange(base.code, channel: base.channel, sessionID: base.sessionID, seed: 1)
      let b = exchange(other.code, channel: other.channel, sessionID: other.sessionID, seed: 2)
      guard let keyOfA = a.key(with: b.share, isFirst: true),
        let keyOfB = b.key(with: a.share, isFirst: false)
      else { throw CPaceTestFailure.noKey }
      let isSame = keyOfA.secret.hasSameBytes(as: keyOfB.secret)
      #expect(!isSame)
      #expect(keyOfA.confirms(keyOfB.confirmation()) == false)
      #expect(keyOfB.confirms(keyOfA.confirmation()) == false)
    }
  }

  @Test("both sides taking the same place, or other associated data, do not agree")
  func placesAndAssociatedData() throws {
    let a = exchange([7], seed: 1)
    let b = exchange([7], seed: 2)
    guard let first = a.key(with: b.share, isFirst: true),
      let alsoFirst = b.key(with: a.share, isFirst: true),
      let told = b.key(with: a.share, isFirst: false, otherAssociated: [1])
    else { throw CPaceTestFailure.noKey }
    #expect(first.confirms(alsoFirst.confirmation()) == false)
    #expect(first.confirms(told.confirmation()) == false)
  }

  @Test("a share of another length is refused")
  func wrongLength() {
    let a = exchange([7], seed: 1)
    for count in [0, 31, 33] {
      let isRefused = a.key(with: [UInt8](repeating: 1, count: count), isFirst: true) == nil
      #expect(isRefused)
    }
  }
}
