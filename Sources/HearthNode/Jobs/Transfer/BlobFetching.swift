import ComputeRuntime
import CryptoPrimitives
import Determinism
import HearthStorage
import MeshModel
import MeshProtocol
import MeshTransport
import TrainingCoordination
import WireCoding

/// Performs a `BlobFetch`: sessions and store on one side, the value type on the other, on a thread of its own.
///
/// - Safety: everything that changes is touched under the monitor, but for the fetch, which only its thread touches.
final class BlobFetching: @unchecked Sendable {
  /// What is asked of the desk.
  struct Doors: Sendable {
    let transport: any MeshEndpoint
    let store: BlobStore
    /// Opens a session to a device; ends in `opened` or `dialFailed`.
    let dial: @Sendable (DeviceID, BlobFetching) -> Void
    /// Takes back a session on which nothing is under way.
    let giveBack: @Sendable (SessionID) -> Void
  }

  private struct Session {
    let id: SessionID
    let device: DeviceID
    var isPaused = false
    var offer = BlobAssembly()
    var chunk = BlobAssembly()
    var chunkNumber = 0
  }

  private let job: JobID
  private let id: ContentDigest
  private let doors: Doors
  private let progress: @Sendable (_ chunks: Int, _ wanted: Int) -> Void
  private let done: @Sendable (BlobFetchFailure?) -> Void
  private let monitor = Monitor()
  private var inputs: [BlobFetch.Input] = []
  private var waitingBytes = 0
  private var sessions: [Session] = []
  private var isCancelled = false
  private var isOver = false
  private var fetch: BlobFetch

  init(
    _ fetch: BlobFetch, job: JobID, doors: Doors,
    progress: @escaping @Sendable (_ chunks: Int, _ wanted: Int) -> Void,
    done: @escaping @Sendable (BlobFetchFailure?) -> Void
  ) {
    self.fetch = fetch
    id = fetch.id
    self.job = job
    self.doors = doors
    self.progress = progress
    self.done = done
  }

  /// Begins.
  func start() {
    OperatingSystemThread.detached(name: "hearth-fetch") { [self] in run() }
  }

  /// Gives up.
  func cancel() {
    monitor.locked {
      isCancelled = true
      monitor.wakeAll()
    }
  }

  // MARK: - What the desk tells

  /// A session to a source stands; false when nobody needs it any more.
  func opened(_ session: SessionID, _ device: DeviceID) -> Bool {
    monitor.locked {
      guard !isOver else { return false }
      sessions.append(Session(id: session, device: device))
      put(.opened(device))
      return true
    }
  }

  /// A source could not be reached.
  func dialFailed(_ device: DeviceID) { monitor.locked { put(.gone(device)) } }

  /// A session ended.
  func closed(_ session: SessionID) {
    monitor.locked {
      guard let index = sessions.firstIndex(where: { $0.id == session }) else { return }
      put(.gone(sessions.remove(at: index).device))
    }
  }

  /// What a source says; whether its session may be read on, nil when it makes no sense.
  func take(_ message: BlobMessage, on session: SessionID) -> Bool? {
    monitor.locked {
      guard let index = sessions.firstIndex(where: { $0.id == session }) else { return true }
      let device = sessions[index].device
      switch message {
      case .offer(id, let offset, let total, let part):
        guard let isWhole = sessions[index].offer.add(offset: offset, total: total, part) else { return nil }
        if isWhole { return takeOffer(sessions[index].offer.bytes, device) ? true : nil }
      case .chunk(id, let chunk, let offset, let total, let part):
        if offset == 0 { sessions[index].chunkNumber = chunk }
        guard sessions[index].chunkNumber == chunk,
          let isWhole = sessions[index].chunk.add(offset: offset, total: total, part)
        else { return nil }
        put(.progress(device, byteCount: part.count))
        if isWhole {
          waitingBytes += total
          put(.chunk(device, chunk, sessions[index].chunk.bytes))
        }
      case .refusal(id, let chunk): put(.refused(device, chunk: chunk))
      case .offer, .chunk, .refusal, .askOffer, .askChunks: return nil
      }
      sessions[index].isPaused = waitingBytes >= BlobMessageLimits.waitingBytes
      return !sessions[index].isPaused
    }
  }

  private func takeOffer(_ bytes: [UInt8], _ device: DeviceID) -> Bool {
    var reader = ByteReader(bytes)
    guard (try? BlobManifest(from: &reader)) != nil else { return false }
    put(.offer(device, manifest: Array(bytes[..<reader.consumed]), bits: Array(bytes[reader.consumed...])))
    return true
  }

  private func put(_ input: BlobFetch.Input) {
    guard !isOver else { return }
    inputs.append(input)
    monitor.wakeAll()
  }

  // MARK: - The thread

  private func run() {
    var failure = perform(fetch.handle(.start, at: DeviceClocks.now().monotonic))
    while failure == nil, !fetch.isOver {
      let (next, resumed) = takeInputs()
      for session in resumed { doors.transport.resume(session) }
      guard let next else {
        failure = .cancelled(id)
        break
      }
      for input in next where failure == nil && !fetch.isOver {
        failure = perform(fetch.handle(input, at: DeviceClocks.now().monotonic))
      }
    }
    let left: [Session] = monitor.locked {
      isOver = true
      inputs = []
      defer { sessions = [] }
      return sessions
    }
    for session in left {
      if fetch.isOwed(by: session.device) { end(session.id) } else { doors.giveBack(session.id) }
    }
    done(failure)
  }

  /// Waits for inputs or the next deadline; nil when the fetch was cancelled.
  private func takeInputs() -> ([BlobFetch.Input]?, [SessionID]) {
    monitor.locked {
      while inputs.isEmpty, !isCancelled {
        guard let deadline = fetch.nextDeadline else {
          monitor.wait()
          continue
        }
        if deadline <= DeviceClocks.now().monotonic { return ([.tick], []) }
        monitor.wait(until: deadline)
      }
      if isCancelled { return (nil, []) }
      defer {
        inputs = []
        waitingBytes = 0
      }
      var resumed: [SessionID] = []
      for index in sessions.indices where sessions[index].isPaused {
        sessions[index].isPaused = false
        resumed.append(sessions[index].id)
      }
      return (inputs, resumed)
    }
  }

  private func perform(_ effects: [BlobFetch.Effect]) -> BlobFetchFailure? {
    for effect in effects {
      do throws(BlobFailure) {
        if let failure = try perform(effect) { return failure }
      } catch { return .store(error) }
    }
    return nil
  }

  private func perform(_ effect: BlobFetch.Effect) throws(BlobFailure) -> BlobFetchFailure? {
    switch effect {
    case .dial(let device): doors.dial(device, self)
    case .askOffer(let device): say(.askOffer(job, id), to: device)
    case .ask(let device, let chunks):
      say(.askChunks(job, id, first: chunks.lowerBound, count: chunks.count), to: device)
    case .begin(let manifest, let wanted): try doors.store.begin(manifest, for: wanted)
    case .store(let chunk, let hashed):
      try doors.store.write(hashed, as: chunk, of: id)
      tellProgress()
    case .drop(let device, let fault):
      if fault == .corrupt { doors.transport.drop(.refusedBlob) }
      let ended: [SessionID] = monitor.locked {
        defer { sessions.removeAll { $0.device == device } }
        return sessions.filter { $0.device == device }.map(\.id)
      }
      for session in ended { end(session) }
    case .finished: break
    case .failed(let failure): return failure
    }
    return nil
  }

  private func tellProgress() {
    guard let missing = fetch.missing, let wanted = fetch.wantedCount else { return }
    progress(wanted - missing, wanted)
  }

  private func say(_ message: BlobMessage, to device: DeviceID) {
    let session = monitor.locked { sessions.last { $0.device == device }?.id }
    // Questions are small, and few wait for their answers.
    if let session { doors.transport.perform([.send(session, message.frame)]) }
  }

  private func end(_ session: SessionID) {
    doors.transport.perform([.close(session, .finished)])
    doors.transport.resume(session)
  }
}
