import Determinism
import MeshModel
import MeshProtocol

/// The side of a link survey that answers: takes the bursts of one session at a time, within its limits.
struct BurstReceiver: Sendable {
  /// The session whose bursts are taken.
  private struct Active: Sendable {
    let session: SessionID
    let peer: DeviceID
    let end: MonotonicInstant
    var sessionBytes = 0
    var burstBytes = 0
  }

  /// What a frame of a burst leads to.
  enum Answer: Equatable {
    /// More of the burst is to come.
    case nothing
    /// The burst is complete.
    case report(BurstReport)
    /// The session is not taken: it gets this report and is closed.
    case refuse(BurstReport)
    /// The session has broken a limit and is closed.
    case overLimit
  }

  private var active: Active?
  /// When the last session of bursts from each device ended; devices whose time is over are forgotten.
  private var ended: [DeviceID: MonotonicInstant] = [:]

  /// When the session under way has taken too long; nil without one.
  var nextDeadline: MonotonicInstant? { active?.end }

  /// Devices that are remembered.
  var rememberedCount: Int { ended.count }

  /// Takes a frame of a burst; `isBusy` says that this device sends bursts itself.
  mutating func take(
    _ frame: MeshFrame, on session: SessionID, from peer: DeviceID, isBusy: Bool, at now: MonotonicInstant
  ) -> Answer {
    if active?.session != session {
      if active != nil || isBusy { return .refuse(BurstReport(.busy, byteCount: 0)) }
      forget(at: now)
      if ended[peer] != nil { return .refuse(BurstReport(.tooOften, byteCount: 0)) }
      active = Active(session: session, peer: peer, end: now.advanced(by: LinkLimits.sessionTime))
    }
    guard var taken = active else { return .nothing }
    taken.sessionBytes += frame.body.count
    taken.burstBytes += frame.body.count
    guard frame.body.count <= LinkLimits.burstPiece, taken.sessionBytes <= LinkLimits.sessionBytes else {
      close(session, at: now)
      return .overLimit
    }
    defer { active = taken }
    guard frame.channel == BurstFrame.last else { return .nothing }
    defer { taken.burstBytes = 0 }
    return .report(BurstReport(.received, byteCount: taken.burstBytes))
  }

  /// The session under way when its time is over, once.
  mutating func expired(at now: MonotonicInstant) -> SessionID? {
    guard let active, active.end <= now else { return nil }
    close(active.session, at: now)
    return active.session
  }

  /// A session has ended; nothing if it carried no bursts.
  mutating func close(_ session: SessionID, at now: MonotonicInstant) {
    guard let taken = active, taken.session == session else { return }
    active = nil
    forget(at: now)
    if ended.count < MeshLimits.devices { ended[taken.peer] = now }
  }

  private mutating func forget(at now: MonotonicInstant) {
    ended = ended.filter { $0.value.duration(to: now) < LinkLimits.surveySpacing }
  }
}

/// How the frames of a burst are told apart: the channel says whether more of the burst follows.
enum BurstFrame {
  /// More follows.
  static let more: UInt16 = 0
  /// This is the last frame, which the receiver answers.
  static let last: UInt16 = 1

  /// The frames of a burst of this many bytes, which mean nothing.
  static func frames(of byteCount: Int, burst: UInt32) -> [MeshFrame] {
    let full = [UInt8](repeating: 0, count: min(byteCount, LinkLimits.burstPiece))
    var frames: [MeshFrame] = []
    var left = byteCount
    while left > 0 {
      let count = min(left, full.count)
      left -= count
      frames.append(
        MeshFrame(
          .burst, channel: left == 0 ? last : more, request: burst,
          body: count == full.count ? full : Array(full.prefix(count))))
    }
    return frames
  }
}
