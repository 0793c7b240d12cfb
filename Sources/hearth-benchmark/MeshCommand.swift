import ArgumentParser
import ComputeRuntime
import CryptoPrimitives
import FoundationEssentials
import Glibc
import HearthNode
import HouseholdTrust
import MeshModel
import MeshProtocol
import MeshTransport
import SecureChannel
import Synchronization

/// `hearth-benchmark mesh`: what the mesh's transport can do between two processes on loopback.
struct MeshCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "mesh",
    abstract: "Measure the mesh's sessions between two processes on loopback.",
    subcommands: [MeshStreamCommand.self, MeshHandshakeCommand.self, MeshWorkerCommand.self])
}

/// Encrypted bulk frames from this process to another one, in turn with the same bytes over bare TCP.
struct MeshStreamCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "stream", abstract: "Bytes a second of an encrypted bulk session, and of bare TCP.")

  @Option(help: "Bytes of each measurement, in MiB.")
  var mebibytes = 1024

  @Option(help: "Measurements of each kind, in turn; the medians count.")
  var rounds = 3

  @Flag(help: "Write one line of JSON.")
  var json = false

  func validate() throws {
    guard (1...65_536).contains(mebibytes), (1...100).contains(rounds) else {
      throw ValidationError("--mebibytes is 1 to 65536 and --rounds 1 to 100")
    }
  }

  func run() throws {
    // On the main thread: the pool's threads block the signal that ends openssl's measurement.
    let openssl = opensslSpeed()
    let answer = try waitForTask { [self] in try await measure(openssl) }
    if json { return try write(answer) }
    print(
      "encrypted session   \(answer.encrypted.text) MB/s, CPU s/GB: "
        + "\(answer.senderCPU.text) sending, \(answer.receiverCPU.text) receiving")
    print(
      "bare TCP            \(answer.plain.text) MB/s, CPU s/GB: "
        + "\(answer.plainSenderCPU.text) sending, \(answer.plainReceiverCPU.text) receiving")
    print("encrypted / bare    \(answer.ratio.text)")
    print("cipher, one core    \(answer.cipher.seal.text) MB/s sealing, \(answer.cipher.open.text) opening")
    print("openssl speed       \(answer.openssl.map(\.text) ?? "not here") MB/s, chacha20-poly1305, sealing")
  }

  private func measure(_ openssl: Sample?) async throws -> StreamAnswer {
    let worker = try MeshWorker(seed: 1)
    let peer = try await BenchmarkPeer.start(0, of: 1)
    var encrypted: [Double] = []
    var plain: [Double] = []
    var cpu: [Double] = []
    var plainCPU: [Double] = []
    let session = try await peer.dial(worker.port, .bulk)
    let count = max(1, (mebibytes << 20) / MeshFrame.bodyByteCount)
    let bytes = Double(count * MeshFrame.bodyByteCount)
    // Once without counting: pages, windows, caches.
    _ = try await peer.stream(frames: min(count, 2000), over: session)
    let childBefore = try worker.cpuSeconds()
    for _ in 0..<rounds {
      let before = processCPUSeconds()
      encrypted.append(bytes / 1e6 / (try await peer.stream(frames: count, over: session)))
      cpu.append((processCPUSeconds() - before) / (bytes / 1e9))
      let between = processCPUSeconds()
      plain.append(bytes / 1e6 / (try worker.plainStream(pieces: count)))
      plainCPU.append((processCPUSeconds() - between) / (bytes / 1e9))
    }
    let plainChild = try worker.plainCPUSeconds()
    let childCPU = try worker.cpuSeconds() - childBefore - plainChild
    await peer.transport.shutdown()
    worker.stop()
    return StreamAnswer(
      mebibytes: mebibytes, recordBytes: RecordLimits.recordByteCount, rounds: rounds,
      encrypted: Sample(encrypted), plain: Sample(plain),
      ratio: Sample(zip(encrypted, plain).map { $0 / $1 }), senderCPU: Sample(cpu),
      receiverCPU: Sample([childCPU / Double(rounds) / (bytes / 1e9)]), plainSenderCPU: Sample(plainCPU),
      plainReceiverCPU: Sample([plainChild / Double(rounds) / (bytes / 1e9)]), cipher: measureCipher(),
      openssl: openssl)
  }
}

/// Control sessions to another process, one after the other.
struct MeshHandshakeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "handshake", abstract: "Latency and CPU of a handshake.")

  @Option(help: "Sessions that are opened.")
  var sessions = 500

  @Flag(help: "Write one line of JSON.")
  var json = false

  func validate() throws {
    guard (1...100_000).contains(sessions) else { throw ValidationError("--sessions is 1 to 100000") }
  }

  func run() throws {
    let answer = try waitForTask { [self] in try await measure() }
    if json { return try write(answer) }
    print(
      "latency             \(answer.latency.text) ms from the connection to the proof, p95 \(rounded(answer.latencyP95))"
    )
    print(
      "CPU, whole process  \(rounded(answer.dialling)) ms dialling, \(rounded(answer.accepting)) ms accepting"
    )
    print(
      "CPU, handshake only \(answer.pureDialling.text) ms dialling, \(answer.pureAccepting.text) ms accepting"
    )
  }

  private func measure() async throws -> HandshakeAnswer {
    let worker = try MeshWorker(seed: 1)
    let peer = try await BenchmarkPeer.start(0, of: 1)
    for _ in 0..<20 { _ = try await peer.openAndClose(worker.port) }
    let before = processCPUSeconds()
    let childBefore = try worker.cpuSeconds()
    var latencies: [Double] = []
    for _ in 0..<sessions { latencies.append(try await peer.openAndClose(worker.port) * 1e3) }
    let own = (processCPUSeconds() - before) / Double(sessions) * 1e3
    let other = (try worker.cpuSeconds() - childBefore) / Double(sessions) * 1e3
    await peer.transport.shutdown()
    worker.stop()
    let pure = try pureHandshakes(count: min(sessions, 500))
    latencies.sort()
    return HandshakeAnswer(
      sessions: sessions, latency: Sample(latencies),
      latencyP95: latencies[min(latencies.count - 1, latencies.count * 95 / 100)], dialling: own,
      accepting: other, pureDialling: Sample(pure.map(\.dialling)),
      pureAccepting: Sample(pure.map(\.accepting)))
  }
}

/// The other process: accepts sessions, counts what comes, and answers on standard output.
struct MeshWorkerCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "worker", abstract: "The accepting side; started by the other commands.",
    shouldDisplay: false)

  @Option(help: "TEST-ONLY seed of the household's keys.")
  var seed: UInt64

  func run() throws {
    let peer = try waitForTask { [self] in try await BenchmarkPeer.start(1, of: seed) }
    let listener = try PlainListener()
    let plainCPU = Mutex(0.0)
    OperatingSystemThread.detached(name: "plain-tcp") {
      while let seconds = listener.serve() { plainCPU.withLock { $0 += seconds } }
    }
    Task { await peer.answerBulk() }
    say("\(peer.transport.localPort) \(listener.port)")
    while let line = readLine() {
      switch line {
      case "cpu": say("\(processCPUSeconds())")
      case "plain": say("\(plainCPU.withLock { $0 })")
      default: return
      }
    }
  }

  private func say(_ line: String) {
    print(line)
    fflush(nil)
  }
}

// MARK: Two devices

/// One device of a two-device household whose keys are public, at an endpoint on loopback.
private final class BenchmarkPeer: Sendable {
  let transport: NetworkTransport
  private let other: DeviceID

  private init(_ transport: NetworkTransport, other: DeviceID) {
    self.transport = transport
    self.other = other
  }

  static func start(_ index: Int, of seed: UInt64) async throws -> BenchmarkPeer {
    let households = try benchmarkHousehold(seed: seed)
    var configuration = TransportConfiguration(boot: BootID(counter: 1, nonce: UInt32(index)))
    configuration.hosts = [.v4(0x7F00_0001)]
    configuration.limits.connectionBurst = 1_000
    configuration.limits.connectionsPerSecond = 100_000
    return BenchmarkPeer(
      try await NetworkTransport.start(configuration, trust: households[index].snapshot),
      other: households[1 - index].device)
  }

  func dial(_ port: UInt16, _ purpose: SessionPurpose) async throws -> SessionID {
    transport.perform([.dial(NetworkAddress(.v4(0x7F00_0001), port: port), purpose, expecting: other)])
    for await event in transport.events {
      switch event {
      case .opened(let session, _): return session
      case .dialFailed(_, _, let failure): throw ValidationError("dialling failed: \(failure)")
      default: continue
      }
    }
    throw ValidationError("the transport has shut down")
  }

  /// Opens a control session and closes it; its handshake's seconds.
  func openAndClose(_ port: UInt16) async throws -> Double {
    transport.perform([.dial(NetworkAddress(.v4(0x7F00_0001), port: port), .control, expecting: other)])
    var seconds = 0.0
    for await event in transport.events {
      switch event {
      case .opened(let session, let info):
        seconds =
          Double(info.handshakeTime.components.attoseconds) / 1e18
          + Double(info.handshakeTime.components.seconds)
        transport.perform([.close(session, .renewed)])
      case .closed: return seconds
      case .dialFailed(_, _, let failure): throw ValidationError("dialling failed: \(failure)")
      default: continue
      }
    }
    throw ValidationError("the transport has shut down")
  }

  /// Sends so many of the longest frames; the seconds until the other side has taken all of them.
  func stream(frames count: Int, over session: SessionID) async throws -> Double {
    let body = [UInt8](repeating: 0x5A, count: MeshFrame.bodyByteCount)
    let clock = ContinuousClock()
    let start = clock.now
    var sent = 0
    var events = transport.events.makeAsyncIterator()
    while true {
      while sent < count, transport.room(in: session) >= body.count {
        sent += 1
        transport.perform([
          .send(session, MeshFrame(.bulk, request: sent == count ? .max : UInt32(sent), body: body))
        ])
      }
      guard let event = await events.next() else { throw ValidationError("the transport has shut down") }
      switch event {
      case .frame(_, let answer) where answer.request == .max:
        let elapsed = clock.now - start
        return Double(elapsed.components.attoseconds) / 1e18 + Double(elapsed.components.seconds)
      case .closed(_, let reason): throw ValidationError("the session closed: \(reason)")
      default: continue
      }
    }
  }

  /// Answers the last frame of each stream.
  func answerBulk() async {
    for await event in transport.events {
      if case .frame(let session, let frame) = event, frame.request == .max {
        transport.perform([.send(session, MeshFrame(.bulk, request: .max, body: []))])
      }
    }
  }
}

/// What each device of a household knows whose keys all follow from the seed.
func benchmarkHousehold(seed: UInt64, devices: Int = 2) throws -> [Household] {
  var entropy = SeededEntropy(seed: seed)
  var admin = try Household(
    creating: RecoveryPhrase(entropy: &entropy), keys: DeviceKeys(entropy: &entropy), name: "device 0",
    entropy: &entropy)
  var keys: [DeviceKeys] = []
  for index in 1..<devices {
    let next = DeviceKeys(entropy: &entropy)
    let request = try AdmissionRequest(keys: next, name: "device \(index)", binding: [1])
    _ = try admin.admit(request, binding: [1], entropy: &entropy)
    keys.append(next)
  }
  return [admin] + (try keys.map { try Household(log: admin.log, keys: $0) })
}

/// The other process, as the measuring one drives it.
private final class MeshWorker {
  let port: UInt16
  private let plainPort: UInt16
  private let process: ChildProcess

  init(seed: UInt64) throws {
    guard let process = ChildProcess("/proc/self/exe", ["mesh", "worker", "--seed", "\(seed)"]) else {
      throw ValidationError("the worker could not be started")
    }
    self.process = process
    let words = process.line()?.split(separator: " ").compactMap { UInt16($0) } ?? []
    guard words.count == 2 else { throw ValidationError("the worker did not tell its ports") }
    (port, plainPort) = (words[0], words[1])
  }

  /// CPU time of the worker so far.
  func cpuSeconds() throws -> Double { try ask("cpu") }

  /// CPU time of the worker for bare TCP.
  func plainCPUSeconds() throws -> Double { try ask("plain") }

  /// Sends so many pieces of a record's size over bare TCP; the seconds until the worker has read them.
  func plainStream(pieces: Int) throws -> Double { try PlainListener.send(pieces: pieces, to: plainPort) }

  func stop() {
    process.endInput()
    _ = process.wait()
  }

  private func ask(_ command: String) throws -> Double {
    guard process.write(command + "\n"), let value = process.line().flatMap(Double.init) else {
      throw ValidationError("the worker did not answer '\(command)'")
    }
    return value
  }
}

// MARK: Bare TCP

/// The same bytes without encryption: blocking writes of a record's size, blocking reads of 256 KiB.
private struct PlainListener: Sendable {
  let port: UInt16
  private let descriptor: CInt

  init() throws {
    let descriptor = socket(AF_INET, CInt(SOCK_STREAM.rawValue), 0)
    var address = Self.address(0)
    var size = socklen_t(MemoryLayout<sockaddr_in>.size)
    let isBound = withUnsafeMutablePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        bind(descriptor, $0, size) == 0 && listen(descriptor, 4) == 0
          && getsockname(descriptor, $0, &size) == 0
      }
    }
    self.descriptor = descriptor
    guard isBound else { throw ValidationError("no free port on loopback: errno \(errno)") }
    port = UInt16(bigEndian: address.sin_port)
  }

  private static func address(_ port: UInt16) -> sockaddr_in {
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    return address
  }

  /// Reads one connection to its end; CPU seconds of this thread for it.
  func serve() -> Double? {
    let connection = accept(descriptor, nil, nil)
    guard connection >= 0 else { return nil }
    defer { close(connection) }
    let before = threadCPUSeconds()
    var buffer = [UInt8](repeating: 0, count: 256 << 10)
    while read(connection, &buffer, buffer.count) > 0 {}
    _ = write(connection, "x", 1)
    return threadCPUSeconds() - before
  }

  static func send(pieces: Int, to port: UInt16) throws -> Double {
    let connection = socket(AF_INET, CInt(SOCK_STREAM.rawValue), 0)
    defer { close(connection) }
    var address = address(port)
    let status = withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        connect(connection, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
      }
    }
    guard status == 0 else { throw ValidationError("bare TCP does not connect: errno \(errno)") }
    let piece = [UInt8](repeating: 0x5A, count: RecordLimits.recordByteCount)
    let clock = ContinuousClock()
    let start = clock.now
    for _ in 0..<pieces {
      var sent = 0
      while sent < piece.count {
        let count = piece[sent...].withUnsafeBytes { write(connection, $0.baseAddress, $0.count) }
        guard count > 0 else { throw ValidationError("bare TCP broke: errno \(errno)") }
        sent += count
      }
    }
    Glibc.shutdown(connection, CInt(SHUT_WR))
    var end: UInt8 = 0
    _ = read(connection, &end, 1)
    let elapsed = clock.now - start
    return Double(elapsed.components.attoseconds) / 1e18 + Double(elapsed.components.seconds)
  }
}

// MARK: Parts alone

/// Sealing and opening of records on one core, without any socket.
private func measureCipher() -> CipherAnswer {
  var entropy = SystemEntropy()
  let key = SecretBytes(count: ChaChaPoly.keyByteCount, entropy: &entropy)
  var sealer = RecordSealer(key: key.copy())
  var opener = RecordOpener(key: key.copy())
  let count = 4000
  let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: RecordLimits.recordByteCount, alignment: 64)
  defer { memory.deallocate() }
  memory.initializeMemory(as: UInt8.self, repeating: 0x5A)
  let bytes = Double(count * memory.count) / 1e6
  var seal: [Double] = []
  var open: [Double] = []
  for _ in 0..<3 {
    var sealing = 0.0
    var opening = 0.0
    for _ in 0..<count {
      let start = threadCPUSeconds()
      sealer.seal(memory)
      let middle = threadCPUSeconds()
      let opened = try? opener.open(memory)
      precondition(opened != nil, "a record that was just sealed")
      opening += threadCPUSeconds() - middle
      sealing += middle - start
    }
    seal.append(bytes / sealing)
    open.append(bytes / opening)
  }
  return CipherAnswer(seal: Sample(seal), open: Sample(open))
}

/// CPU milliseconds of each side of handshakes in memory.
private func pureHandshakes(count: Int) throws -> [(dialling: Double, accepting: Double)] {
  let households = try benchmarkHousehold(seed: 1)
  var entropy = SystemEntropy()
  func identity(_ index: Int) -> HandshakeIdentity {
    HandshakeIdentity(
      trust: households[index].snapshot, boot: BootID(counter: 1, nonce: UInt32(index)), listeningPort: 1,
      receiverIndex: 1)
  }
  return (0..<count).map { _ in
    var times = (dialling: 0.0, accepting: 0.0)
    var start = threadCPUSeconds()
    var dialler = SessionHandshake(dialling: .control, as: identity(0), entropy: &entropy)
    var toAcceptor = bytes(of: dialler.start())
    times.dialling += threadCPUSeconds() - start
    start = threadCPUSeconds()
    var acceptor = SessionHandshake(accepting: identity(1), entropy: &entropy)
    times.accepting += threadCPUSeconds() - start
    while !toAcceptor.isEmpty {
      start = threadCPUSeconds()
      let toDialler = bytes(of: acceptor.receive(toAcceptor))
      times.accepting += threadCPUSeconds() - start
      start = threadCPUSeconds()
      toAcceptor = toDialler.isEmpty ? [] : bytes(of: dialler.receive(toDialler))
      times.dialling += threadCPUSeconds() - start
    }
    return (times.dialling * 1e3, times.accepting * 1e3)
  }
}

private func bytes(of effects: [HandshakeEffect]) -> [UInt8] {
  effects.flatMap { effect in
    switch effect {
    case .send(let bytes): return bytes
    case .established, .pairing: return []
    case .failed(let failure): preconditionFailure("a handshake among friends failed: \(failure)")
    }
  }
}

/// MB/s of `openssl speed`, for orientation; nil where there is no openssl.
private func opensslSpeed() -> Sample? {
  let arguments = ["speed", "-mr", "-seconds", "1", "-bytes", "65536", "-evp", "chacha20-poly1305"]
  guard let process = ChildProcess("/usr/bin/openssl", arguments) else { return nil }
  process.endInput()
  guard let text = process.wholeOutput(limit: 1 << 20, seconds: 20) else { return nil }
  _ = process.wait()
  // "+F:22:ChaCha20-Poly1305:1234567890.00": bytes a second.
  let fields = text.split(separator: "\n").last { $0.hasPrefix("+F:") }?.split(separator: ":")
  return fields?.last.flatMap { Double($0) }.map { Sample([$0 / 1e6]) }
}

// MARK: Answers

/// Measurements of one thing: median, smallest, largest.
struct Sample: Encodable {
  let median: Double
  let minimum: Double
  let maximum: Double

  init(_ values: [Double]) {
    precondition(!values.isEmpty, "a median of nothing")
    let sorted = values.sorted()
    median = sorted[sorted.count / 2]
    minimum = sorted[0]
    maximum = sorted[sorted.count - 1]
  }

  var text: String { rounded(median) }
}

struct CipherAnswer: Encodable {
  let seal: Sample
  let open: Sample
}

struct StreamAnswer: Encodable {
  let mebibytes: Int
  let recordBytes: Int
  let rounds: Int
  /// MB/s.
  let encrypted: Sample
  /// MB/s.
  let plain: Sample
  let ratio: Sample
  /// CPU seconds a GB.
  let senderCPU: Sample
  let receiverCPU: Sample
  let plainSenderCPU: Sample
  let plainReceiverCPU: Sample
  /// MB/s.
  let cipher: CipherAnswer
  let openssl: Sample?
}

struct HandshakeAnswer: Encodable {
  let sessions: Int
  /// Milliseconds, all of them.
  let latency: Sample
  let latencyP95: Double
  let dialling: Double
  let accepting: Double
  let pureDialling: Sample
  let pureAccepting: Sample
}

/// Prints one line of JSON.
func write(_ answer: some Encodable) throws {
  let encoder = JSONEncoder()
  encoder.outputFormatting = [.sortedKeys]
  print(String(decoding: try encoder.encode(answer), as: UTF8.self))
}

/// Three significant digits or so.
func rounded(_ value: Double) -> String {
  decimal(value, value >= 100 ? 0 : value >= 10 ? 1 : 3)
}

/// Processor seconds of all threads of this process.
func processCPUSeconds() -> Double { seconds(of: CLOCK_PROCESS_CPUTIME_ID) }

private func threadCPUSeconds() -> Double { seconds(of: CLOCK_THREAD_CPUTIME_ID) }

private func seconds(of clock: clockid_t) -> Double {
  var time = timespec()
  clock_gettime(clock, &time)
  return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}
