package import CryptoPrimitives
package import Determinism
package import HearthStorage
package import MeshModel
import WireCoding

/// The bounds and times of fetching a blob from other devices.
package enum BlobFetchLimits {
  /// Chunks that one source is asked for at once.
  package static let window = 16
  /// Sources of one blob.
  package static let sources = 256
  /// Dials of one source before it counts as gone.
  package static let dials = 3
  /// Times that a source may say that it does not have the blob, or may not give it, yet, while no chunk comes from anybody.
  package static let refusals = 15
  /// A source that fetches too is asked what it holds by now, for at most this part of the bytes that come: one byte in so many.
  package static let offerShare = 32

  /// A source from which no byte came for so long, although it was asked, has its chunks asked of others.
  package static let patience: Duration = .seconds(10)
  /// Before a source that vanished is dialled again, and at most before one that refused is asked again.
  package static let pause: Duration = .seconds(2)
  /// Before a source that refused once is asked again; each further refusal doubles it.
  package static let firstPause: Duration = .milliseconds(250)
  /// A source is asked for as much as it sent in this time.
  package static let lead: Duration = .seconds(1)
}

/// Why a source is not asked any more; the raw values are for logs.
package enum BlobSourceFault: String, Hashable, Sendable {
  /// It sent a manifest or a chunk that is not what the blob's name asks for.
  case corrupt
  /// Nothing came from it for too long.
  case silent
  /// It could not be reached, or its session ended again and again.
  case vanished
  /// It does not have the blob, or may not give it to this device.
  case refused
}

/// Why a blob could not be fetched.
package enum BlobFetchFailure: Error, Equatable, Sendable, CustomStringConvertible {
  /// No device gave all of it; the faults by device, in ascending order.
  case noSource(ContentDigest, missing: Int, faults: [BlobSourceFault])
  /// The store refused.
  case store(BlobFailure)
  /// Nobody waits for it any more.
  case cancelled(ContentDigest)

  /// What is wrong and the next step.
  package var description: String {
    switch self {
    case .noSource(let id, let missing, let faults):
      "no device gave all of blob \(id.description.prefix(8)): \(missing) chunks are missing, sources: "
        + (faults.isEmpty ? "none" : faults.map(\.rawValue).joined(separator: ", "))
        + "; check with 'hearth peers' that the owner is there, and run the same command again"
    case .store(let failure): failure.description
    case .cancelled(let id): "blob \(id.description.prefix(8)) is no longer needed here"
    }
  }
}

/// What is needed of a blob.
package enum BlobPart: Hashable, Sendable {
  /// All of it.
  case all
  /// The chunks that hold these bytes; what lies behind its end does not count.
  case bytes([Range<Int>])

  /// The chunks of a blob that this takes.
  package func chunks(of manifest: BlobManifest) -> BlobChunks {
    switch self {
    case .all: return BlobChunks(all: manifest.chunkCount)
    case .bytes(let ranges):
      var chunks = BlobChunks(none: manifest.chunkCount)
      for range in ranges { chunks.insert(manifest.chunks(range.clamped(to: 0..<manifest.byteCount))) }
      return chunks
    }
  }
}

/// Fetches one blob, or some of its chunks, from several devices at once: event and time in, effects out.
///
/// Every source is asked for as much as it sends in about a second, so chunks divide by speed. Sources may be readers
/// themselves: they are asked again and again what they hold by now, and rare chunks go first (`ChunkOrder`), so that a
/// device that has the whole blob gives each chunk less than twice, however many fetch it. What a source that fails
/// was asked for goes to the others; towards the end a fast source is asked for what a slow one still owes. Nothing is
/// stored that the blob's name does not vouch for, and who sends something else is not asked again.
package struct BlobFetch: Sendable {
  /// What happens.
  package enum Input: Sendable {
    /// The first input.
    case start
    /// A session to a source stands.
    case opened(DeviceID)
    /// A source's answer: the encoded manifest, and a bit for each chunk that it has.
    case offer(DeviceID, manifest: [UInt8], bits: [UInt8])
    /// Bytes of an answer came.
    case progress(DeviceID, byteCount: Int)
    /// A whole chunk came.
    case chunk(DeviceID, Int, [UInt8])
    /// A source does not give a chunk, or the blob (nil).
    case refused(DeviceID, chunk: Int?)
    /// There is no session to a source, or not any more.
    case gone(DeviceID)
    /// Time has passed.
    case tick
  }

  /// What is to be done, in this order.
  package enum Effect: Sendable, Equatable {
    /// Open a session to a source.
    case dial(DeviceID)
    /// Ask it what it has.
    case askOffer(DeviceID)
    /// Ask it for chunks.
    case ask(DeviceID, Range<Int>)
    /// Make room for chunks of the blob.
    case begin(BlobManifest, BlobChunks)
    /// Keep a chunk; it has been verified.
    case store(Int, HashedChunk)
    /// End the session to a source.
    case drop(DeviceID, BlobSourceFault)
    /// All chunks have been handed to `store`.
    case finished
    /// Nothing more will come.
    case failed(BlobFetchFailure)
  }

  private enum Standing: Equatable {
    case dialling
    case offering
    case serving
    /// Until then nothing is asked; then it is dialled, or asked again on its session.
    case pausing(until: MonotonicInstant, hasSession: Bool)
    case out(BlobSourceFault)
  }

  private struct Source {
    let device: DeviceID
    var standing = Standing.dialling
    var held: BlobChunks?
    /// Asked for and not come, in the order of asking.
    var asked: [Int] = []
    var dials = 0
    /// Refusals since a chunk last came from anybody.
    var refusals = 0
    /// Refusals since it last gave a chunk: the longer it has had nothing, the more rarely it is asked.
    var refusalsInRow = 0
    /// Whether a serving source has been asked again what it holds; the bytes that had come when it last said so.
    var isAskedAnew = false
    var bytesAtOffer = 0
    var lastProgress: MonotonicInstant
    /// Bytes that came since it was first asked, and when that was.
    var receivedBytes = 0
    var busySince: MonotonicInstant?
    var busy = Duration.zero

    /// Bytes a second while it was asked for something; nil before a chunk has come.
    func rate(at now: MonotonicInstant) -> Double? {
      let time = busy + (busySince.map { $0.duration(to: now) } ?? .zero)
      guard receivedBytes >= BlobLimits.chunk, time > .zero else { return nil }
      return Double(receivedBytes)
        / (Double(time.components.seconds) + Double(time.components.attoseconds) * 1e-18)
    }
  }

  /// The blob.
  package let id: ContentDigest
  /// What it consists of, once that is known.
  package private(set) var manifest: BlobManifest?
  /// Whether all is done, or nothing can be.
  package private(set) var isOver = false

  private let part: BlobPart
  private var wanted: BlobChunks?
  private var held: BlobChunks?
  private var sources: [Source]
  private var effects: [Effect] = []
  /// Decides the order of chunks that are equally rare.
  private let seed: UInt64
  private var order: ChunkOrder?
  /// Bytes of an offer, and of all chunks that have come.
  private var offerBytes = 0
  private var receivedBytes = 0

  /// A fetch from some sources.
  ///
  /// - Parameters:
  ///   - reader: the device that fetches; it decides in which order chunks are asked for.
  ///   - manifest: what the blob consists of, when that is known already.
  ///   - part: what is needed of it.
  ///   - held: the chunks that are here already.
  package init(
    _ id: ContentDigest, by reader: DeviceID, manifest: BlobManifest? = nil, part: BlobPart = .all,
    held: BlobChunks? = nil, sources: [DeviceID], at now: MonotonicInstant
  ) {
    precondition(manifest.map { $0.id == id } ?? (held == nil), "a manifest of another blob")
    self.id = id
    seed = reader.bytes.reduce(0) { $0 &* 0x100_0000_01B3 ^ UInt64($1) }
    self.manifest = manifest
    self.part = part
    wanted = manifest.map(part.chunks)
    self.held = held ?? manifest.map { BlobChunks(none: $0.chunkCount) }
    self.sources = Set(sources).sorted().prefix(BlobFetchLimits.sources).map {
      Source(device: $0, lastProgress: now)
    }
  }

  /// Chunks that are needed and not here; nil while the manifest is unknown.
  package var missing: Int? {
    guard let wanted, let held else { return nil }
    return wanted.subtracting(held).population
  }

  /// Chunks that are needed; nil while the manifest is unknown.
  package var wantedCount: Int? { wanted?.population }

  /// Bytes that came from each source, in ascending order of devices.
  package var received: [(device: DeviceID, byteCount: Int)] { sources.map { ($0.device, $0.receivedBytes) } }

  /// Whether a source owes an answer, which may come yet.
  package func isOwed(by device: DeviceID) -> Bool {
    sources.contains {
      $0.device == device && ($0.standing != .serving || $0.isAskedAnew || !$0.asked.isEmpty)
    }
  }

  /// When `tick` is due; nil when only an event can go on.
  package var nextDeadline: MonotonicInstant? {
    isOver ? nil : sources.compactMap(deadline).min()
  }

  private func deadline(of source: Source) -> MonotonicInstant? {
    switch source.standing {
    case .pausing(let until, _): until
    case .offering: source.lastProgress.advanced(by: BlobFetchLimits.patience)
    case .serving where !source.asked.isEmpty: source.lastProgress.advanced(by: BlobFetchLimits.patience)
    case .serving, .dialling, .out: nil
    }
  }

  /// Takes in what happened and answers with what to do.
  package mutating func handle(_ input: Input, at now: MonotonicInstant) -> [Effect] {
    guard !isOver else { return [] }
    effects = []
    switch input {
    case .start: start()
    case .tick: expire(at: now)
    case .opened(let device): change(device) { $0.opened(index: $1, at: now) }
    case .offer(let device, let bytes, let bits):
      change(device) { $0.offered(index: $1, bytes, bits, at: now) }
    case .progress(let device, let byteCount):
      change(device) { fetch, index in
        fetch.sources[index].lastProgress = now
        fetch.sources[index].receivedBytes += byteCount
        fetch.receivedBytes += byteCount
      }
      // Nothing else has changed.
      return []
    case .chunk(let device, let chunk, let bytes):
      change(device) { $0.received(index: $1, chunk, bytes, at: now) }
    case .refused(let device, let chunk): change(device) { $0.refused(index: $1, chunk, at: now) }
    case .gone(let device): change(device) { $0.vanished(index: $1, at: now) }
    }
    settle(at: now)
    defer { effects = [] }
    return effects
  }

  private mutating func change(_ device: DeviceID, _ body: (inout BlobFetch, Int) -> Void) {
    guard let index = sources.firstIndex(where: { $0.device == device }) else { return }
    if case .out = sources[index].standing { return }
    body(&self, index)
  }

  // MARK: - Sources

  private mutating func start() {
    if let manifest, let wanted, let held {
      guard !held.isSuperset(of: wanted) else { return }
      effects.append(.begin(manifest, wanted))
    }
    for index in sources.indices { dial(index) }
  }

  private mutating func dial(_ index: Int) {
    sources[index].dials += 1
    sources[index].standing = .dialling
    effects.append(.dial(sources[index].device))
  }

  private mutating func opened(index: Int, at now: MonotonicInstant) {
    guard sources[index].standing == .dialling else { return }
    askOffer(index, at: now)
  }

  private mutating func askOffer(_ index: Int, at now: MonotonicInstant) {
    sources[index].standing = .offering
    sources[index].lastProgress = now
    effects.append(.askOffer(sources[index].device))
  }

  private mutating func offered(index: Int, _ bytes: [UInt8], _ bits: [UInt8], at now: MonotonicInstant) {
    guard sources[index].standing == .offering || sources[index].isAskedAnew else { return }
    let known = manifest
    guard let offered = known ?? (try? BlobManifest(decoding: bytes)), ContentDigest(of: bytes) == id,
      let held = BlobChunks(bits: bits, count: offered.chunkCount)
    else { return out(index, .corrupt, at: now) }
    sources[index].held = held
    sources[index].standing = .serving
    sources[index].isAskedAnew = false
    sources[index].bytesAtOffer = receivedBytes
    offerBytes = bytes.count + bits.count
    defer { countHolders() }
    guard known == nil else { return }
    let wanted = part.chunks(of: offered)
    manifest = offered
    self.wanted = wanted
    self.held = BlobChunks(none: offered.chunkCount)
    effects.append(.begin(offered, wanted))
  }

  private mutating func countHolders() {
    guard let manifest else { return }
    var order = order ?? ChunkOrder(chunkCount: manifest.chunkCount, seed: seed)
    order.count(
      sources.compactMap { source in if case .out = source.standing { nil } else { source.held } })
    self.order = order
  }

  /// Asks sources that lack something of what is missing what they hold by now: they may fetch too.
  private mutating func askAnew(_ missing: BlobChunks) {
    let growing = sources.indices.filter { index in
      guard sources[index].standing == .serving, let held = sources[index].held else { return false }
      return !held.isSuperset(of: missing)
    }
    let least = BlobFetchLimits.offerShare * offerBytes * growing.count
    for index in growing
    where !sources[index].isAskedAnew && receivedBytes - sources[index].bytesAtOffer >= least {
      sources[index].isAskedAnew = true
      effects.append(.askOffer(sources[index].device))
    }
  }

  private mutating func vanished(index: Int, at now: MonotonicInstant) {
    release(index, at: now)
    guard sources[index].dials < BlobFetchLimits.dials else { return out(index, .vanished, at: now) }
    sources[index].standing = .pausing(until: now.advanced(by: BlobFetchLimits.pause), hasSession: false)
  }

  private mutating func refused(index: Int, _ chunk: Int?, at now: MonotonicInstant) {
    if let chunk {
      sources[index].held?.remove(chunk)
      sources[index].asked.removeAll { $0 == chunk }
      return noteIdle(index, at: now)
    }
    release(index, at: now)
    sources[index].refusals += 1
    sources[index].refusalsInRow += 1
    guard sources[index].refusals < BlobFetchLimits.refusals else { return out(index, .refused, at: now) }
    let doublings = min(sources[index].refusalsInRow - 1, 16)
    let pause = min(BlobFetchLimits.pause, BlobFetchLimits.firstPause * (1 << doublings))
    sources[index].standing = .pausing(until: now.advanced(by: pause), hasSession: true)
  }

  private mutating func out(_ index: Int, _ fault: BlobSourceFault, at now: MonotonicInstant) {
    release(index, at: now)
    sources[index].standing = .out(fault)
    effects.append(.drop(sources[index].device, fault))
    countHolders()
  }

  /// What it was asked for is open again.
  private mutating func release(_ index: Int, at now: MonotonicInstant) {
    sources[index].asked = []
    sources[index].isAskedAnew = false
    noteIdle(index, at: now)
  }

  private mutating func noteIdle(_ index: Int, at now: MonotonicInstant) {
    guard sources[index].asked.isEmpty, let since = sources[index].busySince else { return }
    sources[index].busy += since.duration(to: now)
    sources[index].busySince = nil
  }

  private mutating func expire(at now: MonotonicInstant) {
    for index in sources.indices {
      guard let deadline = deadline(of: sources[index]), deadline <= now else { continue }
      switch sources[index].standing {
      case .pausing(_, hasSession: true): askOffer(index, at: now)
      case .pausing(_, hasSession: false): dial(index)
      case .offering, .serving: out(index, .silent, at: now)
      case .dialling, .out: break
      }
    }
  }

  // MARK: - Chunks

  private mutating func received(index: Int, _ chunk: Int, _ bytes: [UInt8], at now: MonotonicInstant) {
    guard let manifest, let place = sources[index].asked.firstIndex(of: chunk) else { return }
    sources[index].asked.remove(at: place)
    sources[index].lastProgress = now
    noteIdle(index, at: now)
    let hashed = HashedChunk(bytes)
    guard manifest.verifies(hashed, as: chunk) else { return out(index, .corrupt, at: now) }
    sources[index].refusalsInRow = 0
    guard held?.contains(chunk) == false else { return }
    held?.insert(chunk)
    for other in sources.indices { sources[other].refusals = 0 }
    effects.append(.store(chunk, hashed))
  }

  /// Asks for what is open, and ends when nothing is.
  private mutating func settle(at now: MonotonicInstant) {
    if let wanted, let held, manifest != nil {
      if held.isSuperset(of: wanted) { return end(.finished) }
      let missing = wanted.subtracting(held)
      ask(open: missing, at: now)
      askAnew(missing)
      pauseUseless(missing, at: now)
    }
    let faults = sources.compactMap { if case .out(let fault) = $0.standing { fault } else { nil } }
    guard faults.count == sources.count else { return }
    end(.failed(.noSource(id, missing: missing ?? 0, faults: faults)))
  }

  private mutating func end(_ effect: Effect) {
    isOver = true
    effects.append(effect)
  }

  /// A source that has nothing of what is missing may have more in a while: it fetches too.
  ///
  /// While chunks come from others it is asked by and by (`askAnew`); else after a pause.
  private mutating func pauseUseless(_ missing: BlobChunks, at now: MonotonicInstant) {
    guard sources.allSatisfy(\.asked.isEmpty) else { return }
    for index in sources.indices where sources[index].standing == .serving && sources[index].asked.isEmpty {
      guard let held = sources[index].held, missing.subtracting(held) == missing else { continue }
      refused(index: index, nil, at: now)
    }
  }

  private mutating func ask(open missing: BlobChunks, at now: MonotonicInstant) {
    var open = missing
    for source in sources { for chunk in source.asked { open.remove(chunk) } }
    var hasAsked = true
    while hasAsked {
      hasAsked = false
      for index in sources.indices where sources[index].standing == .serving {
        let room = window(of: sources[index], at: now) - sources[index].asked.count
        guard room > 0, let held = sources[index].held,
          let run = order?.next(open: open, held: held, atMost: room)
        else { continue }
        for chunk in run { open.remove(chunk) }
        ask(index, run, at: now)
        hasAsked = true
      }
    }
    for index in sources.indices where sources[index].standing == .serving {
      helpOut(index, missing, at: now)
    }
  }

  private mutating func ask(_ index: Int, _ run: Range<Int>, at now: MonotonicInstant) {
    if sources[index].asked.isEmpty {
      sources[index].busySince = now
      sources[index].lastProgress = now
    }
    sources[index].asked += run
    effects.append(.ask(sources[index].device, run))
  }

  private func window(of source: Source, at now: MonotonicInstant) -> Int {
    guard let rate = source.rate(at: now) else { return 2 }
    let chunks = rate * Double(BlobFetchLimits.lead.components.seconds) / Double(BlobLimits.chunk)
    return max(2, min(BlobFetchLimits.window, Int(min(chunks, 1e6))))
  }

  /// An idle source is asked for the last chunk that a much slower one still owes.
  private mutating func helpOut(_ index: Int, _ missing: BlobChunks, at now: MonotonicInstant) {
    guard sources[index].asked.isEmpty, let held = sources[index].held,
      let rate = sources[index].rate(at: now)
    else { return }
    var choice: (chunk: Int, time: Double)?
    for other in sources where other.device != sources[index].device {
      let owed = other.asked.last { chunk in
        missing.contains(chunk) && held.contains(chunk)
          && sources.count(where: { $0.asked.contains(chunk) }) == 1
      }
      guard let chunk = owed else { continue }
      // Who has sent no chunk yet may be slow without bound.
      let time = other.rate(at: now).map { Double(other.asked.count) * rate / $0 } ?? .infinity
      if time > 2, time > choice?.time ?? 0 { choice = (chunk, time) }
    }
    if let choice { ask(index, choice.chunk..<choice.chunk + 1, at: now) }
  }
}
