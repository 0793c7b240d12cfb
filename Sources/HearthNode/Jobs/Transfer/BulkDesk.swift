package import DistributedTraining
package import MeshModel
package import MeshProtocol
package import MeshTransport
import Synchronization
package import TrainingCoordination

/// Gives the bulk sessions of a device to the plan epochs that they belong to, and their frames with them.
///
/// Set as the transport's `BulkReceiver` when the daemon starts. A session belongs to the plan epoch that its first frame
/// names. Should this device not have begun that epoch, the session waits, unread, until it does.
package final class BulkDesk: BulkReceiver {
  private enum Role {
    /// Nothing has been said on it.
    case new
    /// It names an epoch that has not begun here.
    case early(JobStamp, [MeshFrame], bytes: Int)
    case job(MeshJobChannel, JobLink)
  }

  private struct Session {
    let info: SessionInfo
    var role: Role
  }

  private struct State {
    var sessions: [SessionID: Session] = [:]
    var channels: [JobStamp: MeshJobChannel] = [:]
    /// Links that wait for a dial, the first one first.
    var dialling: [JobLink] = []
    var isClosed = false
  }

  private let own: DeviceID
  private let transport: any MeshEndpoint
  private let dial: @Sendable (DeviceID) -> Void
  private let state = Mutex(State())

  /// A desk; `dial` has the mesh open a bulk session to a device and ends in `dialled` or `dialFailed`.
  package init(own: DeviceID, transport: any MeshEndpoint, dial: @escaping @Sendable (DeviceID) -> Void) {
    self.own = own
    self.transport = transport
    self.dial = dial
  }

  // MARK: - Channels

  /// Begins a plan epoch with the devices of a roster, in the order of their places; this device is one of them.
  package func openChannel(_ stamp: JobStamp, roster: [DeviceID]) -> MeshJobChannel {
    let channel = MeshJobChannel(stamp, roster: roster, own: own, transport: transport) { [weak self] in
      self?.dial($0, for: stamp)
    }
    let (early, isClosed) = state.withLock { state in
      precondition(state.channels[stamp] == nil, "plan epoch \(stamp.epoch) of job \(stamp.job) has begun")
      guard !state.isClosed else { return ([SessionID](), true) }
      state.channels[stamp] = channel
      let early = state.sessions.keys.sorted().filter { id in
        if case .early(stamp, _, _)? = state.sessions[id]?.role { true } else { false }
      }
      return (early, false)
    }
    if isClosed { channel.fail(.aborted("the daemon stops")) }
    for session in early { adopt(session, stamp) }
    channel.begin()
    return channel
  }

  /// Forgets a plan epoch that has ended; one that has not been closed is stopped.
  package func closeChannel(_ stamp: JobStamp) {
    let channel = state.withLock { $0.channels.removeValue(forKey: stamp) }
    guard let channel, !channel.isClosing else { return }
    channel.fail(.aborted("plan epoch \(stamp.epoch) of job \(stamp.job.short) has ended"))
  }

  /// Ends all plan epochs: the daemon stops.
  package func shutdown() {
    let channels = state.withLock { state in
      state.isClosed = true
      defer { state.channels = [:] }
      return state.channels.keys.sorted { ($0.job, $0.term, $0.epoch) < ($1.job, $1.term, $1.epoch) }
        .compactMap { state.channels[$0] }
    }
    for channel in channels { channel.fail(.aborted("a device of the plan stops its daemon")) }
  }

  /// A session that waited is read on under its epoch.
  private func adopt(_ id: SessionID, _ stamp: JobStamp) {
    let bound: (MeshJobChannel, JobLink, [MeshFrame])? = state.withLock { state in
      guard case .early(stamp, let frames, _)? = state.sessions[id]?.role,
        let channel = state.channels[stamp], let peer = state.sessions[id]?.info.peer,
        let link = channel.link(to: peer)
      else { return nil }
      // Until they have gone first, what else arrives waits behind them.
      state.sessions[id]?.role = .early(stamp, [], bytes: 0)
      return (channel, link, frames)
    }
    guard var (channel, link, frames) = bound, link.bind(id, isDialled: false) else { return end(id) }
    while true {
      for frame in frames { perform(link.take(frame, on: id), channel, link, on: id) }
      let isDone = state.withLock { state in
        guard case .early(_, let more, _)? = state.sessions[id]?.role else { return true }
        guard !more.isEmpty else {
          state.sessions[id]?.role = .job(channel, link)
          return true
        }
        frames = more
        state.sessions[id]?.role = .early(stamp, [], bytes: 0)
        return false
      }
      if isDone { break }
    }
    endIfGone(id, channel, link)
    transport.resume(id)
  }

  /// A session that ended before its link knew it.
  private func endIfGone(_ session: SessionID, _ channel: MeshJobChannel, _ link: JobLink) {
    let isGone = state.withLock { $0.sessions[session] == nil }
    if isGone, let failure = link.closed(session) { channel.fail(failure) }
  }

  private func end(_ session: SessionID) {
    transport.perform([.close(session, .finished)])
    transport.resume(session)
  }

  // MARK: - Dials

  private func dial(_ device: DeviceID, for stamp: JobStamp) {
    let isAsked = state.withLock { state in
      guard let link = state.channels[stamp]?.link(to: device) else { return false }
      state.dialling.append(link)
      return true
    }
    if isAsked { dial(device) }
  }

  /// A session that was asked for stands.
  package func dialled(_ session: SessionID, _ device: DeviceID) {
    let found: (MeshJobChannel, JobLink)? = state.withLock { state in
      guard let link = takeDialling(device, &state),
        let channel = state.channels.values.first(where: { $0.link(to: device) === link })
      else { return nil }
      state.sessions[session]?.role = .job(channel, link)
      return (channel, link)
    }
    guard let (channel, link) = found, link.bind(session, isDialled: true) else { return end(session) }
    endIfGone(session, channel, link)
  }

  /// A session that was asked for could not be opened.
  package func dialFailed(_ device: DeviceID) {
    state.withLock { takeDialling(device, &$0) }?.dialFailed()
  }

  private func takeDialling(_ device: DeviceID, _ state: inout State) -> JobLink? {
    guard let index = state.dialling.firstIndex(where: { $0.device == device }) else { return nil }
    return state.dialling.remove(at: index)
  }

  // MARK: - Sessions

  /// A bulk session stands.
  package func opened(_ session: SessionID, _ info: SessionInfo) {
    state.withLock { $0.sessions[session] = Session(info: info, role: .new) }
  }

  /// A frame of a bulk session.
  package func received(_ frame: MeshFrame, on session: SessionID) -> Bool {
    guard BulkStream(rawValue: frame.channel) == .job else {
      transport.drop(.malformedJob)
      return true
    }
    enum Found {
      case job(MeshJobChannel, JobLink)
      case adopted(JobStamp)
      case result(Bool)
      case dropped(DropReason)
      case tooMuch
    }
    let found: Found = state.withLock { state in
      guard let entry = state.sessions[session] else { return .result(true) }
      switch entry.role {
      case .job(let channel, let link): return .job(channel, link)
      case .early(let stamp, var frames, var bytes):
        bytes += frame.body.count
        guard bytes <= JobLinkLimits.earlyBytes else { return .tooMuch }
        state.sessions[session]?.role = .new
        frames.append(frame)
        state.sessions[session]?.role = .early(stamp, frames, bytes: bytes)
        return .result(false)
      case .new:
        guard let record = try? JobRecord(frame.body), case .word(.hello, _) = record.kind else {
          return .dropped(.malformedJob)
        }
        let early = state.sessions.values.count { if case .early = $0.role { true } else { false } }
        guard early < JobLinkLimits.earlySessions, !state.isClosed else { return .tooMuch }
        let channel = state.channels[record.stamp]
        // A device that is none of the plan has no business there.
        if let channel, channel.link(to: entry.info.peer) == nil { return .dropped(.foreignJob) }
        state.sessions[session]?.role = .early(record.stamp, [frame], bytes: frame.body.count)
        return channel == nil ? .result(false) : .adopted(record.stamp)
      }
    }
    switch found {
    case .result(let readsOn): return readsOn
    case .job(let channel, let link):
      return perform(link.take(frame, on: session), channel, link, on: session)
    case .adopted(let stamp):
      adopt(session, stamp)
      return true
    case .dropped(let reason):
      transport.drop(reason)
      return true
    case .tooMuch:
      transport.drop(.notPermitted)
      transport.perform([.close(session, .overLimit)])
      return true
    }
  }

  @discardableResult
  private func perform(
    _ outcome: JobLink.Outcome, _ channel: MeshJobChannel, _ link: JobLink, on session: SessionID
  ) -> Bool {
    switch outcome {
    case .taken(let readsOn): return readsOn
    case .dropped(let reason): transport.drop(reason)
    case .failed(.lost(let place)) where place == channel.place: channel.fail(.lost(place: link.place))
    case .failed(let failure): channel.fail(failure)
    case .finished: link.settle()
    }
    return true
  }

  /// A session's queue has room again.
  package func writable(_ session: SessionID) {
    let role = state.withLock { $0.sessions[session]?.role }
    if case .job(_, let link)? = role { link.writable() }
  }

  /// A session ended.
  package func closed(_ session: SessionID, _ reason: CloseReason) {
    let entry = state.withLock { $0.sessions.removeValue(forKey: session) }
    guard case .job(let channel, let link)? = entry?.role, let failure = link.closed(session) else { return }
    channel.fail(failure)
  }
}
