import CryptoPrimitives
import Testing

/// BLAKE2b-256 of "abc" and of nothing, as published with the reference implementation's vectors.
private let digestOfABC = "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319"
private let digestOfNothing = "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8"

@Suite("Content digests")
struct ContentDigestTests {
  @Test("BLAKE2b-256 of the published texts gives the published digests")
  func publishedVectors() {
    #expect(ContentDigest(of: Array("abc".utf8)).description == digestOfABC)
    #expect(ContentDigest(of: []).description == digestOfNothing)
  }

  @Test("BLAKE2b-512 of abc is the example of RFC 7693, appendix A")
  func exampleOfTheRFC() {
    var hasher = ContentHasher(digestByteCount: 64)
    hasher.update(bytes: Array("abc".utf8))
    let digest = hasher.finalizeBytes()
    #expect(
      hexadecimal(digest)
        == "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1"
        + "7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923")
  }

  @Test("all lengths and keys of RFC 7693's self-test hash to its grand digest (appendix E)")
  func selfTestOfTheRFC() {
    // The input is a Fibonacci generator over 32 bits that the RFC defines.
    func sequence(_ count: Int, seed: UInt32) -> [UInt8] {
      var a = 0xDEAD_4BAD &* seed
      var b: UInt32 = 1
      return (0..<count).map { _ in
        let sum = a &+ b
        a = b
        b = sum
        return UInt8(sum >> 24)
      }
    }
    var grand = ContentHasher()
    for digestByteCount in [20, 32, 48, 64] {
      for inputByteCount in [0, 3, 128, 129, 255, 1024] {
        let input = sequence(inputByteCount, seed: UInt32(inputByteCount))
        var plain = ContentHasher(digestByteCount: digestByteCount)
        plain.update(bytes: input)
        grand.update(bytes: plain.finalizeBytes())
        var keyed = ContentHasher(
          digestByteCount: digestByteCount, key: sequence(digestByteCount, seed: UInt32(digestByteCount)))
        keyed.update(bytes: input)
        grand.update(bytes: keyed.finalizeBytes())
      }
    }
    let digest = grand.finalize()
    #expect(
      digest.description == "c23a7800d98123bd10f506c61e29da5603d763b8bbad2e737f5e765a7bccd475")
  }

  @Test("the 128-bit digest is BLAKE2b with that length, not a cut of the longer one")
  func shortDigest() {
    var hasher = ContentHasher(digestByteCount: 16)
    hasher.update(bytes: Array("abc".utf8))
    let digest = hasher.finalizeBytes()
    #expect(hexadecimal(digest) == "cf4ab791c62b8d2b2109c90275287816")
  }

  @Test("pieces of a stream hash like the whole")
  func streaming() {
    let bytes = (0..<1000).map { UInt8(truncatingIfNeeded: $0 &* 7) }
    for cut in [0, 1, 127, 128, 129, 500, 1000] {
      var hasher = ContentHasher()
      hasher.update(bytes: Array(bytes[..<cut]))
      hasher.update(bytes: Array(bytes[cut...]))
      let digest = hasher.finalize()
      #expect(digest == ContentDigest(of: bytes), "cut at \(cut)")
    }
  }

  @Test("integers enter little-endian at their width, strings behind their length")
  func fieldEncodings() {
    var fields = ContentHasher()
    fields.update(UInt32(0x0102_0304))
    fields.update(5)
    fields.update("ab")
    fields.update([Int32(-1)])
    let expected: [UInt8] =
      [4, 3, 2, 1] + [5, 0, 0, 0, 0, 0, 0, 0] + [2, 0, 0, 0, 0, 0, 0, 0, 97, 98]
      + [1, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255]
    let digest = fields.finalize()
    #expect(digest == ContentDigest(of: expected))
  }

  @Test("two strings that join to the same text hash differently")
  func stringsAreSeparated() {
    func digest(_ fields: [String]) -> ContentDigest {
      var hasher = ContentHasher()
      for field in fields { hasher.update(field) }
      return hasher.finalize()
    }
    #expect(digest(["ab", "c"]) != digest(["a", "bc"]))
  }

  @Test("hexadecimal text is read in either case and refused when it is not 64 digits")
  func hexadecimalText() throws {
    let digest = ContentDigest(of: Array("abc".utf8))
    #expect(ContentDigest(hexadecimal: digestOfABC) == digest)
    #expect(ContentDigest(hexadecimal: digestOfABC.uppercased()) == digest)
    #expect(ContentDigest(bytes: digest.bytes) == digest)
    #expect(ContentDigest(hexadecimal: digestOfABC.dropLast()) == nil)
    #expect(ContentDigest(hexadecimal: digestOfABC + "00") == nil)
    #expect(ContentDigest(hexadecimal: digestOfABC.dropLast() + "g") == nil)
    #expect(ContentDigest(hexadecimal: "") == nil)
    #expect(ContentDigest(bytes: [1, 2, 3]) == nil)
  }

  @Test("digests order like their text")
  func order() {
    let digests = (0..<50).map { ContentDigest(of: [UInt8($0)]) }
    #expect(digests.sorted().map(\.description) == digests.map(\.description).sorted())
  }
}
