package import CryptoPrimitives

/// The eight digits that one device shows and a person types on the other; good for a few guesses and minutes.
package struct PairingCode: ~Copyable, Sendable {
  /// Digits of a code.
  package static let digitCount = 8

  /// The digits as ASCII: what both sides put into CPace.
  let secret: SecretBytes

  /// A new code, uniform among the 10^8.
  package init(entropy: inout some EntropySource) {
    // 2^32 is no multiple of 10^8: values above the last whole multiple are drawn again.
    let range: UInt32 = 100_000_000
    let bound = UInt32.max - UInt32.max % range
    var value = entropy.integer(as: UInt32.self)
    while value >= bound { value = entropy.integer() }
    value %= range
    secret = SecretBytes(count: Self.digitCount) { digits in
      for index in (0..<Self.digitCount).reversed() {
        digits[index] = UInt8(ascii: "0") + UInt8(value % 10)
        value /= 10
      }
    }
  }

  /// The code as a person types it: eight digits, with hyphens and spaces wherever; nil for anything else.
  package init?(typed text: some StringProtocol) {
    var digits = text.utf8.filter { $0 != UInt8(ascii: "-") && $0 != UInt8(ascii: " ") }
    guard digits.count == Self.digitCount,
      digits.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) })
    else { return nil }
    secret = SecretBytes(wiping: &digits)
  }

  private init(secret: consuming SecretBytes) { self.secret = secret }

  /// A second value with the same digits.
  package borrowing func copy() -> PairingCode { PairingCode(secret: secret.copy()) }

  /// The code as it is shown: `4821-9037`.
  package borrowing func shown() -> String {
    secret.withUnsafeBytes { digits in
      String(decoding: digits.prefix(4), as: UTF8.self) + "-"
        + String(decoding: digits.suffix(4), as: UTF8.self)
    }
  }
}
