package import MeshModel

/// The bounds of a link survey, on the side that asks and on the side that answers.
package enum LinkLimits {
  /// Round trips that are measured on each control session.
  package static let echoes = 9
  /// How long all of them may take.
  package static let echoTime: Duration = .seconds(2)
  /// Bytes of the first burst, few enough for the slowest link.
  package static let firstBurst = 4 << 10
  /// Bytes of the largest burst.
  package static let largestBurst = 1 << 20
  /// Bytes in one frame of a burst.
  package static let burstPiece = 16 << 10
  /// How long a burst may be expected to take, well below the time that gossip waits for an answer on a shared link.
  package static let burstTarget: Duration = .milliseconds(100)
  /// Bursts of one size whose median counts.
  package static let equalBursts = 5
  /// Bytes of all bursts of one session; the side that receives them closes beyond.
  package static let sessionBytes = 16 << 20
  /// How long all bursts of one session may take; both sides close then.
  package static let sessionTime: Duration = .seconds(5)
  /// Least time between two sessions of bursts to a device, and that it takes from one device; a survey that is asked for
  /// sooner has the results of the last one.
  package static let surveySpacing: Duration = .seconds(10)
  /// No further link is begun after this time of a survey.
  package static let surveyTime: Duration = .seconds(60)
}

/// What was measured of the link from this device to another.
package struct LinkMeasurement: Hashable, Sendable {
  /// The other device.
  package let device: DeviceID
  /// The median of the round trips on the control session; nil when none came back.
  package var roundTrip: Duration?
  /// How many round trips were measured.
  package var echoes = 0
  /// Payload that arrives there each second, in bytes; nil when it was not measured.
  package var bytesPerSecond: Double?
  /// Bytes that all bursts carried.
  package var burstBytes = 0
  /// Why something was not measured; nil when everything was.
  package var gap: LinkGap?

  /// A link of which nothing is known yet.
  package init(_ device: DeviceID) { self.device = device }
}

/// Why a link, or a part of what is to be known of it, was not measured; the raw values are what commands show.
package enum LinkGap: String, Hashable, Sendable, CaseIterable {
  /// There is no session with the device.
  case noSession = "no-session"
  /// The session is update-only or status-only: the network keys or the versions differ.
  case limitedSession = "limited-session"
  /// No echo came back in time.
  case noEcho = "no-echo"
  /// No connection for the bursts could be opened.
  case noConnection = "no-connection"
  /// The bursts were not answered, as by a Hearth that does not know them.
  case unanswered
  /// The device measures a link itself, or somebody else measures the link to it.
  case busy
  /// The device has answered another survey of this one a moment ago.
  case tooOften = "too-often"
  /// The session ended on the way.
  case interrupted
  /// The survey's time was over.
  case outOfTime = "out-of-time"
}
