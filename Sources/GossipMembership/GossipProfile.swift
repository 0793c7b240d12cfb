/// The numbers of the protocol, all of them; one household uses one profile.
///
/// `household` is tuned for 2 to 12 devices of which any may freeze, sleep or be switched off at any time: loss is
/// not what makes a home's detector err, pauses are.
package struct GossipProfile: Hashable, Sendable {
  /// SWIM's protocol period (§3.1): one member is probed every interval.
  package var probeInterval: Duration = .seconds(1)
  /// How long the direct answer may take while little is known of the path.
  package var probeTimeout: Duration = .milliseconds(800)
  /// How long the direct answer may take on a path whose slowest recent round trip is below `fastPath`.
  package var fastProbeTimeout: Duration = .milliseconds(500)
  /// The round trip below which a path counts as fast.
  package var fastPath: Duration = .milliseconds(50)
  /// Round trips of a member that are remembered.
  package var roundTripSamples = 16
  /// SWIM's k (§3.1): how many others are asked to probe a silent member.
  package var indirectProbes = 2
  /// The part of the shorter probe time-out after which a relay says that it got no answer either (Lifeguard §IV-A):
  /// whoever asked waits at least as long as that, whatever it knows of its paths.
  package var nackShare = 0.8

  /// The suspicion time-out with all confirmations.
  package var suspicionMinimum: Duration = .seconds(6)
  /// The suspicion time-out without any confirmation, and always when there are two members.
  package var suspicionMaximum: Duration = .seconds(20)
  /// Lifeguard's K: independent confirmations that bring the time-out to its minimum; at most members − 2.
  package var suspicionConfirmations = 2
  /// The highest local health score; intervals and time-outs are multiplied by score + 1.
  package var healthMaximum = 7

  /// How often waiting news are sent; nothing is sent when there are none.
  package var gossipInterval: Duration = .milliseconds(250)
  /// How many members get the news each time.
  package var gossipFanOut = 2
  /// SWIM's λ (§4.1): a piece of news is sent λ · ⌈log10(members + 1)⌉ times.
  package var retransmitFactor = 4

  /// How often views are compared with a random member, unreachable ones included.
  package var exchangeInterval: Duration = .seconds(10)
  /// The share by which `exchangeInterval` varies, so that devices do not fall into step.
  package var exchangeJitter = 0.25
  /// The shortest time between two exchanges that differing digests cause with one member.
  package var exchangeSpacing: Duration = .seconds(2)
  /// Messages of an exchange that one member gets answered within one probe interval.
  package var exchangeAnswersPerInterval = 32

  /// Lateness of this device's own timer that counts against its health.
  package var lateTick: Duration = .milliseconds(300)
  /// Lateness of this device's own timer, in probe intervals, that means "I was away".
  package var awayIntervals = 2
  /// Growth of the time asleep that means "I was away"; below it is the skew of reading two clocks.
  package var sleepTolerance: Duration = .milliseconds(100)
  /// How long a device must be the better leader before the suggestion changes.
  package var leaderHysteresis: Duration = .seconds(2)
  /// How long an unreachable member is worth showing; it stays in the view as long as it belongs to the household.
  package var unreachableRetention: Duration = .seconds(30 * 24 * 3600)

  /// The profile of a household.
  package static let household = GossipProfile()
}

/// Limits of what others can make this device hold or send.
package enum GossipLimits {
  /// Members of a household, this device included.
  package static let members = 256
  /// Bytes of a message: 1,200 less the 28 of the datagram's encryption.
  package static let messageBytes = 1172
  /// Bytes of a member's record.
  package static let recordBytes = 160
  /// Addresses in a record.
  package static let addresses = 6
  /// Bytes of the addresses in a record.
  package static let addressBytes = 80
  /// Pieces of news in one message.
  package static let newsPerMessage = 27
  /// Records in one message of an exchange.
  package static let recordsPerMessage = 24
  /// Removed devices that are remembered.
  package static let revokedDevices = 1024
  /// Probes on others' behalf that may be under way.
  package static let relays = 64
  /// Own probes that may be under way.
  package static let probes = 16
}
