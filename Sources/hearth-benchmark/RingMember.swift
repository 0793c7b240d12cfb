import ArgumentParser
import Collectives
import DistributedTraining
import FoundationEssentials
import Glibc
import HearthNode
import HearthStorage
import HouseholdTrust
import MeshModel
import MeshProtocol
import MeshTransport
import Synchronization
import TrainingCoordination

/// One member of a measured ring: a device of a household whose keys are public, with its endpoint and its job's channel.
final class RingMember: Sendable {
  /// Where the others dial it.
  let address: NetworkAddress
  private let place: Int
  private let roster: [DeviceID]
  private let transport: NetworkTransport
  private let desk: BulkDesk
  private let addresses: Addresses
  /// An empty store of blobs, which a desk wants.
  private let directory: String
  private let channel = Mutex<MeshJobChannel?>(nil)

  /// Addresses of all members, which are known once all have started.
  private final class Addresses: Sendable {
    let byDevice = Mutex<[DeviceID: NetworkAddress]>([:])

    func device(at address: NetworkAddress) -> DeviceID? {
      byDevice.withLock { all in all.keys.first { all[$0] == address } }
    }
  }

  private init(
    _ place: Int, _ roster: [DeviceID], _ transport: NetworkTransport, at host: NetworkAddress.Host,
    directory: String
  ) throws {
    let addresses = Addresses()
    self.directory = directory
    self.place = place
    self.roster = roster
    self.transport = transport
    self.addresses = addresses
    address = NetworkAddress(host, port: transport.localPort)
    let store = try BlobStore(stateDirectory: directory, budget: 1 << 20)
    desk = BulkDesk(own: roster[place], transport: transport, store: store) { device in
      guard let address = addresses.byDevice.withLock({ $0[device] }) else { return }
      transport.perform([.dial(address, .bulk, expecting: device)])
    }
    transport.receiveBulk(at: desk)
  }

  /// Starts an endpoint; all members of a ring have the same seed.
  static func start(
    _ place: Int, of members: Int, seed: UInt64, host: NetworkAddress.Host
  ) async throws -> RingMember {
    let households = try benchmarkHousehold(seed: seed, devices: members)
    var configuration = TransportConfiguration(boot: BootID(counter: 1, nonce: UInt32(place)))
    configuration.hosts = [host]
    let transport = try await NetworkTransport.start(configuration, trust: households[place].snapshot)
    return try RingMember(
      place, households.map(\.device), transport, at: host, directory: makeTemporaryDirectory())
  }

  /// Begins to exchange with the members at these addresses, by place.
  func open(_ addresses: [NetworkAddress]) {
    self.addresses.byDevice.withLock { known in
      for (device, address) in zip(roster, addresses) { known[device] = address }
    }
    Task { [transport, desk, addresses = self.addresses] in
      for await event in transport.events {
        switch event {
        case .opened(let session, let info) where info.isInitiator: desk.dialled(session, info.peer)
        case .dialFailed(let address, _, _):
          if let device = addresses.device(at: address) { desk.dialFailed(device) }
        default: continue
        }
      }
    }
    let stamp = JobStamp(job: JobID(0, 1), term: 0, epoch: 1)
    channel.withLock { $0 = desk.openChannel(stamp, roster: roster) }
  }

  func shutdown() async {
    desk.shutdown()
    await transport.shutdown()
    try? FileManager.default.removeItem(atPath: directory)
  }

  /// Fills the vector, waits for all members, and reduces; blocks.
  ///
  /// Processor seconds are counted until all members have finished, so that none of what still had to be sent is missing.
  func round(_ number: UInt64, _ sums: any RingSums) throws -> RingRound {
    guard let channel = channel.withLock({ $0 }) else { preconditionFailure("a round before open()") }
    sums.fill(place: place)
    try meet(channel, 2 * number)
    let cpu = processCPUSeconds()
    let clock = ContinuousClock()
    let start = clock.now
    try sums.reduce(over: channel, members: roster.count, round: number)
    let elapsed = (clock.now - start).components
    try meet(channel, 2 * number + 1)
    return RingRound(
      seconds: Double(elapsed.seconds) + Double(elapsed.attoseconds) / 1e18,
      cpuSeconds: processCPUSeconds() - cpu, isRight: sums.isSum(members: roster.count))
  }

  /// Blocks until all members have come here.
  private func meet(_ channel: MeshJobChannel, _ number: UInt64) throws {
    let tag = JobTag(.share, step: number)
    let others = roster.indices.filter { $0 != place }
    for other in others { try channel.send([], tag, to: other) }
    for other in others { _ = try channel.receive(tag, from: other) }
  }
}

private func makeTemporaryDirectory() throws -> String {
  var template = Array("/tmp/hearth-ring-XXXXXX".utf8CString)
  guard mkdtemp(&template) != nil else {
    throw ValidationError("no directory could be made in /tmp: errno \(errno)")
  }
  return String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
}

/// One reduction, as a member saw it.
struct RingRound: Sendable {
  var seconds: Double
  /// Of the member's whole process.
  var cpuSeconds: Double
  /// Whether the vector held the sums afterwards.
  var isRight: Bool
}

/// The integers that a ring adds up.
enum RingElement: String, ExpressibleByArgument, Encodable, CaseIterable {
  case int32, int64

  var byteCount: Int { self == .int32 ? 4 : 8 }

  func makeSums(mebibytes: Int) -> any RingSums {
    let count = (mebibytes << 20) / byteCount
    switch self {
    case .int32: return IntegerSums<Int32>(count: count)
    case .int64: return IntegerSums<Int64>(count: count)
    }
  }
}

/// A vector of integer sums of one member.
protocol RingSums: AnyObject, Sendable {
  /// Writes what member `place` has to add.
  func fill(place: Int)
  /// Makes the vector the sum of all members' vectors.
  func reduce(over channel: MeshJobChannel, members: Int, round: UInt64) throws
  /// Whether every element is the sum of what `members` members have written.
  func isSum(members: Int) -> Bool
}

/// - Safety: one thread at a time uses it.
private final class IntegerSums<Element: FixedWidthInteger & Sendable>: RingSums, @unchecked Sendable {
  private let vector: UnsafeMutableBufferPointer<Element>

  init(count: Int) {
    vector = .allocate(capacity: count)
    vector.initialize(repeating: 0)
  }

  deinit { vector.deallocate() }

  func fill(place: Int) {
    for index in vector.indices { vector[index] = Self.spread(index) &+ Self.value(index, times: place) }
  }

  func isSum(members: Int) -> Bool {
    vector.indices.allSatisfy { index in
      vector[index] == Element(truncatingIfNeeded: members) &* Self.spread(index)
        &+ Self.value(index, times: members * (members - 1) / 2)
    }
  }

  private static func spread(_ index: Int) -> Element {
    Element(truncatingIfNeeded: UInt64(index) &* 0x9E37_79B9_7F4A_7C15)
  }

  private static func value(_ index: Int, times factor: Int) -> Element {
    Element(truncatingIfNeeded: index &* factor)
  }

  func reduce(over channel: MeshJobChannel, members: Int, round: UInt64) throws {
    let chunks = RingChunks(count: vector.count, members: members)
    var ring = RingReduction(
      place: channel.place, chunks: chunks, piece: ringPieceBytes / MemoryLayout<Element>.stride)
    func perform(_ effects: [RingEffect], _ message: [UInt8]) throws {
      for effect in effects {
        switch effect {
        case .send(let piece, let range):
          let bytes = UnsafeRawBufferPointer(UnsafeMutableBufferPointer(rebasing: vector[range]))
          try channel.send([UInt8](bytes), tag(piece, round), to: ring.successor)
        case .add(let range): add(message, to: range)
        case .store(let range):
          message.withUnsafeBytes {
            UnsafeMutableRawBufferPointer(UnsafeMutableBufferPointer(rebasing: vector[range]))
              .copyMemory(from: $0)
          }
        case .finished: break
        }
      }
    }
    try perform(ring.start(), [])
    while let piece = ring.awaited {
      let message = try channel.receive(tag(piece, round), from: ring.predecessor)
      try perform(ring.received(piece, elements: message.count / MemoryLayout<Element>.stride), message)
    }
  }

  private func tag(_ piece: RingPiece, _ round: UInt64) -> JobTag {
    JobTag(piece.phase == .reduceScatter ? .reduceScatter : .allGather, step: round, part: piece.part)
  }

  private func add(_ message: [UInt8], to range: Range<Int>) {
    message.withUnsafeBytes { bytes in
      guard let own = vector.baseAddress.map({ $0 + range.lowerBound }) else { return }
      for index in 0..<range.count {
        own[index] &+= bytes.loadUnaligned(
          fromByteOffset: index * MemoryLayout<Element>.stride, as: Element.self)
      }
    }
  }
}

/// Bytes of a message, as training has them.
let ringPieceBytes = 256 << 10
