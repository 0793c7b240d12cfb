/// The bounds and times of a device in the mesh; every table and queue of `MeshPeer` has its limit here.
package enum MeshLimits {
  /// Devices that a household can have; the log refuses more (`TrustLimits`).
  package static let devices = 256
  /// Control sessions to one device at once: one from each side, and one of a new start beside an old one.
  package static let controlSessionsPerDevice = 4
  /// Echoes that wait for their answer on one session.
  package static let echoesInFlight = 2
  /// Bytes of a frame's body that this device sends: a record less its tag and the frame's header.
  package static let frameBody = 65_535 - 16 - 8
  /// Bytes of a datagram's body, so that the whole packet stays below 1,280 bytes on every path.
  package static let datagramBody = 1_172
  /// Bulk sessions that this device is dialling at once.
  package static let bulkDials = 64
  /// Log entries in one frame.
  package static let entriesPerFrame = 256

  /// How often the log's summary goes to one session, in turn.
  package static let logSyncInterval: Duration = .seconds(10)
  /// How often an echo measures each session.
  package static let echoInterval: Duration = .seconds(20)
  /// How long an echo may take before the session counts as dead.
  package static let echoTimeout: Duration = .seconds(10)
  /// The same right after this device has slept, or when the gossip suspects the device.
  package static let urgentEchoTimeout: Duration = .seconds(2)
  /// The age at which the side that dialled a control session dials for one that takes its place.
  package static let sessionAge: Duration = .seconds(24 * 3_600)
  /// How much later the other side dials too, should the first not get through.
  package static let renewalGrace: Duration = .seconds(3_600)
  /// The age at which a session ends although nothing has taken its place.
  package static let sessionAgeLimit: Duration = .seconds(48 * 3_600)
  /// How often one side dials for the successor of one session.
  package static let renewalRetry: Duration = .seconds(60)
  /// Least time between two such dials of a device, so that not all sessions of a household change at once.
  package static let renewalSpacing: Duration = .seconds(1)
  /// How long a device with two running starts stays out before its sessions are admitted again.
  package static let cloneQuarantine: Duration = .seconds(60)
  /// A known peer is written again when its address changed, or after this time.
  package static let knownPeerRefresh: Duration = .seconds(3_600)
}
