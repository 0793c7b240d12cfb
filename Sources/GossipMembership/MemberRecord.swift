package import MeshModel

/// What is believed of a member; at one incarnation the later case overrides the earlier (SWIM §4.2).
package enum MemberState: UInt8, Hashable, Sendable, CaseIterable, Comparable {
  /// It answers, or nobody has said otherwise.
  case alive = 1
  /// It did not answer somebody; it has time to refute.
  case suspect = 2
  /// It did not refute in time; it stays in the view and comes back by itself. There is no "dead".
  case unreachable = 3
  /// It said itself that it leaves.
  case left = 4
  /// It has been removed from the household, for ever; decided by trust, never by gossip.
  case revoked = 5

  /// Whether `left` is overridden by `right` at one incarnation.
  package static func < (left: MemberState, right: MemberState) -> Bool { left.rawValue < right.rawValue }
}

/// What a device says about itself, and what is believed of it.
package struct MemberRecord: Hashable, Sendable {
  /// Whom it is about.
  package let device: DeviceID
  /// How recent it is; only the device itself raises it.
  package var incarnation: Incarnation
  /// What is believed of it.
  package var state: MemberState
  /// Where it may be reached, best first.
  package private(set) var addresses: [NetworkAddress]
  /// What it can do.
  package var traits: DeviceTraits
  /// Whom it takes for the leader.
  package var leader: DeviceID?
  /// Fields of later versions; they travel on as they are.
  package private(set) var laterFields: [UInt8] = []

  /// The record of a device that is alive.
  ///
  /// Of the addresses the first that fit the limits are kept; link-local ones mean nothing elsewhere and are left out.
  package init(
    device: DeviceID, incarnation: Incarnation, addresses: [NetworkAddress], traits: DeviceTraits,
    leader: DeviceID? = nil
  ) {
    self.device = device
    self.incarnation = incarnation
    state = .alive
    self.addresses = []
    self.traits = traits
    self.leader = leader
    setAddresses(addresses)
  }

  /// Replaces the addresses by the first of `candidates` that fit the limits.
  package mutating func setAddresses(_ candidates: [NetworkAddress]) {
    addresses = []
    for address in candidates where !address.isLinkLocal && !addresses.contains(address) {
      guard addresses.count < GossipLimits.addresses else { return }
      addresses.append(address)
    }
  }
}
