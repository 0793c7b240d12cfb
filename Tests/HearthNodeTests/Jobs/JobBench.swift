import CryptoPrimitives
import FineTuning
import Foundation
import HearthNode
import HearthStorage
import HouseholdTrust
import LanguageModels
import Logging
import MeshModel
import MeshPeer
import MeshProtocol
import MeshTransport
import ParallelPlanner
import Synchronization
import TrainingCoordination

private let fixtures = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
  .deletingLastPathComponent().deletingLastPathComponent().appendingPathComponent("Fixtures").path

/// A household of job services in one process: sessions are memory, gossip is the bench's word, all else is the daemon's.
final class JobBench: Sendable {
  let devices: [JobDevice]
  let root: String

  /// A household of which nobody is up.
  init(devices count: Int) throws {
    let root = NSTemporaryDirectory() + "hearth-bench-\(UUID().uuidString)"
    self.root = root
    try FileManager.default.createDirectory(atPath: root, withIntermediateDirectories: true)
    var entropy = SeededEntropy(seed: 11)
    var admin = try Household(
      creating: RecoveryPhrase(entropy: &entropy), keys: DeviceKeys(entropy: &entropy), name: "device 0",
      entropy: &entropy)
    var keys: [DeviceKeys] = []
    for index in 1..<max(2, count) {
      keys.append(DeviceKeys(entropy: &entropy))
      let request = try AdmissionRequest(keys: keys[index - 1], name: "device \(index)", binding: [7])
      _ = try admin.admit(request, binding: [7], entropy: &entropy)
    }
    let households = [admin] + (try keys.map { try Household(log: admin.log, keys: $0) })
    let network = InProcessNetwork()
    devices = try households.prefix(count).enumerated().map { index, household in
      try JobDevice(
        household, network: network,
        address: NetworkAddress(.v4(0x7F00_0001), port: UInt16(1000 + index)),
        state: "\(root)/device-\(index)")
    }
    let known = devices
    for device in known { device.meet(known, admin: admin.device) }
  }

  deinit {
    // A directory in /tmp that cannot be removed harms no test.
    try? FileManager.default.removeItem(atPath: root)
  }

  /// Starts devices; everybody who is up hears of it.
  func start(_ numbers: [Int]) async throws {
    for number in numbers { try await devices[number].start(seed: UInt64(number)) }
    tell()
  }

  /// Ends a device as kill -9 does: not a word, not a write from then on.
  ///
  /// The others hear of it when gossip would tell.
  func kill(_ numbers: [Int]) async {
    for number in numbers { await devices[number].die() }
    tell()
  }

  /// Stops a device's daemon in order.
  func stop(_ number: Int) async {
    await devices[number].leave()
    tell()
  }

  /// Ends all.
  func shutdown() async { await kill(Array(devices.indices)) }

  private func tell() { for device in devices { device.hear() } }

  /// What a person would have trained alone: rows, model and settings.
  func request(_ model: String, epochs: Int, technique: RunTechnique, output: String) throws -> TrainRequest {
    let words = ["good", "bad", "film", "plot", "the", "a", "great", "poor", "story", "cast"]
    let lines = (0..<48).map { index -> String in
      let text = (0..<3 + index % 9).map { words[(index * 7 + $0 * $0 * 3) % words.count] }
      return text.joined(separator: " ") + " \(index)\t" + (index % 2 == 0 ? "yes" : "no")
    }
    let file = root + "/rows.tsv"
    try lines.joined(separator: "\n").write(toFile: file, atomically: true, encoding: .utf8)
    var request = TrainRequest(
      modelDirectory: fixtures + "/" + model, dataFile: file, task: .classify, output: "\(root)/\(output)")
    (request.data.header, request.data.textColumn, request.data.labelColumn) = (false, "1", "2")
    (request.epochs, request.batch, request.microBatch, request.maxLength) = (epochs, 8, 1, 24)
    (request.technique, request.reduction, request.threads) = (technique, technique == .houlsby ? 4 : 2, 1)
    request.rank = technique == .lora ? 4 : nil
    return request
  }

  /// The digest of the adapter that one device makes by itself.
  func digestAlone(_ request: TrainRequest) throws -> String {
    var request = request
    request.output += "-alone"
    return try train(request, cancellation: CancellationFlag()) { _ in }.adapterDigest
  }

  /// Submits a training on a device as its `hearth train` does.
  func submit(_ request: TrainRequest, on number: Int, planner: PlannerKindName = .eddl) async throws -> JobID
  {
    let model = try OpenedModel(directory: request.modelDirectory)
    let content = try RunContent(request, model: model)
    guard let backbone = model.backbone else { throw CancellationError() }
    let run = try PreparedRun(request, content: content, backbone: backbone)
    let configuration = try String(contentsOfFile: request.modelDirectory + "/config.json", encoding: .utf8)
    let settings = try JobPlanningSettings(
      run: run, modelName: "tiny", configurationText: configuration, planner: planner.kind)
    let package = JobPackage(
      run, content: content, model: model, name: "bench", planning: try settings.encoded())
    try RunDirectory(request.output).create(request)
    let path = request.output + "/job.package"
    try package.write(to: path)
    try measure(settings)
    let service = try devices[number].service()
    return try await service.submit(
      JobSubmission(
        packagePath: path, modelDirectory: request.modelDirectory, outputDirectory: request.output,
        name: "bench", planner: planner.rawValue, firstEpoch: "auto"))
  }

  /// All devices have the same processor: it is measured once.
  private func measure(_ settings: JobPlanningSettings) throws {
    let first = devices[0].state
    _ = try JobPlanning.report(
      settings, name: "bench", limits: JobDevice.limits, stateDirectory: first)
    for device in devices.dropFirst() {
      try? FileManager.default.removeItem(atPath: device.state + "/profiles")
      try FileManager.default.copyItem(atPath: first + "/profiles", toPath: device.state + "/profiles")
    }
  }
}

/// Which planner a bench job asks for.
enum PlannerKindName: String, Sendable {
  case pac, eddl, ecofl

  var kind: PlannerKind { PlannerKind(rawValue: rawValue) ?? .pac }
}

/// One device of a bench, over all its starts.
final class JobDevice: Sendable {
  /// What one start of the daemon has.
  private struct Life: Sendable {
    let transport: InProcessTransport
    let desk: BulkDesk
    let service: JobService
    let isDead: DeathMark
  }

  static let limits = DeviceLimits(threads: 1, memoryBytes: 1 << 30)

  let id: DeviceID
  let state: String
  private let household: Household
  private let network: InProcessNetwork
  private let address: NetworkAddress
  private let life = Mutex<Life?>(nil)
  private let starts = Mutex<UInt32>(0)
  private let others = Mutex<(devices: [JobDevice], admin: DeviceID?)>(([], nil))
  /// Whether the disk takes no state of a training.
  let isDiskFull = Mutex(false)
  /// Why the device is paused when it starts.
  let pause = Mutex<String?>(nil)
  /// How often the device has written what was told of a job.
  let histories = Mutex(0)
  /// How often the device has measured its links.
  let surveys = Mutex(0)

  init(_ household: Household, network: InProcessNetwork, address: NetworkAddress, state: String) throws {
    self.household = household
    self.network = network
    self.address = address
    self.state = state
    id = household.device
    try FileManager.default.createDirectory(atPath: state, withIntermediateDirectories: true)
  }

  func meet(_ devices: [JobDevice], admin: DeviceID) { others.withLock { $0 = (devices, admin) } }

  var isUp: Bool { life.withLock { $0 != nil } }

  func service() throws -> JobService {
    guard let service = life.withLock({ $0?.service }) else { throw CancellationError() }
    return service
  }

  func start(seed: UInt64) async throws {
    let boot = starts.withLock {
      $0 += 1
      return $0
    }
    let transport = network.join(
      at: address, trust: household.snapshot, boot: BootID(counter: UInt32(clamping: boot), nonce: 1),
      entropy: SeededEntropy(seed: 100 + seed))
    let store = try BlobStore(stateDirectory: state, budget: 1 << 30)
    let (known, id) = (others.withLock { $0.devices }, id)
    let mark = DeathMark()
    let desk = BulkDesk(own: id, transport: transport, store: store) { device in
      guard let address = known.first(where: { $0.id == device })?.address else { return }
      transport.perform([.dial(address, .bulk, expecting: device)])
    }
    transport.receiveBulk(at: desk)
    Task {
      for await event in transport.events {
        switch event {
        case .opened(let session, let info) where info.isInitiator: desk.dialled(session, info.peer)
        case .dialFailed(let address, _, _):
          if let device = known.first(where: { $0.address == address }) { desk.dialFailed(device.id) }
        default: break
        }
      }
    }
    let doors = JobService.Doors(
      keys: household.keys, stateDirectory: state, desk: desk, blobs: store, limits: Self.limits,
      pause: pause.withLock { $0 },
      writeFile: { [self] (bytes, path) throws(FileFailure) in
        if mark.isSet || isDiskFull.withLock({ $0 }) {
          throw .system(operation: "write", path: path, code: ENOSPC)
        }
        if path.hasSuffix("/history") { histories.withLock { $0 += 1 } }
        try CheckpointFiles.writePrivately(bytes, path)
      },
      send: { device, body in
        if mark.isSet { return }
        known.first { $0.id == device }?.take(body, from: id)
      },
      measureLinks: { [self] in
        surveys.withLock { $0 += 1 }
        return known.filter { $0.id != id && $0.isUp }.map { device in
          var link = LinkMeasurement(device.id)
          link.roundTrip = .milliseconds(1)
          link.bytesPerSecond = 100e6
          return link
        }
      })
    var log = Logger(label: "bench")
    log.logLevel = ProcessInfo.processInfo.environment["HEARTH_BENCH_LOG"] == nil ? .critical : .debug
    let service = try await JobService.start(doors, household: view(joining: true), seed: seed + 1, log: log)
    life.withLock { $0 = Life(transport: transport, desk: desk, service: service, isDead: mark) }
  }

  /// Ends without a word, as a process that is killed.
  func die() async {
    guard let ended = life.withLock({ $0.take() }) else { return }
    ended.isDead.set()
    await ended.transport.shutdown()
    _ = await ended.service.stop()
    ended.desk.shutdown()
  }

  /// Ends as a daemon that is told to stop.
  func leave() async {
    guard let ended = life.withLock({ $0 }) else { return }
    await ended.service.leave("its daemon was stopped")
    for message in await ended.service.stop() {
      others.withLock { $0.devices }.first { $0.id == message.device }?.take(message.body, from: id)
    }
    life.withLock { $0 = nil }
    ended.isDead.set()
    ended.desk.shutdown()
    await ended.transport.shutdown()
  }

  func hear() {
    guard let service = life.withLock({ $0?.service }) else { return }
    service.update(view(joining: false))
  }

  private func take(_ body: [UInt8], from device: DeviceID) {
    life.withLock { $0?.service }?.receive(body, from: device)
  }

  private func view(joining: Bool) -> JobHousehold {
    let (devices, admin) = others.withLock { $0 }
    let alive = Set(devices.filter { $0.isUp || joining && $0.id == id }.map(\.id))
    return JobHousehold(
      membership: JobMembership(
        alive: alive, reachable: alive, leader: devices.map(\.id).first { alive.contains($0) },
        keys: Dictionary(
          uniqueKeysWithValues: household.log.view.members.map { ($0.device, $0.signingKey) }),
        admins: Set([admin].compactMap(\.self))),
      names: Dictionary(uniqueKeysWithValues: household.log.view.members.map { ($0.device, $0.name) }))
  }
}

/// Set when a start of a device is over.
final class DeathMark: Sendable {
  private let state = Mutex(false)
  var isSet: Bool { state.withLock { $0 } }
  func set() { state.withLock { $0 = true } }
}
