import CryptoPrimitives
import HouseholdTrust
import Testing

/// A source that gives the same bytes over and over, for published and computed vectors.
struct FixedEntropy: EntropySource {
  var bytes: [UInt8]

  mutating func fill(_ buffer: UnsafeMutableRawBufferPointer) {
    for index in buffer.indices { buffer[index] = bytes[index % bytes.count] }
  }
}

@Suite struct RecoveryPhraseTests {
  private static let alphabet = Array("0123456789ABCDEFGHJKMNPQRSTVWXYZ")

  /// Computed by a Python program of its own: hashlib's BLAKE2b, GF(32) by tables of logarithms.
  private static let vectors: [(secret: [UInt8], phrase: String)] = [
    ([UInt8](repeating: 0, count: 16), "0000B-0000P-0000X-00009-00002-0000Z-01RZS-NYNPE"),
    (Array(0..<16), "000G3-40R4V-0M30P-E209V-185G8-R38EP-1W5DJ-4AV9R"),
    ([UInt8](repeating: 255, count: 16), "ZZZZ3-ZZZZY-ZZZZN-ZZZZ1-ZZZZA-ZZZZQ-ZW569-P9S4P"),
  ]

  private func phrase(_ secret: [UInt8]) -> String {
    var entropy = FixedEntropy(bytes: secret)
    return RecoveryPhrase(entropy: &entropy).revealed()
  }

  private func failure(_ text: String) -> RecoveryPhraseFailure? {
    do throws(RecoveryPhraseFailure) {
      _ = try RecoveryPhrase(typed: text)
      return nil
    } catch {
      return error
    }
  }

  @Test("Phrases are those of an independent implementation", arguments: 0..<3)
  func vectors(_ index: Int) throws {
    let (secret, expected) = Self.vectors[index]
    #expect(phrase(secret) == expected)
    #expect(try RecoveryPhrase(typed: expected).revealed() == expected)
  }

  @Test("The root's public key is that of an independent implementation")
  func rootKey() throws {
    let root = HouseholdRoot(try RecoveryPhrase(typed: Self.vectors[1].phrase))
    #expect(root.publicKey.description == "17bb7a9b76a60b33065e769763ebe8b7b7b129d8cde00f1e4a19f5b05f2e26da")
  }

  @Test("Case, blanks, missing hyphens and the letters O, I and L are forgiven")
  func leniency() throws {
    let (_, shown) = Self.vectors[1]
    for typed in [
      shown.lowercased(), shown.replacing("-", with: " "), shown.replacing("-", with: ""),
      "  " + shown.replacing("-", with: "\n") + " ",
      shown.replacing("0", with: "O").replacing("1", with: "l"),
      shown.replacing("0", with: "o").replacing("1", with: "I"),
    ] {
      #expect(try RecoveryPhrase(typed: typed).revealed() == shown, "\(typed)")
    }
  }

  @Test("Every single wrong character is found, and its group is named")
  func singleErrors() throws {
    for (_, shown) in Self.vectors {
      var characters = Array(shown)
      for place in characters.indices where characters[place] != "-" {
        let right = characters[place]
        for wrong in Self.alphabet where wrong != right {
          characters[place] = wrong
          #expect(failure(String(characters)) == .wrongGroups([place / 6 + 1]))
        }
        characters[place] = right
      }
    }
  }

  @Test("Any two exchanged characters of a group are found, and the group is named")
  func transpositions() throws {
    let shown = Array(Self.vectors[1].phrase)
    for group in 0..<8 {
      for first in 0..<5 {
        for second in (first + 1)..<5 {
          var typed = shown
          typed.swapAt(group * 6 + first, group * 6 + second)
          if typed != shown { #expect(failure(String(typed)) == .wrongGroups([group + 1])) }
        }
      }
    }
  }

  @Test("Two exchanged groups are both named")
  func exchangedGroups() throws {
    let groups = Self.vectors[1].phrase.split(separator: "-")
    for first in 0..<8 {
      for second in (first + 1)..<8 {
        var typed = groups
        typed.swapAt(first, second)
        #expect(failure(typed.joined(separator: "-")) == .wrongGroups([first + 1, second + 1]))
      }
    }
  }

  @Test("Errors that cancel out within their groups are found by the checksum over all")
  func cancellingErrors() throws {
    // Groups of two valid phrases, mixed: each group is right by itself.
    let one = Self.vectors[0].phrase.split(separator: "-")
    let other = Self.vectors[1].phrase.split(separator: "-")
    for group in 0..<8 {
      var typed = one
      typed[group] = other[group]
      #expect(failure(typed.joined(separator: "-")) == .checksum)
    }
  }

  @Test("What is not a phrase at all says why")
  func otherTexts() {
    #expect(failure("") == .length(found: 0))
    #expect(failure("000G3-40R4V") == .length(found: 10))
    #expect(failure(String(repeating: "A", count: 41)) == .length(found: 41))
    #expect(failure(String(repeating: "A", count: 100_000)) == .length(found: 100_000))
    #expect(
      failure("000G3-40R4-0M30P-E209V-185G8-R38EP-1W5DJ-4AV9R") == .groupLength(group: 2, found: 4))
    #expect(
      failure("000G3-40R4V-0M3UP-E209V-185G8-R38EP-1W5DJ-4AV9R") == .character(group: 3, "U"))
    #expect(
      failure("000G3-40R4V-0M30P-E209V-185G8-R38EP-1W5DJ-4AVß") == .groupLength(group: 8, found: 4))
    #expect(
      failure("000G3-40R4V-0M30P-E209V-185G8-R38EP-1W5DJ-4AVßR") == .character(group: 8, "ß"))
    #expect(
      failure("000G3-40R4V-0M30P-E209V-185G8-R38EP-1W5DJ-4AV9Q")?.description
        == "the recovery phrase is mistyped in group 8; compare it with the paper")
  }
}
