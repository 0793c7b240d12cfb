import CryptoPrimitives
import Determinism
import HearthNode
import HearthStorage
import MeshModel
import Testing
import WireCoding

/// The value type alone, against simulated sources.
@Suite("Fetching a blob")
struct BlobFetchTests {
  @Test("gets every chunk once from sources of whatever quality, if one of them is honest", arguments: 0..<60)
  func seeded(seed: UInt64) throws {
    var lab = FetchLab(seed: seed, chunks: 40)
    try lab.run()
    #expect(lab.failure == nil)
    #expect(lab.stored.sorted() == Array(0..<40), "seed \(seed)")
    #expect(lab.wrongStores == 0)
    #expect(lab.mostAsked <= BlobFetchLimits.window)
    for (device, kind) in lab.kinds where kind == .corrupt {
      // Once it has shown what it is, nothing more is asked.
      #expect(lab.askedAfterDrop[device, default: 0] == 0)
    }
  }

  @Test("fails with the fault of each source when none has all of it", arguments: 0..<10)
  func noSource(seed: UInt64) throws {
    var lab = FetchLab(seed: seed, chunks: 6, kinds: [.corrupt, .vanishing, .refusing, .mute])
    lab.nobodyHas = 2
    try lab.run()
    guard case .noSource(_, let missing, let faults)? = lab.failure else {
      Issue.record("seed \(seed): it ended with \(String(describing: lab.failure))")
      return
    }
    #expect(missing == 6 - lab.stored.count && missing > 0)
    #expect(Set(faults).isSubset(of: [.corrupt, .vanished, .refused, .silent]) && faults.count == 4)
  }

  @Test("divides chunks by speed: of two sources, one four times as fast, the fast one gives most")
  func speeds() throws {
    var lab = FetchLab(seed: 1, chunks: 100, kinds: [.good, .good])
    lab.rates = [40e6, 10e6]
    try lab.run()
    let shares = lab.given.sorted { $0.key < $1.key }.map(\.value)
    // Four fifths, less what is settled before the speeds are known and at the end.
    #expect(shares[0] >= 70 && shares[0] + shares[1] <= 102, "\(shares)")
    // Both at work all the time: 100 MiB at 50 MB/s take 2.1 s; a tenth more is for the beginning and the end.
    #expect(lab.seconds < 2.4, "\(lab.seconds) s")
  }

  @Test("asks a fast source for what a slow one still owes at the end")
  func lastChunks() throws {
    var lab = FetchLab(seed: 1, chunks: 20, kinds: [.good, .good])
    lab.rates = [100e6, 0.1e6]
    try lab.run()
    // The slow one alone takes ten seconds for a chunk.
    #expect(lab.failure == nil && lab.seconds < 5, "\(lab.seconds) s")
  }

  @Test("fetches the chunks of some bytes only, and nothing when they are here")
  func parts() throws {
    var lab = FetchLab(seed: 3, chunks: 10, kinds: [.good])
    lab.part = .bytes([0..<8, 3 << 20 | 5..<5 << 20 | 1, 100 << 20..<200 << 20])
    try lab.run()
    #expect(lab.stored.sorted() == [0, 3, 4, 5])
    let manifest = lab.manifest
    var held = BlobChunks(none: 10)
    held.insert(2..<5)
    var fetch = BlobFetch(
      manifest.id, by: FetchLab.reader, manifest: manifest, part: .bytes([2 << 20..<5 << 20]), held: held,
      sources: Array(lab.kinds.keys), at: MonotonicInstant(nanoseconds: 0))
    #expect(fetch.handle(.start, at: MonotonicInstant(nanoseconds: 0)) == [.finished])
  }
}

/// Sources with their faults, and the time of their answers.
private struct FetchLab {
  enum Kind: CaseIterable {
    case good, corrupt, vanishing, refusing, mute, partial
  }

  private enum Event {
    case opened(DeviceID), gone(DeviceID), offer(DeviceID), chunk(DeviceID, Int), refused(DeviceID, Int?)
  }

  static let reader = DeviceID(bytes: Array(repeating: 0, count: 16))!

  let manifest: BlobManifest
  let content: [[UInt8]]
  private(set) var kinds: [DeviceID: Kind] = [:]
  var rates: [Double] = []
  var part = BlobPart.all
  /// A chunk that no source has.
  var nobodyHas: Int?
  private let devices: [DeviceID]
  private var generator: SeededGenerator
  private var queue: [(at: Int64, number: Int, event: Event)] = []
  private var number = 0
  private var now: Int64 = 0
  private var freeAt: [DeviceID: Int64] = [:]
  private var dropped: Set<DeviceID> = []
  private var asked: [DeviceID: Set<Int>] = [:]

  private(set) var stored: [Int] = []
  private(set) var wrongStores = 0
  private(set) var failure: BlobFetchFailure?
  private(set) var given: [DeviceID: Int] = [:]
  private(set) var askedAfterDrop: [DeviceID: Int] = [:]
  private(set) var mostAsked = 0
  var seconds: Double { Double(now) * 1e-9 }

  /// Some sources of random kinds, one of them good; or these.
  init(seed: UInt64, chunks: Int, kinds list: [Kind]? = nil) {
    generator = SeededGenerator(seed: seed)
    // Two bytes are enough to be told apart; their length is that of a chunk, so they are the last of many.
    content = (0..<chunks).map { [UInt8](repeating: UInt8($0), count: BlobLimits.chunk) }
    manifest = BlobManifest(
      byteCount: chunks * BlobLimits.chunk, digests: content.map { ContentDigest(of: $0) })
    var chosen = list ?? [.good]
    if list == nil {
      for _ in 0..<Int(generator.uniform(below: 5)) {
        chosen.append(Kind.allCases[Int(generator.uniform(below: Kind.allCases.count))])
      }
    }
    devices = chosen.indices.map { DeviceID(bytes: Array(repeating: UInt8($0 + 1), count: 16))! }
    for (device, kind) in zip(devices, chosen) { kinds[device] = kind }
    rates = chosen.map { _ in 1e6 * Double(1 + generator.uniform(below: 100)) }
  }

  private mutating func post(_ event: Event, after nanoseconds: Int64) {
    queue.append((now + nanoseconds, number, event))
    number += 1
  }

  mutating func run() throws {
    var fetch = BlobFetch(
      manifest.id, by: FetchLab.reader, part: part, sources: devices, at: MonotonicInstant(nanoseconds: now))
    perform(fetch.handle(.start, at: MonotonicInstant(nanoseconds: now)))
    var steps = 0
    while !fetch.isOver {
      steps += 1
      try #require(steps < 100_000, "it goes on for ever")
      let next = queue.indices.min { (queue[$0].at, queue[$0].number) < (queue[$1].at, queue[$1].number) }
      let deadline = fetch.nextDeadline?.nanoseconds
      if let next, queue[next].at <= deadline ?? .max {
        let (at, _, event) = queue.remove(at: next)
        now = max(now, at)
        for input in inputs(of: event) {
          perform(fetch.handle(input, at: MonotonicInstant(nanoseconds: now)))
        }
      } else {
        now = max(now, try #require(deadline, "nothing is due and it is not over"))
        perform(fetch.handle(.tick, at: MonotonicInstant(nanoseconds: now)))
      }
    }
  }

  private mutating func inputs(of event: Event) -> [BlobFetch.Input] {
    switch event {
    case .opened(let device): return [.opened(device)]
    case .gone(let device): return [.gone(device)]
    case .refused(let device, let chunk):
      if let chunk { asked[device]?.remove(chunk) }
      return [.refused(device, chunk: chunk)]
    case .offer(let device):
      var held = BlobChunks(all: content.count)
      if let nobodyHas { held.remove(nobodyHas) }
      if kinds[device] == .partial {
        for chunk in 0..<content.count where chunk % 3 == 0 { held.remove(chunk) }
      }
      return [.offer(device, manifest: manifest.encoded, bits: held.bits)]
    case .chunk(let device, let chunk):
      asked[device]?.remove(chunk)
      guard !dropped.contains(device) else { return [] }
      var bytes = content[chunk]
      if kinds[device] == .corrupt, generator.uniform(below: 4) == 0 { bytes[5] ^= 1 }
      given[device, default: 0] += 1
      return [.progress(device, byteCount: bytes.count), .chunk(device, chunk, bytes)]
    }
  }

  private mutating func perform(_ effects: [BlobFetch.Effect]) {
    for effect in effects {
      switch effect {
      case .dial(let device):
        let fails = kinds[device] == .vanishing && generator.uniform(below: 2) == 0
        post(fails ? .gone(device) : .opened(device), after: 3_000_000)
      case .askOffer(let device):
        switch kinds[device] {
        case .refusing: post(.refused(device, nil), after: 2_000_000)
        case .mute: break
        default: post(.offer(device), after: 2_000_000)
        }
      case .ask(let device, let chunks):
        if dropped.contains(device) { askedAfterDrop[device, default: 0] += 1 }
        for chunk in chunks { ask(chunk, of: device) }
      case .begin(let begun, _): if begun != manifest { wrongStores += 1 }
      case .store(let chunk, let hashed):
        if hashed.bytes != content[chunk] || stored.contains(chunk) { wrongStores += 1 }
        stored.append(chunk)
      case .drop(let device, _): dropped.insert(device)
      case .finished: break
      case .failed(let why): failure = why
      }
    }
  }

  private mutating func ask(_ chunk: Int, of device: DeviceID) {
    asked[device, default: []].insert(chunk)
    mostAsked = max(mostAsked, asked[device]?.count ?? 0)
    guard let index = devices.firstIndex(of: device) else { return }
    if kinds[device] == .vanishing, generator.uniform(below: 5) == 0 {
      asked[device] = []
      queue.removeAll { if case .chunk(device, _) = $0.event { true } else { false } }
      return post(.gone(device), after: 1_000_000)
    }
    // Chunks come one after the other at the source's rate.
    let begin = max(now, freeAt[device] ?? 0)
    let end = begin + Int64(Double(BlobLimits.chunk) / rates[index] * 1e9)
    freeAt[device] = end
    post(.chunk(device, chunk), after: end - now + 1_000_000)
  }
}
