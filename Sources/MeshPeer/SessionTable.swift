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
    let opened: MonotonicInstant
    /// The peer's input count when the session was opened, and when it last carried a frame to this device.
    let openedAtInput: UInt64
    var carriedAtInput: UInt64?
    var lastHeard: MonotonicInstant
    var echoes: [Echo] = []
    var nextEcho: MonotonicInstant
    var roundTrip: Duration?
    var shortestRoundTrip: Duration?
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

  /// The control session that is kept and used: of the newest start of the device, before all the one whose
  /// initiator has the smaller name, and of several the newest.
  func preferred(of peer: DeviceID, own: DeviceID) -> Entry? {
    controls(of: peer).max { Self.rank($0, own: own) < Self.rank($1, own: own) }
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

  private static func rank(_ entry: Entry, own: DeviceID) -> (BootID, Int, UInt64) {
    (entry.info.boot, isOfSmallerInitiator(entry, own: own) ? 1 : 0, entry.id.value)
  }

  /// Whether the side with the smaller name dialled.
  static func isOfSmallerInitiator(_ entry: Entry, own: DeviceID) -> Bool {
    entry.info.isInitiator == (own < entry.info.peer)
  }
}
