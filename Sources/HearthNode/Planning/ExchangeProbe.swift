import ComputeRuntime
import CryptoPrimitives
import DistributedTraining
import Glibc
import HearthStorage
import HouseholdTrust
import MeshModel
import MeshProtocol
import MeshTransport
import NeuralNetworks
import Synchronization
import TrainingCoordination

/// Measures what a mebibyte of packed sums costs the processor on its way round a ring, together with one that comes in.
///
/// It runs the ring of a step: three endpoints of a household of this process' own meet on the loopback interface and add up
/// sums over encrypted bulk sessions with the code that trains. Their processor time, the event loops' and the kernel's
/// included, is divided by what they sent, and counted with what hosts of their own add to it. Three, because with two each connection carries both directions, and is cheaper.
struct ExchangeProbe {
  private static let members = 3
  /// Sums of a member: pieces of the usual size, several a member.
  fileprivate static let elements = 1 << 19
  /// Rounds that count, after one that makes buffers.
  private static let rounds = 15
  /// How many times as much a byte costs between processes on hosts of their own as between endpoints of one.
  ///
  /// In three households of the lab it was 1.26, 1.4 and 1.5 (docs/PERFORMANCE.md). Shorter reads on the loopback interface
  /// cost no more.
  private static let betweenHosts = 1.4

  let clock: WorkClock
  /// How sums are kept, which decides the bytes that they take.
  let format: GradientSumFormat
  /// Takes the endpoints' empty stores for a moment.
  let directory: String

  /// Nanoseconds, the median of some rounds.
  func measure() throws -> Int64 {
    let executor = ThreadExecutor()
    defer { executor.end() }
    let directory = directory + "/exchange"
    try createDirectory(directory, isPrivate: true)
    defer { removeEmptyStores(directory) }
    let members = try waitForTask(on: executor) {
      try await ExchangeMember.start(Self.members, directory: directory, executor: executor)
    }
    defer {
      _ = try? waitForTask(on: executor) {
        for member in members { await member.shutdown() }
      }
    }
    let sums = members.map { _ in makeSums() }
    var costs: [Double] = []
    for round in 0...Self.rounds {
      for one in sums { fill(one) }
      let before = members.reduce(0) { $0 + $1.sentBytes }
      let start = clock.now
      try run(members, sums, round: UInt64(round))
      let seconds = clock.processorSeconds(since: start)
      let bytes = members.reduce(0) { $0 + $1.sentBytes } - before
      if round > 0 { costs.append(seconds / Double(max(1, bytes))) }
    }
    return Int64(Self.betweenHosts * costs.sorted()[costs.count / 2] * 1e9 * Double(1 << 20))
  }

  /// One ring, every member on a thread of its own as in a job.
  private func run(_ members: [ExchangeMember], _ sums: [any GradientSums], round: UInt64) throws {
    let failure = Mutex<DistributedRunFailure?>(nil)
    let threads = zip(members, sums).map { member, sums in
      OperatingSystemThread(name: "exchange") {
        do throws(DistributedRunFailure) {
          try member.reduce(sums, round: round)
        } catch {
          failure.withLock { $0 = $0 ?? error }
          member.abort("\(error)")
        }
      }
    }
    for thread in threads { thread.join() }
    if let failure = failure.withLock({ $0 }) { throw failure }
  }

  private func makeSums() -> any GradientSums {
    let width = 1 << 10
    let leaf = ParameterShape("leaf", rows: Self.elements / width, columns: width, kind: .weight)
    let tree = ParameterTree(trainable: [leaf]) { _, values in values.update(repeating: 0) }
    return format.makeSums(of: tree, maximumContributions: 1 << 10)
  }

  /// Integers that take just the format's usual bytes, and still do when three of them are added.
  private func fill(_ sums: any GradientSums) {
    let bits = 8 * format.usualWireBytes - 4
    sums.withIntegers(0..<Self.elements) { bytes in
      if sums.bytesPerSum == MemoryLayout<Int64>.stride {
        let values = bytes.assumingMemoryBound(to: Int64.self)
        let mask: Int64 = (1 << bits) - 1
        for index in values.indices { values[index] = Int64(index &* 0x1E37_79B9_7F4A_7C15) & mask }
      } else {
        let values = bytes.assumingMemoryBound(to: Int32.self)
        for index in values.indices { values[index] = Int32(truncatingIfNeeded: index &* 0x9E37_79B9) >> 4 }
      }
    }
  }

  /// The stores are empty, so that only directories have to go.
  private func removeEmptyStores(_ directory: String) {
    for place in 0..<Self.members {
      rmdir("\(directory)/\(place)/\(BlobStore.name)")
      rmdir("\(directory)/\(place)")
    }
    rmdir(directory)
  }
}

/// One device of the household that is measured with.
private final class ExchangeMember: Sendable {
  private let transport: NetworkTransport
  private let desk: BulkDesk
  private let channel: MeshJobChannel
  private let ring: Mutex<RingExercise>
  private let events: Task<Void, Never>

  /// Starts all members, which dial each other.
  static func start(
    _ count: Int, directory: String, executor: ThreadExecutor
  ) async throws -> [ExchangeMember] {
    let households = try household(count)
    var transports: [NetworkTransport] = []
    do {
      for (place, household) in households.enumerated() {
        var configuration = TransportConfiguration(boot: BootID(counter: 1, nonce: UInt32(place)))
        configuration.hosts = [.v4(0x7F00_0001)]
        transports.append(try await NetworkTransport.start(configuration, trust: household.snapshot))
      }
      let roster = households.map(\.device)
      let addresses = transports.map { NetworkAddress(.v4(0x7F00_0001), port: $0.localPort) }
      // All desks before the first dial: what a session says to an endpoint without one is lost.
      let desks = try transports.enumerated().map { place, transport in
        try makeDesk(roster[place], transport, roster, addresses, directory: "\(directory)/\(place)")
      }
      return zip(transports, desks).map { transport, desk in
        ExchangeMember(transport, desk, roster, addresses, executor: executor)
      }
    } catch {
      for transport in transports { await transport.shutdown() }
      throw error
    }
  }

  /// A household that ends with the measurement.
  private static func household(_ count: Int) throws -> [Household] {
    var entropy = SystemEntropy()
    var admin = try Household(
      creating: RecoveryPhrase(entropy: &entropy), keys: DeviceKeys(entropy: &entropy), name: "device 0",
      entropy: &entropy)
    var keys: [DeviceKeys] = []
    for index in 1..<count {
      let next = DeviceKeys(entropy: &entropy)
      let request = try AdmissionRequest(keys: next, name: "device \(index)", binding: [1])
      _ = try admin.admit(request, binding: [1], entropy: &entropy)
      keys.append(next)
    }
    return [admin] + (try keys.map { try Household(log: admin.log, keys: $0) })
  }

  private static func makeDesk(
    _ own: DeviceID, _ transport: NetworkTransport, _ roster: [DeviceID], _ addresses: [NetworkAddress],
    directory: String
  ) throws -> BulkDesk {
    try createDirectory(directory, isPrivate: true)
    let desk = BulkDesk(
      own: own, transport: transport,
      store: try BlobStore(stateDirectory: directory, budget: 1 << 20)
    ) { device in
      guard let other = roster.firstIndex(of: device) else { return }
      transport.perform([.dial(addresses[other], .bulk, expecting: device)])
    }
    transport.receiveBulk(at: desk)
    return desk
  }

  private init(
    _ transport: NetworkTransport, _ desk: BulkDesk, _ roster: [DeviceID], _ addresses: [NetworkAddress],
    executor: ThreadExecutor
  ) {
    self.transport = transport
    self.desk = desk
    events = Task(executorPreference: executor) {
      for await event in transport.events {
        switch event {
        case .opened(let session, let info) where info.isInitiator: desk.dialled(session, info.peer)
        case .dialFailed(let address, _, _):
          if let other = addresses.firstIndex(of: address) { desk.dialFailed(roster[other]) }
        default: continue
        }
      }
    }
    channel = desk.openChannel(JobStamp(job: JobID(0, 1), term: 0, epoch: 1), roster: roster)
    ring = Mutex(
      RingExercise(over: channel, members: roster.count, count: ExchangeProbe.elements))
  }

  var sentBytes: UInt64 { ring.withLock { $0.sentBytes } }

  func reduce(_ sums: any GradientSums, round: UInt64) throws(DistributedRunFailure) {
    try ring.withLock { (ring) throws(DistributedRunFailure) in try ring.reduce(sums, round: round) }
  }

  func abort(_ reason: String) { channel.abort(reason) }

  func shutdown() async {
    channel.close()
    desk.shutdown()
    await transport.shutdown()
    await events.value
  }
}

/// Runs tasks on one thread of its own, so that whoever waits for them may be on any other.
private final class ThreadExecutor: TaskExecutor {
  private let jobs = BlockingQueue<UnownedJob>(limit: .max)
  private let thread = Mutex<OperatingSystemThread?>(nil)

  init() {
    let started = OperatingSystemThread(name: "probe") { [self] in
      while let job = jobs.pop() { job.runSynchronously(on: asUnownedTaskExecutor()) }
    }
    thread.withLock { $0 = started }
  }

  func enqueue(_ job: consuming ExecutorJob) { _ = jobs.push(UnownedJob(job)) }

  /// Ends the thread; all tasks must have ended.
  func end() {
    jobs.end()
    thread.withLock { thread in
      defer { thread = nil }
      return thread
    }?.join()
  }
}
