package import Determinism
package import MeshModel

/// One device's view of the household: SWIM with Lifeguard, anti-entropy and a leader suggestion.
package struct Membership: Sendable {
  /// A member as this device sees it.
  package struct Member: Hashable, Sendable {
    /// What the member says of itself, and what is believed of it.
    package var record: MemberRecord
    /// Since when its state holds, by this device's monotonic clock.
    package var since: MonotonicInstant
    /// When something authenticated was last heard from it.
    package var lastHeard: MonotonicInstant?
    /// The median of its recent round trips.
    package var roundTrip: Duration?
    /// Whether a control session with it stands.
    package var hasPath: Bool
    /// Whether only the control session reaches it, because something blocks datagrams.
    package var datagramsAreBlocked: Bool
  }

  /// The numbers in use.
  package let profile: GossipProfile
  /// What this device says of itself.
  package private(set) var own: MemberRecord
  /// When the next `.tick` is due.
  package private(set) var nextDeadline: MonotonicInstant
  /// The other members, in ascending order.
  package private(set) var members: [Member] = []
  /// Whom the household should follow, as this device sees it.
  package private(set) var suggestedLeader: DeviceID?

  /// The view of a device that knows only itself.
  package init(
    own: MemberRecord, profile: GossipProfile = .household, generator: SeededGenerator, at now: ClockReading
  ) {
    self.own = own
    self.profile = profile
    nextDeadline = now.monotonic.advanced(by: profile.probeInterval)
  }

  /// Takes in what happened and answers with what to do, in this order.
  package mutating func handle(_ input: GossipInput, at now: ClockReading) -> [GossipEffect] { [] }

  /// How often something was dropped for this reason.
  package func dropCount(_ reason: GossipDrop) -> Int { 0 }
}
