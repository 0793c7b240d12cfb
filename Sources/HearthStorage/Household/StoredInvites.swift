package import CryptoPrimitives
import HouseholdTrust
import WireCoding

/// An invitation by token that its admin keeps until it is used or a day has passed.
package final class StoredInvite: Sendable {
  /// Bytes of an invitation's id.
  package static let idByteCount = 16
  /// Bytes of the longest token.
  package static let tokenByteLimit = 256

  /// Which invitation; goes over the wire in clear.
  package let id: [UInt8]
  /// When it ends, in seconds since 1970 by this device's own clock.
  package let expiry: UInt64
  /// Whether the device that joins becomes an admin.
  package let makesAdmin: Bool
  /// The token's text; whoever reads it can join.
  package let token: SecretBytes

  /// An invitation with an id of 16 bytes and a token of at most 256.
  package init(id: [UInt8], expiry: UInt64, makesAdmin: Bool, token: consuming SecretBytes) {
    precondition(id.count == Self.idByteCount, "an invitation's id of \(id.count) bytes")
    precondition(token.count <= Self.tokenByteLimit, "a token of \(token.count) bytes")
    self.id = id
    self.expiry = expiry
    self.makesAdmin = makesAdmin
    self.token = token
  }
}

/// What an admin keeps of its invitations: the open ones, and when pairing failed lately.
package struct InviteBook: Sendable {
  /// Failures that are remembered; more than the limit of an hour.
  package static let failureLimit = 32

  /// The open invitations.
  package private(set) var invites: [StoredInvite]
  /// When pairing failed, in seconds since 1970 by this device's own clock; the latest last.
  package private(set) var failures: [UInt64]

  /// A book; what is over the limits is left out, the oldest first.
  package init(invites: [StoredInvite] = [], failures: [UInt64] = []) {
    self.invites = Array(invites.suffix(TrustLimits.openInvites))
    self.failures = Array(failures.suffix(Self.failureLimit))
  }

  /// Adds an invitation; returns false when too many are open.
  package mutating func open(_ invite: StoredInvite) -> Bool {
    guard invites.count < TrustLimits.openInvites else { return false }
    invites.append(invite)
    return true
  }

  /// Takes an invitation out, for its one use; nil when there is none with this id.
  package mutating func take(id: [UInt8]) -> StoredInvite? {
    guard let index = invites.firstIndex(where: { $0.id == id }) else { return nil }
    return invites.remove(at: index)
  }

  /// Forgets invitations that have ended and failures of more than an hour ago.
  package mutating func expire(now: UInt64) {
    invites.removeAll { $0.expiry <= now }
    // A failure from the future shows that the clock was set back; it counts until it is an hour old.
    failures.removeAll { $0 <= now && now - $0 > 3600 }
  }

  /// Notes that pairing failed now.
  package mutating func noteFailure(at now: UInt64) {
    failures.append(now)
    failures = Array(failures.suffix(Self.failureLimit))
  }

  func encode(to writer: inout ByteWriter) {
    writer.count(invites.count)
    for invite in invites {
      writer.raw(invite.id)
      writer.integer(invite.expiry)
      writer.flag(invite.makesAdmin)
      writer.count(invite.token.count)
      invite.token.withUnsafeBytes { writer.raw($0) }
    }
    writer.count(failures.count)
    for failure in failures { writer.integer(failure) }
  }

  init(from reader: inout ByteReader) throws(DecodingFailure) {
    invites = []
    for _ in 0..<(try reader.count("invitations", limit: TrustLimits.openInvites)) {
      let id = Array(try reader.bytes("invitation id", count: StoredInvite.idByteCount))
      let expiry = try reader.integer("invitation expiry", as: UInt64.self)
      let makesAdmin = try reader.flag("makes an admin")
      let token = try reader.lengthPrefixed("token", limit: StoredInvite.tokenByteLimit)
      invites.append(
        StoredInvite(
          id: id, expiry: expiry, makesAdmin: makesAdmin,
          token: secretBytes(token)))
    }
    failures = []
    for _ in 0..<(try reader.count("failures", limit: Self.failureLimit)) {
      failures.append(try reader.integer("failure"))
    }
  }
}

/// A secret out of the bytes of a file, which the caller wipes.
func secretBytes(_ bytes: ArraySlice<UInt8>) -> SecretBytes {
  SecretBytes(count: bytes.count) { $0.copyBytes(from: bytes) }
}
