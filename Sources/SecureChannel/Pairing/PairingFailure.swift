package import HouseholdTrust
package import MeshModel
package import WireCoding

/// Limits of pairing.
package enum PairingLimits {
  /// How long a code is good.
  package static let codeTime: Duration = .seconds(300)
  /// How long an invite token is good.
  package static let tokenTime: Duration = .seconds(24 * 3_600)
  /// Wrong guesses that burn a code.
  package static let guessesPerCode = 3
  /// Wrong guesses within `failureTime` that close pairing altogether.
  package static let failures = 20
  /// How long a wrong guess counts.
  package static let failureTime: Duration = .seconds(3_600)
  /// Tokens that are open at once.
  package static let openTokens = TrustLimits.openInvites
  /// From the first byte to the request.
  package static let handshakeTime: Duration = .seconds(10)
  /// From the request to the end; a person answers in between.
  package static let approvalTime: Duration = .seconds(120)
  /// Bytes of the longest frame before the keys are proved.
  package static let frameByteCount = 512
  /// Bytes of a welcome in one record.
  package static let partByteCount = 60_000
}

/// Why the inviting side ends a pairing; the raw values are the wire's.
package enum PairingRefusal: UInt8, Hashable, Sendable, CaseIterable {
  /// No invitation of this kind is open, or it has run out, was used or burnt.
  case closed = 1
  /// The code is wrong.
  case wrongCode = 2
  /// Another device is just using the invitation.
  case busy = 3
  /// The person said no.
  case declined = 4
}

/// Why a pairing ended without a new member; nothing of it is kept.
package enum PairingFailure: Error, Equatable, Sendable, CustomStringConvertible {
  /// The inviting side refused.
  case refused(PairingRefusal)
  /// The other side used another code.
  case wrongCode
  /// The other side does not have the token's secret.
  case wrongToken
  /// The first bytes are no preamble of a pairing connection.
  case malformedPreamble(DecodingFailure)
  /// Bytes that mean nothing, or not at this point.
  case malformed(DecodingFailure)
  /// A message that does not come at this point.
  case unexpected(kind: UInt8)
  /// A frame or welcome is longer than allowed.
  case overLimit(byteCount: Int)
  /// A handshake message was refused.
  case noise(NoiseFailure)
  /// A record was refused.
  case record(RecordFailure)
  /// The request is not signed by its own key for this very exchange.
  case unprovenRequest
  /// The welcome is not signed by the admin who is speaking.
  case unprovenWelcome
  /// The inviting device is not the admin whom the token names.
  case otherAdmin(DeviceID)
  /// The welcome is to another household than the token names.
  case otherHousehold(HouseholdID)
  /// The welcome does not make this device a member.
  case notAdmitted(TrustFailure)
  /// The own name is none.
  case invalidName(TrustFailure)
  /// Time ran out.
  case timedOut
  /// The connection or the person broke it off.
  case brokenOff

  /// What is wrong, and what to do.
  package var description: String {
    switch self {
    case .refused(.closed):
      "the other device has no open invitation; run 'hearth invite' there and use its new code"
    case .refused(.wrongCode), .wrongCode:
      "the code is wrong; type it again, and after three tries get a new one with 'hearth invite'"
    case .refused(.busy): "another device is just joining with this invitation; wait, then get a new one"
    case .refused(.declined): "the person at the other device declined; ask them to invite again"
    case .wrongToken:
      "the other device does not have this token's secret; make a new one with 'hearth invite'"
    case .malformedPreamble(let failure):
      "the other side does not speak Hearth's pairing protocol: \(failure)"
    case .malformed(let failure): "a pairing message cannot be read: \(failure); compare the versions"
    case .unexpected(let kind): "pairing message \(kind) does not come at this point; start again"
    case .overLimit(let byteCount): "a pairing message of \(byteCount) bytes is over its limit; start again"
    case .noise(let failure): failure.description
    case .record(let failure): failure.description
    case .unprovenRequest: "the device that wants to join did not prove its keys; start again"
    case .unprovenWelcome: "the inviting device did not prove that it is an admin; start again"
    case .otherAdmin(let device):
      "device \(device.short) answered, which did not make this token; join the device that made it"
    case .otherHousehold(let household):
      "the welcome is to household \(household.description.prefix(8)), not to the token's; do not use it"
    case .notAdmitted(let failure), .invalidName(let failure): failure.description
    case .timedOut: "pairing took too long; start again"
    case .brokenOff: "pairing was broken off; nothing has been kept, start again"
    }
  }
}
