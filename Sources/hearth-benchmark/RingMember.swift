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
  func round(_ number: UInt64, _ sums: RingSums) throws -> RingRound {
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
}

/// A vector of integer sums of one member.
///
/// - Safety: one thread at a time uses it.
final class RingSums: @unchecked Sendable {
  /// Bytes of a message, as training has them.
  static let pieceBytes = 256 << 10

  private let element: RingElement
  private let bytes: UnsafeMutableRawBufferPointer

  init(_ element: RingElement, mebibytes: Int) {
    self.element = element
    bytes = .allocate(byteCount: mebibytes << 20, alignment: 64)
    bytes.initializeMemory(as: UInt8.self, repeating: 0)
  }

  deinit { bytes.deallocate() }

  /// Writes what member `place` has to add.
  func fill(place: Int) {
    switch element {
    case .int32: fillPattern(bytes.bindMemory(to: Int32.self), members: 1, places: place)
    case .int64: fillPattern(bytes.bindMemory(to: Int64.self), members: 1, places: place)
    }
  }

  /// Whether every element is the sum of what `members` members have written.
  func isSum(members: Int) -> Bool {
    let places = members * (members - 1) / 2
    switch element {
    case .int32: return isPattern(bytes.bindMemory(to: Int32.self), members: members, places: places)
    case .int64: return isPattern(bytes.bindMemory(to: Int64.self), members: members, places: places)
    }
  }

  /// Makes the vector the sum of all members' vectors.
  func reduce(over channel: MeshJobChannel, members: Int, round: UInt64) throws {
    let size = element.byteCount
    var ring = RingReduction(
      place: channel.place, chunks: RingChunks(count: bytes.count / size, members: members),
      piece: Self.pieceBytes / size)
    try perform(ring.start(), [], ring, channel, round)
    while let piece = ring.awaited {
      let message = try channel.receive(tag(piece, round), from: ring.predecessor)
      let effects = try ring.received(piece, elements: message.count / size)
      try perform(effects, message, ring, channel, round)
    }
  }

  private func perform(
    _ effects: [RingEffect], _ message: [UInt8], _ ring: RingReduction, _ channel: MeshJobChannel,
    _ round: UInt64
  ) throws {
    for effect in effects {
      switch effect {
      case .send(let piece, let range):
        try channel.send([UInt8](part(range)), tag(piece, round), to: ring.successor)
      case .add(let range):
        message.withUnsafeBytes { terms in
          switch element {
          case .int32: addTerms(terms, to: part(range).bindMemory(to: Int32.self))
          case .int64: addTerms(terms, to: part(range).bindMemory(to: Int64.self))
          }
        }
      case .store(let range): message.withUnsafeBytes { part(range).copyMemory(from: $0) }
      case .finished: break
      }
    }
  }

  private func part(_ range: Range<Int>) -> UnsafeMutableRawBufferPointer {
    let size = element.byteCount
    return UnsafeMutableRawBufferPointer(rebasing: bytes[range.lowerBound * size..<range.upperBound * size])
  }

  private func tag(_ piece: RingPiece, _ round: UInt64) -> JobTag {
    JobTag(piece.phase == .reduceScatter ? .reduceScatter : .allGather, step: round, part: piece.part)
  }
}

// Called with a known type, so that the compiler makes loops of vector instructions of them.

/// Element `i` is the sum of `members` numbers spread by `i`, and of `i` times the sum of their `places`.
private func pattern<Element: FixedWidthInteger>(_ index: Int, _ members: Int, _ places: Int) -> Element {
  let spread = UInt64(truncatingIfNeeded: index) &* 0x9E37_79B9_7F4A_7C15
  return Element(truncatingIfNeeded: spread &* UInt64(members) &+ UInt64(index &* places))
}

private func fillPattern<Element: FixedWidthInteger>(
  _ vector: UnsafeMutableBufferPointer<Element>, members: Int, places: Int
) {
  for index in 0..<vector.count { vector[index] = pattern(index, members, places) }
}

private func isPattern<Element: FixedWidthInteger>(
  _ vector: UnsafeMutableBufferPointer<Element>, members: Int, places: Int
) -> Bool {
  for index in 0..<vector.count where vector[index] != pattern(index, members, places) { return false }
  return true
}

private func addTerms<Element: FixedWidthInteger>(
  _ terms: UnsafeRawBufferPointer, to vector: UnsafeMutableBufferPointer<Element>
) {
  let terms = terms.bindMemory(to: Element.self)
  precondition(terms.count == vector.count, "\(terms.count) terms for \(vector.count) sums")
  for index in 0..<vector.count { vector[index] &+= terms[index] }
}
