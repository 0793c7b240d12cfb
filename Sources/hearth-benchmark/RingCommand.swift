import ArgumentParser
import Collectives
import ComputeRuntime
import Glibc
import HearthNode
import MeshModel
import TensorKernels

/// `hearth-benchmark ring`: the exact reduction of integer sums over encrypted sessions.
struct RingCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "ring",
    abstract: "Measure the reduction of integer sums round a ring of endpoints on loopback.",
    discussion: "scripts/benchmark ring runs the members as processes, in turn with PyTorch's gloo.",
    subcommands: [RingMemberCommand.self])

  @OptionGroup var ring: RingOptions

  @Option(help: "Reductions that count; the medians are printed.")
  var rounds = 5

  @Flag(help: "Write one line of JSON.")
  var json = false

  func validate() throws {
    guard (1...1_000).contains(rounds) else { throw ValidationError("--rounds is 1 to 1000") }
  }

  func run() throws {
    AllocatorSettings.keepFreedMemory()
    let answer = try waitForTask { [self] in try await measure() }
    if json { return try write(answer) }
    print(
      "members             \(answer.members), in one process; \(ring.mebibytes) MiB of \(ring.element.rawValue)"
    )
    print("a reduction         \(answer.seconds.text) s, the slowest member")
    print("sent by a member    \(answer.rate.text) MB/s")
    print("processor time      \(answer.cpu.text) s/GB sent, all members together")
  }

  private func measure() async throws -> RingAnswer {
    let host = NetworkAddress.Host.v4(0x7F00_0001)
    var members: [RingMember] = []
    for place in 0..<ring.members {
      members.append(try await RingMember.start(place, of: ring.members, seed: 1, host: host))
    }
    for member in members { member.open(members.map(\.address)) }
    let sums = members.map { _ in RingSums(ring.element, mebibytes: ring.mebibytes) }
    var seconds: [Double] = []
    var cpu: [Double] = []
    // Once without counting: pages, windows, sessions.
    for round in 0...UInt64(rounds) {
      let results = try await withThrowingTaskGroup(of: RingRound.self) { group in
        for (member, sums) in zip(members, sums) {
          group.addTask { try await onThread { try member.round(round, sums) } }
        }
        return try await group.reduce(into: [RingRound]()) { $0.append($1) }
      }
      guard results.allSatisfy(\.isRight) else { throw ValidationError("round \(round) gave a wrong sum") }
      guard round > 0 else { continue }
      seconds.append(results.map(\.seconds).max() ?? 0)
      // The members share a process: each has counted all.
      cpu.append(results.map(\.cpuSeconds).max() ?? 0)
    }
    for member in members { await member.shutdown() }
    return RingAnswer(ring, seconds: seconds, cpu: cpu)
  }
}

/// One member in a process of its own, driven by lines on standard input.
struct RingMemberCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "member", abstract: "One member of a ring; started by scripts/benchmark ring.",
    discussion: """
      Prints its address; reads the addresses of all members by place; then reduces once for each line 'round' and
      prints seconds, processor seconds and whether the sums were right.
      """,
    shouldDisplay: false)

  @OptionGroup var ring: RingOptions

  @Option(help: "The member's place in the ring.")
  var place: Int

  @Option(help: "The address on which it accepts the others.")
  var host = "127.0.0.1"

  func validate() throws {
    guard 0..<ring.members ~= place else { throw ValidationError("--place is 0 to \(ring.members - 1)") }
    guard ipv4("\(host):0") != nil else {
      throw ValidationError("--host is an IPv4 address such as 10.77.0.1")
    }
  }

  func run() throws {
    guard let host = ipv4("\(host):0")?.host else { return }
    AllocatorSettings.keepFreedMemory()
    let member = try waitForTask { [self] in
      try await RingMember.start(place, of: ring.members, seed: 1, host: host)
    }
    say("\(member.address)")
    let addresses = (readLine() ?? "").split(separator: " ").compactMap(ipv4)
    guard addresses.count == ring.members else {
      throw ValidationError("\(addresses.count) addresses for \(ring.members) members")
    }
    member.open(addresses)
    let sums = RingSums(ring.element, mebibytes: ring.mebibytes)
    var number: UInt64 = 0
    while readLine() == "round" {
      let round = try member.round(number, sums)
      number += 1
      say("\(round.seconds) \(round.cpuSeconds) \(round.isRight ? "right" : "wrong")")
    }
    try waitForTask { await member.shutdown() }
  }

  private func say(_ line: String) {
    print(line)
    fflush(nil)
  }
}

/// What all members of a ring agree about.
struct RingOptions: ParsableArguments {
  @Option(help: "Members of the ring.")
  var members = 2

  @Option(help: "Bytes of each member's vector, in MiB.")
  var mebibytes = 64

  @Option(
    help: "The integers that are added up: \(RingElement.allCases.map(\.rawValue).joined(separator: ", ")).")
  var element = RingElement.int64

  func validate() throws {
    guard (2...16).contains(members), (1...4_096).contains(mebibytes) else {
      throw ValidationError("--members is 2 to 16 and --mebibytes 1 to 4096")
    }
  }
}

/// What `ring` found.
struct RingAnswer: Encodable {
  let members: Int
  let bytes: Int
  let element: RingElement
  /// The slowest member's.
  let seconds: Sample
  /// MB/s that a member sent, with the seconds of the slowest.
  let rate: Sample
  /// Processor seconds of all members a GB that was sent.
  let cpu: Sample

  init(_ ring: RingOptions, seconds: [Double], cpu: [Double]) {
    let chunks = RingChunks(
      count: (ring.mebibytes << 20) / ring.element.byteCount, members: ring.members)
    let sent = (0..<ring.members).map { Double(chunks.elementsSent(by: $0) * ring.element.byteCount) }
    members = ring.members
    bytes = ring.mebibytes << 20
    element = ring.element
    self.seconds = Sample(seconds)
    rate = Sample(seconds.map { (sent.max() ?? 0) / 1e6 / $0 })
    self.cpu = Sample(cpu.map { $0 / (sent.reduce(0, +) / 1e9) })
  }
}

/// An address as it is printed, `127.0.0.1:24326`.
private func ipv4(_ text: some StringProtocol) -> NetworkAddress? {
  let halves = text.split(separator: ":")
  guard halves.count == 2, let port = UInt16(halves[1]) else { return nil }
  let bytes = halves[0].split(separator: ".").compactMap { UInt8($0) }
  guard bytes.count == 4 else { return nil }
  return NetworkAddress(.v4(bytes.reduce(0) { $0 << 8 | UInt32($1) }), port: port)
}

/// Runs a body that blocks on a thread of its own.
private func onThread<Value: Sendable>(
  _ body: @escaping @Sendable () throws -> Value
) async throws -> Value {
  try await withCheckedThrowingContinuation { continuation in
    OperatingSystemThread.detached(name: "ring") { continuation.resume(with: Result { try body() }) }
  }
}
