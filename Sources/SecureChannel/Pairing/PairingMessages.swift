import CryptoPrimitives
import HouseholdTrust
import MeshModel
import MeshProtocol
import WireCoding

/// Kinds of pairing messages; the first byte of a frame, and of a record once the keys are proved.
package enum PairingKind: UInt8, Sendable {
  /// Joiner: a nonce; it knows the code.
  case helloByCode = 1
  /// Joiner: the token's id.
  case helloByToken = 2
  /// Inviter: a nonce and its share of CPace.
  case offer = 3
  /// Joiner: its share and its confirmation.
  case answer = 4
  /// Inviter: its confirmation.
  case confirm = 5
  /// Inviter: why not.
  case refusal = 6
  /// A message of the Noise handshake.
  case noise = 7
  /// Joiner, in a record: its keys and name.
  case request = 16
  /// Inviter, in a record: signature and length of the welcome that follows.
  case welcome = 17
  /// Inviter, in a record: the next bytes of the welcome.
  case part = 18
  /// Joiner, in a record: the membership is on its disk.
  case stored = 19
}

/// Constants that both sides of a pairing share.
enum PairingProtocol {
  static let nonceByteCount = 16
  private static let channelLabel = "hearth pairing 1: inviter, joiner"
  private static let prologueLabel = "hearth pairing noise 1"
  private static let welcomeLabel = "hearth pairing welcome 1"

  /// CPace's channel identifier: the roles and everything that was said in clear before.
  static func channel(_ transcript: [UInt8]) -> [UInt8] { Array(channelLabel.utf8) + transcript }

  static func prologue(_ transcript: [UInt8]) -> [UInt8] { Array(prologueLabel.utf8) + transcript }

  /// What Noise mixes in, made of what the way of pairing gives.
  static func preSharedKey(of secret: borrowing SecretBytes, byToken: Bool) -> SecretBytes {
    let label = byToken ? "hearth pairing psk of token 1" : "hearth pairing psk of code 1"
    return SHA512Digest.secret(before: Array(label.utf8), secret: secret)
      .part(0..<NoiseHandshake.preSharedKeyByteCount)
  }

  /// What the inviting admin signs: this welcome, in this very exchange.
  static func welcomeMessage(_ welcome: [UInt8], handshakeHash: [UInt8]) -> [UInt8] {
    Array(welcomeLabel.utf8) + handshakeHash + SHA512Digest(of: welcome).bytes
  }
}

/// The bytes of a pairing connection: cut into frames, with what has been said in clear kept for the handshake.
struct PairingStream: ~Copyable, Sendable {
  /// Both preambles and all frames before the Noise handshake, in the order in which they were said.
  private(set) var transcript: [UInt8] = []
  private var buffer: [UInt8] = []
  private var isOver = false

  mutating func append(_ bytes: [UInt8]) { if !isOver { buffer += bytes } }

  mutating func end() {
    isOver = true
    buffer = []
  }

  /// Keeps what was said in clear.
  mutating func note(_ bytes: [UInt8]) { transcript += bytes }

  mutating func takePreamble() throws(PairingFailure) -> Preamble? {
    guard buffer.count >= Preamble.byteCount else { return nil }
    let bytes = Array(buffer.prefix(Preamble.byteCount))
    buffer.removeFirst(Preamble.byteCount)
    let preamble: Preamble
    do { preamble = try Preamble(decoding: bytes) } catch { throw .malformedPreamble(error) }
    guard preamble.purpose == .pairing else {
      throw .malformedPreamble(
        .invalid(field: "preamble purpose", value: UInt64(preamble.purpose.rawValue)))
    }
    note(bytes)
    return preamble
  }

  /// The next frame's content.
  mutating func takeFrame(limit: Int) throws(PairingFailure) -> [UInt8]? {
    guard buffer.count >= RecordLimits.lengthByteCount else { return nil }
    let count = Int(buffer[0]) | Int(buffer[1]) << 8
    guard count <= limit else { throw .overLimit(byteCount: count) }
    let end = RecordLimits.lengthByteCount + count
    guard buffer.count >= end else { return nil }
    defer { buffer.removeFirst(end) }
    return Array(buffer[RecordLimits.lengthByteCount..<end])
  }

  /// The frame of a message in clear.
  static func frame(_ kind: PairingKind, _ body: [UInt8]) -> [UInt8] {
    lengthPrefix(body.count + 1) + [kind.rawValue] + body
  }
}

/// A message in clear or from a record, cut into its kind and body.
package struct PairingMessage: Sendable {
  /// What it says.
  package let kind: PairingKind
  /// The bytes behind the kind.
  package let body: [UInt8]

  /// Reads the kind; one that is not known is refused.
  package init(_ bytes: [UInt8]) throws(PairingFailure) {
    guard let first = bytes.first, let kind = PairingKind(rawValue: first) else {
      throw .unexpected(kind: bytes.first ?? 0)
    }
    self.kind = kind
    body = Array(bytes.dropFirst())
  }

  /// The body as fields of fixed lengths.
  package func fields(_ counts: Int...) throws(PairingFailure) -> [[UInt8]] {
    var reader = ByteReader(body)
    do throws(DecodingFailure) {
      var fields: [[UInt8]] = []
      for count in counts { fields.append(Array(try reader.bytes("pairing message", count: count))) }
      try reader.finish()
      return fields
    } catch { throw .malformed(error) }
  }
}
