import Foundation
import Testing

/// Households of several hosts with networks of their own and real Avahi daemons (scripts/household); needs root.
@Suite(
  .serialized, .timeLimit(.minutes(10)),
  .enabled(if: HouseholdLab.isPossible, "scripts/household check says what this machine lacks; it needs root")
)
struct HouseholdLabTests {
  @Test(
    "three hosts pair and find each other with nothing but a code, and again by beacons alone without Avahi")
  func zeroConfiguration() throws {
    try HouseholdLab.with(hosts: 3) { lab in
      try lab.pairAll()
      for host in 1...3 { try lab.up(host) }
      for host in 1...3 {
        try lab.waitUntil(host, "all are in") { report in lab.others(host).allSatisfy(report.isConnected) }
      }
      let diagnosis = try lab.run(1, ["doctor", "--json"])
      let mesh = try #require(try diagnosis.lastEvent["mesh"] as? [String: Any])
      let network = try #require(mesh["network"] as? [String: Any])
      #expect((network["avahi"] as? [String: Any])?["daemon"] as? String == "running")
      let interfaces = try #require(network["interfaces"] as? [[String: Any]])
      #expect(
        interfaces.contains { $0["name"] as? String == "eth0" && $0["multicast_loops"] as? Bool == true })
      // Nothing is remembered, and nobody answers multicast DNS: what is left are beacons.
      for host in 1...3 {
        try lab.down(host)
        try lab.command(["avahi", "\(host)", "stop"])
        try FileManager.default.removeItem(atPath: "\(try lab.home(host))/household/peers")
      }
      for host in 1...3 { try lab.up(host) }
      for host in 1...3 {
        try lab.waitUntil(host, "all are in by beacons") { report in
          lab.others(host).allSatisfy(report.isConnected)
        }
      }
      let without = try lab.run(1, ["doctor", "--json"])
      let problems = try #require(try without.lastEvent["findings"] as? [[String: Any]])
      #expect(problems.contains { ($0["problem"] as? String ?? "").contains("no-daemon") })
    }
  }

  @Test("a cut makes devices unreachable and heals, a sleeper comes back, and who is removed gets nothing")
  func disturbances() throws {
    try HouseholdLab.with(hosts: 3) { lab in
      try lab.pairAll()
      for host in 1...3 { try lab.up(host) }
      for host in 1...3 {
        try lab.waitUntil(host, "all are in") { report in lab.others(host).allSatisfy(report.isConnected) }
      }
      try lab.command(["cut", "1", "2,3"])
      try lab.waitUntil(1, "the others are unreachable") { report in
        lab.others(1).allSatisfy { report.state($0) == "unreachable" && report.reason($0) != nil }
      }
      try lab.waitUntil(2, "the cut-off one is unreachable") {
        $0.state("h1") == "unreachable" && $0.isConnected("h3")
      }
      try lab.command(["heal"])
      for host in 1...3 {
        try lab.waitUntil(host, "all are back") { report in lab.others(host).allSatisfy(report.isConnected) }
      }

      try lab.command(["sleep", "3"])
      try lab.waitUntil(1, "the sleeper is unreachable") { $0.state("h3") == "unreachable" }
      try lab.command(["wake", "3"])
      try lab.waitUntil(1, "the sleeper is back") { $0.isConnected("h3") }
      try lab.waitUntil(3, "the sleeper sees the others") { report in
        lab.others(3).allSatisfy(report.isConnected)
      }

      #expect(try lab.run(1, ["revoke", "h3", "--yes"]).exitCode == 0)
      for host in [1, 2] { try lab.waitUntil(host, "h3 is out") { $0.state("h3") == "revoked" } }
      try lab.down(3)
      try lab.up(3)
      // It has learned of it from the others, or they turn it away; in either case it has no session.
      try lab.waitUntil(3, "it is out") { report in
        let isTold = report.reason("h3") == "self-revoked"
        return ["h1", "h2"].allSatisfy {
          report[$0]?["path"] as? String == "none" && (isTold || report.reason($0) != nil)
        }
      }
      try lab.waitUntil(1, "the rest is whole") { $0.isConnected("h2") && $0.state("h3") == "revoked" }
    }
  }

  @Test("a host whose datagrams are dropped stays in over TCP, and the doctor says what to open")
  func blockedDatagrams() throws {
    try HouseholdLab.with(hosts: 2) { lab in
      try lab.pairAll()
      try lab.execute(2, ["iptables", "-A", "INPUT", "-p", "udp", "--dport", "24326", "-j", "DROP"])
      try lab.execute(2, ["ip6tables", "-A", "INPUT", "-p", "udp", "--dport", "24326", "-j", "DROP"])
      for host in 1...2 { try lab.up(host) }
      try lab.waitUntil(1, "h2 is in without datagrams") {
        $0.state("h2") == "alive" && $0["h2"]?["path"] as? String == "udp-blocked"
      }
      let doctor = try lab.run(2, ["doctor"])
      #expect(doctor.output.contains("iptables refuses by 1 rule"), "\(doctor.output)")
      #expect(try lab.run(1, ["doctor"]).output.contains("datagrams between here and h2 are lost"))
    }
  }
}

/// One lab of scripts/household with a daemon on each host.
final class HouseholdLab {
  private let hearth: HearthProcess
  private let name: String
  private let hosts: Int
  private var daemons: [Int: HearthProcess.Running] = [:]
  private var started: [HearthProcess.Running] = []

  private static let script = HearthProcess.fixtures.deletingLastPathComponent().deletingLastPathComponent()
    .appending(path: "scripts/household").path

  /// Runs a program with the three standard descriptors only.
  ///
  /// Foundation takes a child for ended when a descriptor that it gave it is closed, and a lab's daemons would keep it.
  private static let closing = """
    for file in /proc/$$/fd/*; do
      number=${file##*/}
      if [ "$number" -gt 2 ]; then eval "exec $number>&-" 2>/dev/null; fi
    done
    exec "$0" "$@"
    """

  /// Whether this user and machine may make a lab.
  static let isPossible: Bool = {
    guard geteuid() == 0 else { return false }
    let process = Process()
    process.executableURL = URL(filePath: script)
    process.arguments = ["check"]
    process.standardOutput = FileHandle.nullDevice
    process.standardError = FileHandle.nullDevice
    guard (try? process.run()) != nil else { return false }
    process.waitUntilExit()
    return process.terminationStatus == 0
  }()

  private init(_ hearth: HearthProcess, hosts: Int) {
    self.hearth = hearth
    self.hosts = hosts
    name = "test\(ProcessInfo.processInfo.processIdentifier)"
  }

  /// Calls `body` with a new lab that is gone afterwards, come what may.
  static func with(hosts: Int, _ body: (HouseholdLab) throws -> Void) throws {
    try HearthProcess.withScratch { hearth in
      let lab = HouseholdLab(hearth, hosts: hosts)
      let watchdog = DispatchWorkItem { lab.endAll() }
      DispatchQueue.global().asyncAfter(deadline: .now() + .seconds(240), execute: watchdog)
      defer {
        watchdog.cancel()
        lab.endAll()
        _ = try? lab.command(["down"])
      }
      try lab.command(["up", "\(hosts)"])
      try body(lab)
    }
  }

  private func endAll() {
    for running in started where running.process.isRunning {
      kill(running.process.processIdentifier, SIGKILL)
    }
  }

  /// The names of the other hosts.
  func others(_ host: Int) -> [String] { (1...hosts).filter { $0 != host }.map { "h\($0)" } }

  /// Runs a command of the lab's script.
  func command(_ words: [String]) throws {
    let result = try hearth.start(
      program: "/bin/bash", ["-c", Self.closing, Self.script, "--name", name] + words
    )
    .wait()
    try #require(result.exitCode == 0, "scripts/household \(words): \(result.output)\(result.errors)")
  }

  /// Runs a program on a host.
  func execute(_ host: Int, _ words: [String]) throws {
    try command(["exec", "\(host)"] + words)
  }

  private func start(_ host: Int, _ arguments: [String]) throws -> HearthProcess.Running {
    let running = try hearth.start(
      program: Self.script,
      ["--name", name, "exec", "\(host)", HearthProcess.executable.path] + arguments)
    started.append(running)
    return running
  }

  /// Runs `hearth` on a host to its end.
  func run(_ host: Int, _ arguments: [String]) throws -> HearthProcess.Result {
    try start(host, arguments).wait()
  }

  /// The state directory of a host.
  func home(_ host: Int) throws -> String {
    let summary = try run(host, ["household", "show", "--json"])
    return try #require(try summary.lastEvent["state_directory"] as? String)
  }

  /// Makes a household on the first host and lets the others join it by code, found by themselves.
  func pairAll() throws {
    #expect(try run(1, ["household", "create", "--name", "h1"]).exitCode == 0)
    try up(1)
    for host in 2...hosts {
      let invitation = try start(1, ["invite", "--yes", "--json"])
      let line = try #require(invitation.waitForLine { $0.contains(#""event":"invited""#) })
      let code = try #require(try HouseholdDevice.object(line)["invitation"] as? String)
      let joined = try run(host, ["join", code, "--name", "h\(host)"])
      try #require(joined.exitCode == 0, "\(joined.errors)")
      #expect(invitation.wait().exitCode == 0)
    }
    try down(1)
  }

  /// Brings a host's daemon up.
  func up(_ host: Int) throws {
    let running = try start(host, ["up", "--json", "--log-level", "debug"])
    daemons[host] = running
    let line = running.waitForLine { $0.contains(#""event":"up""#) }
    try #require(line != nil, "host \(host) did not come up")
  }

  /// Stops a host's daemon.
  func down(_ host: Int) throws {
    let daemon = daemons.removeValue(forKey: host)
    let running = try #require(daemon)
    running.process.terminate()
    #expect(running.wait().exitCode == 0)
  }

  /// Follows a host's `hearth peers` until a report is accepted.
  func waitUntil(_ host: Int, _ what: String, accepts: ([String: [String: Any]]) -> Bool) throws {
    let watch = try start(host, ["peers", "--watch", "--json"])
    defer {
      watch.process.terminate()
      _ = watch.wait()
    }
    var last: [String: [String: Any]] = [:]
    let line = watch.waitForLine(limit: 300) { line in
      last = (try? HouseholdDevice.devices(line)) ?? [:]
      return accepts(last)
    }
    try #require(line != nil, "host \(host) never saw that \(what); last: \(last)")
  }
}
