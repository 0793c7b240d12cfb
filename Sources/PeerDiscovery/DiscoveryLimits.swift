/// The bounds of everything that discovery keeps, and the times that it keeps to.
package enum DiscoveryLimits {
  /// Devices of a household that are looked for.
  package static let devices = 256
  /// Addresses kept for a device; the least promising gives way.
  package static let addressesPerDevice = 6
  /// Addresses kept of which no device is known; the fullest source's oldest gives way.
  package static let strangers = 64
  /// Announcing daemons that are told apart.
  package static let instances = 128
  /// Peers that a person may list.
  package static let staticPeers = 16
  /// Addresses taken from one listed name.
  package static let addressesPerStaticPeer = 3
  /// Network interfaces that are used.
  package static let interfaces = 32
  /// Offers of pairing that are shown.
  package static let pairingOffers = 16

  /// Dials that may be open at once.
  package static let dialsInFlight = 8
  /// Least time between the starts of two dials.
  package static let dialStagger = Duration.milliseconds(50)
  /// When a dial that nobody reported on counts as without answer.
  package static let dialReport = Duration.seconds(10)
  /// Wait before the first redial of an address; it doubles.
  package static let firstRedial = Duration.seconds(1)
  /// Longest wait between two dials of an address: with what gossip needs afterwards, views agree within 30 s of
  /// the end of a partition even when only one side can dial.
  package static let longestRedial = Duration.seconds(20)
  /// Least time between two dials of an address that announcements ask for.
  package static let announcedRedial = Duration.seconds(1)
  /// How long an address that proved to be foreign is left alone, however often it is announced.
  package static let foreignPause = Duration.seconds(60)
  /// How long an address of no known device is kept after it was last heard of.
  package static let strangerLifetime = Duration.seconds(900)
  /// How often listed names are resolved again.
  package static let staticPeerResolution = Duration.seconds(60)

  /// Beacon rounds after a start or a change, from its moment on.
  package static let beaconRounds: [Duration] = [
    .zero, .milliseconds(300), .seconds(1), .seconds(3), .seconds(10),
  ]
  /// Time between beacon rounds after those: multicast costs every phone on a wireless network power (RFC 9119).
  package static let beaconInterval = Duration.seconds(60)
  /// The same while an invitation is open, which is five minutes at most.
  package static let pairingBeaconInterval = Duration.seconds(5)
  /// Least time between two beacon rounds, however often the network changes.
  package static let beaconSpacing = Duration.milliseconds(300)
  /// Least time between two unicast answers to beacons.
  package static let beaconAnswer = Duration.seconds(1)
}
