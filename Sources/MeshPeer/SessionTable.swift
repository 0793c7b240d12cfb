import Determinism
import MeshModel
import MeshProtocol

/// The sessions that stand, with what is known of each.
struct SessionTable: Sendable {
  /// An echo that waits for its answer.
  struct Echo: Hashable, Sendable {
    let request: UInt32
    let atInput: UInt64
    let sent: MonotonicInstant
    let deadline: MonotonicInstant
  }

  /// One session.
  struct Entry: Sendable {
    let id: SessionID
    let info: SessionInfo
    let opened: ClockReading
    /// The peer's input count when the session was opened, and when it last carried a frame to this device.
    let openedAtInput: UInt64
    var carriedAtInput: UInt64?
    var lastHeard: MonotonicInstant
    var echoes: [Echo] = []
    var nextEcho: MonotonicInstant
    var roundTrip: Duration?
    var shortestRoundTrip: Duration?
    /// The peer's input count when the first echo was answered: from then on the other side uses this session too.
    var answeredAtInput: UInt64?
    /// When the last answered echo was sent, by the peer's input count.
    var lastAnswered: UInt64?
    /// Whether it is so old that another is to take its place.
    var isOld = false
    /// When this side last dialled for the one that takes its place.
    var lastRenewal: MonotonicInstant?
    /// Whether the log has made the device a member while the session stood.
    var wasMember: Bool
  }

  /// The sessions by their number: the oldest first.
  private(set) var entries: [Entry] = []

  subscript(id: SessionID) -> Entry? {
    get { entries.first { $0.id == id } }
    set {
      let place = entries.firstIndex { $0.id == id }
      switch (place, newValue) {
      case (let place?, let entry?): entries[place] = entry
      case (let place?, nil): entries.remove(at: place)
      case (nil, let entry?):
        entries.insert(entry, at: entries.firstIndex { entry.id < $0.id } ?? entries.endIndex)
      case (nil, nil): break
      }
    }
  }

  /// The control sessions to a device, the oldest first.
  func controls(of peer: DeviceID) -> [Entry] {
    entries.filter { $0.info.peer == peer && $0.info.purpose == .control }
  }

  /// The control session that is kept and used: of the newest start of the device, the one whose initiator has the
  /// smaller name, and of several the newest; an old one only as long as there is none that may follow it.
  func preferred(of peer: DeviceID, own: DeviceID) -> Entry? {
    let controls = controls(of: peer)
    let kept = controls.filter { old in !old.isOld || !controls.contains { Self.follows($0, old) } }
    return kept.max { Self.rank($0, own: own) < Self.rank($1, own: own) }
  }

  /// The session that has taken the place of another and has carried a frame; both sides see it alike.
  ///
  /// From then on nothing is sent on the older one but echoes, until the side that dialled the follower ends it.
  func follower(of entry: Entry) -> Entry? {
    entries.last { $0.carriedAtInput != nil && Self.follows($0, entry) }
  }

  /// Whether a session takes the place of another: one that the same side dialled later, or any in place of an old one;
  /// never one that reaches less far.
  private static func follows(_ newer: Entry, _ older: Entry) -> Bool {
    guard newer.info.peer == older.info.peer, newer.info.boot == older.info.boot, newer.id != older.id,
      newer.info.purpose == .control, older.info.purpose == .control,
      newer.info.standing == .full || newer.info.standing == older.info.standing
    else { return false }
    if newer.info.isInitiator == older.info.isInitiator { return newer.id > older.id }
    return older.isOld && !newer.isOld
  }

  /// The devices with a control session, in order, each once.
  var peers: [DeviceID] {
    var peers: [DeviceID] = []
    let sorted = entries.filter { $0.info.purpose == .control }.map(\.info.peer).sorted()
    for peer in sorted where peers.last != peer { peers.append(peer) }
    return peers
  }

  /// When the first echo is due or late; nil without sessions.
  var nextDeadline: MonotonicInstant? {
    var first: MonotonicInstant?
    for index in entries.indices where entries[index].info.purpose == .control {
      var next = entries[index].nextEcho
      for echo in entries[index].echoes { next = min(next, echo.deadline) }
      first = min(first ?? next, next)
    }
    return first
  }

  private static func rank(_ entry: Entry, own: DeviceID) -> (BootID, Int, Int, UInt64) {
    // Beside an old one only those are left that reach less far.
    (entry.info.boot, entry.isOld ? 1 : 0, isOfSmallerInitiator(entry, own: own) ? 1 : 0, entry.id.value)
  }

  /// Whether the side with the smaller name dialled.
  static func isOfSmallerInitiator(_ entry: Entry, own: DeviceID) -> Bool {
    entry.info.isInitiator == (own < entry.info.peer)
  }
}
