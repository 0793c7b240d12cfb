import CryptoPrimitives
package import Determinism

/// The open invitations of a device, and the wrong guesses at them.
///
/// One value for all pairing connections of the device: each asks it at the moment of a guess, so that many
/// connections at once get no more guesses than one. Instants are of the clock that goes on while the machine
/// sleeps. A code burns on success, on three wrong guesses, and at its end; twenty wrong guesses within an hour
/// close pairing until the first of them is an hour old.
package struct PairingWindow: Sendable {
  // Secrets are not copied with the window: the values share their boxes.
  private final class CodeBox: Sendable {
    let code: PairingCode
    init(_ code: consuming PairingCode) { self.code = code }
  }

  private final class TokenBox: Sendable {
    let token: InviteToken
    init(_ token: consuming InviteToken) { self.token = token }
  }

  private struct OpenCode {
    let number: UInt64
    let box: CodeBox
    let discriminator: UInt16
    let end: MonotonicInstant
    var wrongGuesses = 0
    var isClaimed = false
  }

  private struct OpenToken {
    let box: TokenBox
    let end: MonotonicInstant
    var isClaimed = false
  }

  private var code: OpenCode?
  private var tokens: [OpenToken] = []
  private var lastNumber: UInt64 = 0
  // At most `PairingLimits.failures`, the oldest first.
  private var failures: [MonotonicInstant] = []
  /// Wrong guesses since this window was made, for whoever keeps them over restarts.
  package private(set) var wrongGuesses: UInt64 = 0

  /// A window without invitations.
  package init() {}

  /// Opens an invitation by code, in place of an earlier one; it ends by itself.
  package mutating func open(
    _ code: consuming PairingCode, discriminator: UInt16, at now: MonotonicInstant
  ) {
    precondition(discriminator <= Preamble.largestDiscriminator, "a discriminator of \(discriminator)")
    lastNumber += 1
    self.code = OpenCode(
      number: lastNumber, box: CodeBox(code), discriminator: discriminator,
      end: now.advanced(by: PairingLimits.codeTime))
  }

  /// Opens an invitation by token; false when as many are open as may be.
  ///
  /// `end` is for a token that was kept on disk.
  package mutating func open(
    _ token: consuming InviteToken, end: MonotonicInstant? = nil, at now: MonotonicInstant
  ) -> Bool {
    let id = token.id
    tokens.removeAll { $0.end <= now || $0.box.token.id == id }
    guard tokens.count < PairingLimits.openTokens else { return false }
    tokens.append(
      OpenToken(box: TokenBox(token), end: end ?? now.advanced(by: PairingLimits.tokenTime)))
    return true
  }

  /// Counts wrong guesses that were made before the daemon started; they may lie before this clock's zero.
  package mutating func restore(failures earlier: [MonotonicInstant]) {
    failures = Array((earlier + failures).sorted().suffix(PairingLimits.failures))
  }

  /// Burns the code, if there is one.
  package mutating func burnCode() { code = nil }

  /// Burns a token, if it is open.
  package mutating func burnToken(id: [UInt8]) { tokens.removeAll { $0.box.token.id == id } }

  /// The discriminator to announce; nil when no code can be used now.
  package func discriminator(at now: MonotonicInstant) -> UInt16? {
    guard !isShut(at: now), let code, code.end > now else { return nil }
    return code.discriminator
  }

  /// Whether any invitation can be used now.
  package func isOpen(at now: MonotonicInstant) -> Bool {
    discriminator(at: now) != nil || (!isShut(at: now) && tokens.contains { $0.end > now })
  }

  /// The ids of the tokens that can be used now, in the order in which they were opened.
  package func openTokens(at now: MonotonicInstant) -> [[UInt8]] {
    tokens.filter { $0.end > now }.map { $0.box.token.id }
  }

  /// Whether so many wrong guesses have been made that nothing is open.
  package func isShut(at now: MonotonicInstant) -> Bool {
    failures.count { $0.duration(to: now) < PairingLimits.failureTime } >= PairingLimits.failures
  }
}

/// Which invitation a connection has proved to know.
enum PairingClaim: Equatable, Sendable {
  case code(UInt64)
  case token([UInt8])
}

// What connections ask.
extension PairingWindow {
  /// The number of the code for a joiner that names this discriminator, 0 for any.
  func usableCode(_ discriminator: UInt16, at now: MonotonicInstant) throws(PairingFailure) -> UInt64 {
    guard !isShut(at: now), let code, code.end > now,
      discriminator == 0 || discriminator == code.discriminator
    else { throw .refused(.closed) }
    if code.isClaimed { throw .refused(.busy) }
    return code.number
  }

  /// What both sides put into CPace, for the code with this number.
  func codeSecret(_ number: UInt64) throws(PairingFailure) -> SecretBytes {
    guard let code, code.number == number else { throw .refused(.closed) }
    return code.box.code.secret.copy()
  }

  /// Judges one guess of the code: a right one claims it for this connection, a wrong one is counted.
  mutating func judge(
    _ number: UInt64, isRight: Bool, at now: MonotonicInstant
  ) throws(PairingFailure) {
    // A code that has run out or burnt meanwhile answers nothing, so the guess tells nothing.
    guard try usableCode(0, at: now) == number else { throw .refused(.closed) }
    if isRight {
      code?.isClaimed = true
      return
    }
    noteFailure(at: now)
    code?.wrongGuesses += 1
    if let code, code.wrongGuesses >= PairingLimits.guessesPerCode { burnCode() }
    throw .refused(.wrongCode)
  }

  /// The secret of the token with this id.
  func tokenSecret(_ id: [UInt8], at now: MonotonicInstant) throws(PairingFailure) -> SecretBytes {
    tokens[try usableToken(id, at: now)].box.token.secret.copy()
  }

  /// Judges the use of a token, as `judge` does for codes; wrong ones do not burn it, it cannot be guessed.
  mutating func judge(
    token id: [UInt8], isRight: Bool, at now: MonotonicInstant
  ) throws(PairingFailure) {
    let index = try usableToken(id, at: now)
    if isRight {
      tokens[index].isClaimed = true
      return
    }
    noteFailure(at: now)
    throw .wrongToken
  }

  /// Ends the claim of a connection: burns the invitation, or opens it again for another try.
  mutating func end(_ claim: PairingClaim, burning: Bool) {
    switch claim {
    case .code(let number) where code?.number == number:
      if burning { burnCode() } else { code?.isClaimed = false }
    case .token(let id):
      if burning { burnToken(id: id) }
      for index in tokens.indices where tokens[index].box.token.id == id { tokens[index].isClaimed = false }
    case .code: break
    }
  }

  private func usableToken(_ id: [UInt8], at now: MonotonicInstant) throws(PairingFailure) -> Int {
    guard !isShut(at: now),
      let index = tokens.firstIndex(where: { $0.box.token.id == id && $0.end > now })
    else { throw .refused(.closed) }
    if tokens[index].isClaimed { throw .refused(.busy) }
    return index
  }

  private mutating func noteFailure(at now: MonotonicInstant) {
    wrongGuesses += 1
    failures.append(now)
    if failures.count > PairingLimits.failures { failures.removeFirst() }
  }
}
