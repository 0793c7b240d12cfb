import ComputeRuntime
package import CryptoPrimitives
import HearthStorage
package import MeshModel
import MeshProtocol
import MeshTransport
import Synchronization
package import TrainingCoordination
import WireCoding

/// Gives blobs of this device to members whose job refers to them, and to nobody else.
package final class BlobService: Sendable {
  private let store: BlobStore
  private let transport: any MeshEndpoint
  /// Who may read which blob, by job.
  private let readers = Mutex<[JobID: [ContentDigest: Set<DeviceID>]]>([:])

  init(store: BlobStore, transport: any MeshEndpoint) {
    self.store = store
    self.transport = transport
  }

  /// From now on these devices may read these blobs for this job, beside what was admitted before.
  package func admit(job: JobID, blobs: [ContentDigest], readers devices: [DeviceID]) {
    readers.withLock { readers in
      for blob in blobs { readers[job, default: [:]][blob, default: []].formUnion(devices) }
    }
  }

  /// Nobody reads for this job any more.
  package func forget(job: JobID) { readers.withLock { $0[job] = nil } }

  private func mayRead(_ blob: ContentDigest, for job: JobID, _ device: DeviceID) -> Bool {
    readers.withLock { $0[job]?[blob]?.contains(device) ?? false }
  }

  /// A session on which a device asks for blobs.
  func serve(_ session: SessionID, _ device: DeviceID) -> BlobServing {
    BlobServing(session: session, transport: transport) { [self] message in
      answer(message, to: device)
    }
  }

  /// What a device gets for a question, in the order in which it is read.
  private func answer(_ message: BlobMessage, to device: DeviceID) -> [() -> [MeshFrame]] {
    func refuse(_ blob: ContentDigest, _ chunk: Int? = nil) -> [MeshFrame] {
      [BlobMessage.refusal(blob, chunk: chunk).frame]
    }
    switch message {
    case .askOffer(let job, let blob):
      return [
        { [self] in
          guard mayRead(blob, for: job, device), let manifest = store.manifest(of: blob),
            let held = store.held(of: blob)
          else { return refuse(blob) }
          return BlobMessage.frames(of: manifest.encoded + held.bits) {
            .offer(blob, offset: $0, total: $1, $2)
          }
        }
      ]
    case .askChunks(let job, let blob, let first, let count):
      return (first..<first + count).map { chunk in
        { [self] in
          // Asked again for each chunk, as the job may have ended meanwhile.
          guard mayRead(blob, for: job, device) else { return refuse(blob) }
          guard let bytes = try? store.read(chunk, of: blob) else { return refuse(blob, chunk) }
          return BlobMessage.frames(of: bytes) { .chunk(blob, chunk: chunk, offset: $0, total: $1, $2) }
        }
      }
    case .offer, .chunk, .refusal: return []
    }
  }
}

/// One session on which this device gives blobs: questions in, answers out, at the pace of who asks.
///
/// Answers are read from the disk on a thread that lives while questions wait.
///
/// - Safety: everything that changes is touched under the monitor only.
final class BlobServing: @unchecked Sendable {
  private let session: SessionID
  private let transport: any MeshEndpoint
  private let answer: @Sendable (BlobMessage) -> [() -> [MeshFrame]]
  private let monitor = Monitor()
  private var questions: [BlobMessage] = []
  private var isAnswering = false
  private var isClosed = false
  private var writableCount: UInt64 = 0

  init(
    session: SessionID, transport: any MeshEndpoint,
    answer: @escaping @Sendable (BlobMessage) -> [() -> [MeshFrame]]
  ) {
    self.session = session
    self.transport = transport
    self.answer = answer
  }

  /// Takes a question; false when too many wait.
  func take(_ question: BlobMessage) -> Bool {
    let (isTaken, starts) = monitor.locked {
      guard questions.count < BlobMessageLimits.waitingQuestions else { return (false, false) }
      questions.append(question)
      defer { isAnswering = true }
      return (true, !isAnswering)
    }
    if starts { OperatingSystemThread.detached(name: "hearth-blobs") { [self] in run() } }
    return isTaken
  }

  func writable() {
    monitor.locked {
      writableCount += 1
      monitor.wakeAll()
    }
  }

  func close() {
    monitor.locked {
      isClosed = true
      questions = []
      monitor.wakeAll()
    }
  }

  private func run() {
    while let question = nextQuestion() {
      for part in answer(question) {
        for frame in part() { guard put(frame) else { return } }
      }
    }
  }

  private func nextQuestion() -> BlobMessage? {
    monitor.locked {
      guard !questions.isEmpty else {
        isAnswering = false
        return nil
      }
      return questions.removeFirst()
    }
  }

  /// Waits for room and sends; false when the session has ended.
  private func put(_ frame: MeshFrame) -> Bool {
    while true {
      let (isOver, seen) = monitor.locked { (isClosed, writableCount) }
      if isOver { return false }
      if transport.room(in: session) >= frame.body.count + MeshFrame.headerByteCount {
        transport.perform([.send(session, frame)])
        return true
      }
      monitor.locked {
        while writableCount == seen, !isClosed { monitor.wait() }
      }
    }
  }
}
