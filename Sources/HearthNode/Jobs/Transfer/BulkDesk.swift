package import CryptoPrimitives
import Determinism
import DistributedTraining
package import HearthStorage
package import MeshModel
package import MeshProtocol
package import MeshTransport
import Synchronization
package import TrainingCoordination
import WireCoding

/// Gives the bulk sessions of a device to the plan epochs that they belong to, and their frames with them.
///
/// Set as the transport's `BulkReceiver` when the daemon starts. A session belongs to the plan epoch that its first frame
/// names. Should this device not have begun that epoch, the session waits, unread, until it does. A session that begins
/// with a question about a blob serves blobs.
package final class BulkDesk: BulkReceiver {
  private enum Role {
    /// Nothing has been said on it.
    case new
    /// It names an epoch that has not begun here.
    case early(JobStamp, [MeshFrame], bytes: Int)
    case job(MeshJobChannel, JobLink)
    /// The other device asks for blobs.
    case serving(BlobServing)
    /// This device asks for a blob.
    case fetching(BlobFetching)
    /// This device has asked for a blob, and may ask for another.
    case spare
  }

  /// Who waits for a dial.
  private enum Dialler {
    case link(JobLink)
    case fetch(BlobFetching, DeviceID)

    var device: DeviceID {
      switch self {
      case .link(let link): link.device
      case .fetch(_, let device): device
      }
    }
  }

  private struct Session {
    let info: SessionInfo
    var role: Role
  }

  private struct State {
    var sessions: [SessionID: Session] = [:]
    var channels: [JobStamp: MeshJobChannel] = [:]
    /// In the order in which they asked.
    var dialling: [Dialler] = []
    var isClosed = false
    /// The last epoch that has ended here, of jobs that go on.
    var ended: [JobID: JobStamp] = [:]

    /// Sessions that wait for an epoch like that, in order.
    func early(where isMeant: (JobStamp) -> Bool) -> [SessionID] {
      sessions.keys.sorted().filter { id in
        guard case .early(let stamp, _, _)? = sessions[id]?.role else { return false }
        return isMeant(stamp)
      }
    }
  }

  private let own: DeviceID
  private let transport: any MeshEndpoint
  private let dial: @Sendable (DeviceID) -> Void
  private let store: BlobStore
  /// Says who may read which blob.
  package let blobs: BlobService
  private let state = Mutex(State())

  /// A desk; `dial` has the mesh open a bulk session to a device and ends in `dialled` or `dialFailed`.
  package init(
    own: DeviceID, transport: any MeshEndpoint, store: BlobStore,
    dial: @escaping @Sendable (DeviceID) -> Void
  ) {
    self.own = own
    self.store = store
    blobs = BlobService(store: store, transport: transport)
    self.transport = transport
    self.dial = dial
  }

  // MARK: - Channels

  /// Begins a plan epoch with the devices of a roster, in the order of their places; this device is one of them.
  ///
  /// The epoch goes on without those at `optional` places, and an earlier epoch of the job may be ending meanwhile.
  package func openChannel(
    _ stamp: JobStamp, roster: [DeviceID], optional: Set<Int> = []
  ) -> MeshJobChannel {
    let channel = MeshJobChannel(
      stamp, roster: roster, optional: optional, own: own, transport: transport
    ) { [weak self] in
      self?.dial($0, for: stamp)
    }
    let (early, isClosed) = state.withLock { state in
      precondition(state.channels[stamp] == nil, "plan epoch \(stamp.epoch) of job \(stamp.job) has begun")
      guard !state.isClosed else { return ([SessionID](), true) }
      state.channels[stamp] = channel
      return (state.early { $0 == stamp }, false)
    }
    if isClosed { channel.fail(.aborted("the daemon stops")) }
    for session in early { adopt(session, stamp) }
    channel.begin()
    return channel
  }

  /// Forgets a plan epoch that has ended; one that has not been closed is stopped, and sessions that were kept end.
  ///
  /// From then on sessions of this epoch of the job, and of those before it, are turned away.
  package func closeChannel(_ stamp: JobStamp) {
    let (channel, late) = state.withLock { state in
      if state.ended[stamp.job].map({ $0.isBefore(stamp) }) ?? true { state.ended[stamp.job] = stamp }
      return (
        state.channels.removeValue(forKey: stamp), state.early { $0.job == stamp.job && !stamp.isBefore($0) }
      )
    }
    for session in late { end(session) }
    endSpares()
    guard let channel, !channel.isClosing else { return }
    channel.fail(.aborted("plan epoch \(stamp.epoch) of job \(stamp.job.short) has ended"))
  }

  /// Forgets a job that is over, with the sessions of its epochs that never began here.
  package func forget(job: JobID) {
    let late = state.withLock { state in
      state.ended[job] = nil
      return state.early { $0.job == job }
    }
    for session in late { end(session) }
    blobs.forget(job: job)
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
    guard let (channel, link, first) = bound, link.bind(id, isDialled: false) else { return end(id) }
    var frames = first
    while true {
      for frame in frames { perform(take(frame, link, on: id), channel, link, on: id) }
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
    if isGone, let failure = link.closed(session) { channel.fail(failure, of: link) }
  }

  private func end(_ session: SessionID) {
    transport.perform([.close(session, .finished)])
    transport.resume(session)
  }

  // MARK: - Dials

  private func dial(_ device: DeviceID, for stamp: JobStamp) {
    let isAsked = state.withLock { state in
      guard let link = state.channels[stamp]?.link(to: device) else { return false }
      state.dialling.append(.link(link))
      return true
    }
    if isAsked { dial(device) }
  }

  /// A session that was asked for stands.
  package func dialled(_ session: SessionID, _ device: DeviceID) {
    let role: Role? = state.withLock { state in
      let role: Role
      switch takeDialling(device, &state) {
      case .fetch(let fetch, _)?: role = .fetching(fetch)
      case .link(let link)?:
        guard let channel = state.channels.values.first(where: { $0.link(to: device) === link })
        else { return nil }
        role = .job(channel, link)
      case nil: return nil
      }
      state.sessions[session]?.role = role
      return role
    }
    switch role {
    case .job(let channel, let link)? where link.bind(session, isDialled: true):
      endIfGone(session, channel, link)
    case .fetching(let fetch)? where fetch.opened(session, device):
      if state.withLock({ $0.sessions[session] == nil }) { fetch.closed(session) }
    default: end(session)
    }
  }

  /// A session that was asked for could not be opened.
  package func dialFailed(_ device: DeviceID) {
    switch state.withLock({ takeDialling(device, &$0) }) {
    case .link(let link)?: link.dialFailed()
    case .fetch(let fetch, let device)?: fetch.dialFailed(device)
    case nil: break
    }
  }

  // MARK: - Blobs

  /// Fetches a blob, or a part of it, for a job into the store; what is here already is not fetched again.
  ///
  /// `progress` is told how many of the chunks that are needed are here.
  package func fetch(
    _ id: ContentDigest, part: BlobPart = .all, for job: JobID, from sources: [DeviceID],
    progress: @escaping @Sendable (_ chunks: Int, _ wanted: Int) -> Void = { _, _ in }
  ) async throws(BlobFetchFailure) {
    let fetch = BlobFetch(
      id, by: own, manifest: store.manifest(of: id), part: part, held: store.held(of: id),
      sources: sources.filter { $0 != own }, at: DeviceClocks.now().monotonic)
    let doors = BlobFetching.Doors(transport: transport, store: store) { [weak self] device, fetch in
      guard let self else { return fetch.dialFailed(device) }
      dial(device, for: fetch)
    } giveBack: { [weak self] session in
      self?.keep(session)
    }
    let result = Mutex<BlobFetching?>(nil)
    let failure: BlobFetchFailure? = await withTaskCancellationHandler {
      await withCheckedContinuation { continuation in
        let fetching = BlobFetching(fetch, job: job, doors: doors, progress: progress) {
          continuation.resume(returning: $0)
        }
        result.withLock { $0 = fetching }
        if Task.isCancelled { fetching.cancel() }
        fetching.start()
      }
    } onCancel: {
      result.withLock { $0 }?.cancel()
    }
    if let failure { throw failure }
  }

  /// Gives a fetch a session that another has left, or has one dialled.
  private func dial(_ device: DeviceID, for fetch: BlobFetching) {
    let spare: SessionID? = state.withLock { state in
      let spare = state.sessions.keys.sorted().first { id in
        guard let session = state.sessions[id], session.info.peer == device else { return false }
        if case .spare = session.role { return true }
        return false
      }
      if let spare {
        state.sessions[spare]?.role = .fetching(fetch)
      } else {
        state.dialling.append(.fetch(fetch, device))
      }
      return spare
    }
    guard let spare else { return dial(device) }
    guard fetch.opened(spare, device) else { return end(spare) }
    if state.withLock({ $0.sessions[spare] == nil }) { fetch.closed(spare) }
  }

  /// Keeps a session for the next fetch: a model has many small files, and each dial costs a handshake.
  private func keep(_ session: SessionID) {
    let isKept = state.withLock { state in
      guard !state.isClosed, state.sessions[session] != nil else { return false }
      state.sessions[session]?.role = .spare
      return true
    }
    if isKept { transport.resume(session) } else { end(session) }
  }

  /// Ends the sessions that were kept.
  private func endSpares() {
    let spares = state.withLock { state in
      state.sessions.keys.sorted().filter { id in
        if case .spare? = state.sessions[id]?.role { true } else { false }
      }
    }
    for session in spares { end(session) }
  }

  private func takeDialling(_ device: DeviceID, _ state: inout State) -> Dialler? {
    guard let index = state.dialling.firstIndex(where: { $0.device == device }) else { return nil }
    return state.dialling.remove(at: index)
  }

  // MARK: - Sessions

  /// A bulk session stands.
  package func opened(_ session: SessionID, _ info: SessionInfo) {
    state.withLock { $0.sessions[session] = Session(info: info, role: .new) }
  }

  /// A frame of a job's link that stands goes into its message at once.
  package func take(_ frame: BulkFrame, on session: SessionID) -> Bool? {
    guard BulkStream(rawValue: frame.channel) == .job else { return nil }
    let role = state.withLock { $0.sessions[session]?.role }
    guard case .job(let channel, let link)? = role else { return nil }
    return perform(link.take(frame, on: session), channel, link, on: session)
  }

  /// A link's own view of a frame that was kept.
  private func take(_ frame: MeshFrame, _ link: JobLink, on session: SessionID) -> JobLink.Outcome {
    frame.body.withUnsafeBytes {
      link.take(BulkFrame(channel: frame.channel, request: frame.request, body: $0), on: session)
    }
  }

  /// A frame of a bulk session.
  package func received(_ frame: MeshFrame, on session: SessionID) -> Bool {
    switch BulkStream(rawValue: frame.channel) {
    case .job: return receivedJob(frame, on: session)
    case .blob: return receivedBlob(frame, on: session)
    case nil:
      transport.drop(.malformedJob)
      return true
    }
  }

  /// What a frame of a job's stream leads to.
  private enum Found {
    case job(MeshJobChannel, JobLink)
    case adopted(JobStamp)
    case result(Bool)
    case dropped(DropReason)
    case tooMuch
    /// It names an epoch that has ended here.
    case late
  }

  private func receivedJob(_ frame: MeshFrame, on session: SessionID) -> Bool {
    switch state.withLock({ find(frame, on: session, &$0) }) {
    case .result(let readsOn): return readsOn
    case .job(let channel, let link):
      return perform(take(frame, link, on: session), channel, link, on: session)
    case .adopted(let stamp):
      adopt(session, stamp)
      return true
    case .dropped(let reason):
      transport.drop(reason)
      return true
    case .late:
      transport.drop(.foreignJob)
      transport.perform([.close(session, .finished)])
      return true
    case .tooMuch:
      transport.drop(.notPermitted)
      transport.perform([.close(session, .overLimit)])
      return true
    }
  }

  private func find(_ frame: MeshFrame, on session: SessionID, _ state: inout State) -> Found {
    guard let entry = state.sessions[session] else { return .result(true) }
    switch entry.role {
    case .job(let channel, let link): return .job(channel, link)
    case .early(let stamp, var frames, let bytes):
      let all = bytes + frame.body.count
      guard all <= JobLinkLimits.earlyBytes else { return .tooMuch }
      // So that the list is not copied.
      state.sessions[session]?.role = .new
      frames.append(frame)
      state.sessions[session]?.role = .early(stamp, frames, bytes: all)
      return .result(false)
    case .new:
      let record = frame.body.withUnsafeBytes { try? JobRecord($0) }
      guard let record, case .word(.hello, _) = record.kind else {
        return .dropped(.malformedJob)
      }
      let early = state.sessions.values.count { if case .early = $0.role { true } else { false } }
      guard early < JobLinkLimits.earlySessions, !state.isClosed else { return .tooMuch }
      let channel = state.channels[record.stamp]
      if channel == nil, let ended = state.ended[record.stamp.job], !ended.isBefore(record.stamp) {
        return .late
      }
      // A device that is none of the plan has no business there.
      if let channel, channel.link(to: entry.info.peer) == nil { return .dropped(.foreignJob) }
      state.sessions[session]?.role = .early(record.stamp, [frame], bytes: frame.body.count)
      return channel == nil ? .result(false) : .adopted(record.stamp)
    case .serving, .fetching, .spare: return .dropped(.malformedJob)
    }
  }

  private func receivedBlob(_ frame: MeshFrame, on session: SessionID) -> Bool {
    guard let message = try? BlobMessage(decoding: frame.body) else {
      transport.drop(.malformedJob)
      return true
    }
    let role: Role? = state.withLock { state in
      guard let entry = state.sessions[session] else { return nil }
      if case .new = entry.role {
        state.sessions[session]?.role = .serving(blobs.serve(session, entry.info.peer))
      }
      return state.sessions[session]?.role
    }
    switch role {
    case .serving(let serving):
      if !serving.take(message) { transport.drop(.refusedBlob) }
    case .fetching(let fetch):
      if let readsOn = fetch.take(message, on: session) { return readsOn }
      transport.drop(.malformedJob)
    // What a fetch was told too late.
    case .spare: break
    case .job, .early, .new: transport.drop(.malformedJob)
    case nil: break
    }
    return true
  }

  @discardableResult
  private func perform(
    _ outcome: JobLink.Outcome, _ channel: MeshJobChannel, _ link: JobLink, on session: SessionID
  ) -> Bool {
    switch outcome {
    case .taken: break
    case .dropped(let reason): transport.drop(reason)
    case .failed(.lost(let place)) where place == channel.place:
      channel.fail(.lost(place: link.place), of: link)
    case .failed(let failure): channel.fail(failure, of: link)
    case .finished: link.settle()
    }
    return true
  }

  /// A session's queue has room again.
  package func writable(_ session: SessionID) {
    switch state.withLock({ $0.sessions[session]?.role }) {
    case .job(_, let link)?: link.writable()
    case .serving(let serving)?: serving.writable()
    case .early, .new, .fetching, .spare, nil: break
    }
  }

  /// A session ended.
  package func closed(_ session: SessionID, _ reason: CloseReason) {
    switch state.withLock({ $0.sessions.removeValue(forKey: session)?.role }) {
    case .job(let channel, let link)?:
      if let failure = link.closed(session) { channel.fail(failure, of: link) }
    case .serving(let serving)?: serving.close()
    case .fetching(let fetch)?: fetch.closed(session)
    case .early, .new, .spare, nil: break
    }
  }
}

extension JobStamp {
  /// Whether another epoch of the same job came after this one.
  func isBefore(_ other: JobStamp) -> Bool { (term, epoch) < (other.term, other.epoch) }
}
