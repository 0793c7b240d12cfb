/// The most that a household may have of everything; what is over a limit is refused with its reason.
package enum TrustLimits {
  /// Devices that are not revoked.
  package static let devices = 256
  /// Entries of the membership log that devices issued.
  package static let deviceEntries = 4096
  /// Entries that the root issued; they have room of their own, so that a full log can still be repaired.
  package static let rootEntries = 256
  /// Bytes of all entries together.
  package static let logBytes = 8 << 20
  /// Bytes of one entry.
  package static let entryBytes = 32 << 10
  /// Entries that wait for others which they build on.
  package static let pendingEntries = 512
  /// Bytes of UTF-8 in a device's name.
  package static let nameBytes = 40
  /// Network keys that are kept beside the current one.
  package static let pastNetworkKeys = 8
  /// Ends of one issuer's chain that a summary names; more than one means that a disk was copied.
  package static let headsPerIssuer = 4
  /// Entries that prove an issuer to someone who does not know it.
  package static let chainEntries = 8
  /// Addresses that are kept for a peer.
  package static let peerAddresses = 6
  /// Invitations that are open at once.
  package static let openInvites = 32
}
