import Foundation
import Testing

/// A device of a test's household: a state directory and, while it runs, a daemon on 127.0.0.1.
final class HouseholdDevice {
  let name: String
  let home: String
  private let hearth: HearthProcess
  private(set) var daemon: HearthProcess.Running?
  private var started: [HearthProcess.Running] = []
  private(set) var port = 0

  init(_ name: String, _ hearth: HearthProcess) {
    self.name = name
    self.hearth = hearth
    home = hearth.path("home-\(name)")
  }

  var environment: [String: String] { ["HEARTH_HOME": home] }

  /// Whether this device holds keys.
  var hasKeys: Bool { FileManager.default.fileExists(atPath: "\(home)/household/identity") }

  /// Runs a command on this device to its end.
  func run(_ arguments: String..., input: String = "") throws -> HearthProcess.Result {
    try run(arguments, input: input)
  }

  /// Runs a command on this device to its end.
  func run(_ arguments: [String], input: String = "") throws -> HearthProcess.Result {
    try hearth.run(arguments, input: input, environment: environment)
  }

  /// Starts a command on this device.
  func start(_ arguments: [String], input: String = "") throws -> HearthProcess.Running {
    let running = try hearth.start(arguments, input: input, environment: environment)
    started.append(running)
    return running
  }

  /// Ends everything that was started on this device, come what may.
  func end() {
    for running in started where running.process.isRunning {
      kill(running.process.processIdentifier, SIGKILL)
    }
  }

  /// Makes a household on this device and returns the recovery phrase.
  func createHousehold() throws -> String {
    let created = try run("household", "create", "--name", name, "--json")
    #expect(created.exitCode == 0, "\(created.errors)")
    return try #require(created.lastEvent["recovery_phrase"] as? String)
  }

  /// Brings the daemon up on the port that it had before, or on a free one, and returns when it listens.
  func up(knowing others: [HouseholdDevice] = []) throws {
    let peers = others.flatMap { ["--peer", "127.0.0.1:\($0.port)"] }
    let running = try start(
      ["up", "--loopback", "--port", "\(port)", "--json", "--log-level", "debug"] + peers)
    daemon = running
    let line = running.waitForLine { $0.contains(#""event":"up""#) }
    let up = try #require(line, "\(name) did not come up: \(line == nil ? running.wait().errors : "")")
    port = try #require(Int(try Self.object(up)["port"] as? String ?? ""))
  }

  /// Stops the daemon with a signal and returns what it left.
  func down(_ signal: Int32 = SIGTERM) throws -> HearthProcess.Result {
    let running = try #require(daemon)
    daemon = nil
    kill(running.process.processIdentifier, signal)
    return running.wait()
  }

  /// Joins another device's household, whose person says yes beforehand.
  func join(_ inviter: HouseholdDevice) throws {
    let (invitation, code) = try inviter.invite("--yes")
    let joined = try run("join", code, "--name", name, "--address", "127.0.0.1:\(inviter.port)")
    #expect(joined.exitCode == 0, "\(joined.errors)")
    let end = invitation.wait()
    #expect(end.exitCode == 0 && end.output.contains(#""event":"admitted""#), "\(end.output)\(end.errors)")
  }

  /// Types a code on this device, as somebody does who joins the other device's household.
  func tryToJoin(_ inviter: HouseholdDevice, with code: String) throws -> HearthProcess.Result {
    try run("join", code, "--address", "127.0.0.1:\(inviter.port)")
  }

  /// Opens an invitation by code; the command goes on running.
  func invite(_ options: String..., input: String = "") throws -> (HearthProcess.Running, code: String) {
    let invitation = try start(["invite", "--json"] + options, input: input)
    let line = try #require(
      invitation.waitForLine { $0.contains(#""event":"invited""#) }, "no invitation on \(name)")
    return (invitation, try #require(try Self.object(line)["invitation"] as? String))
  }

  /// The words that train a small model on this device's rows; output and data lie beside its state.
  func trainingWords(
    _ model: String = "tiny-bert", output: String, rows count: Int = 60, extra: [String] = []
  ) throws -> [String] {
    let data = "\(home)-rows.tsv"
    try wordRows(count).write(toFile: data, atomically: true, encoding: .utf8)
    let sizes = extra.contains("--batch") ? [] : ["--batch", "8", "--micro-batch", "1"]
    return [
      "train", "--model", HearthProcess.fixtures.appending(path: model).path, "--data", data, "--task",
      "classify", "--output", "\(home)-\(output)", "--json",
    ] + sizes + extra
  }

  /// Follows `hearth peers` until a report is accepted; a report comes every second at least.
  @discardableResult
  func waitForReport(
    seconds: Int = 90, _ what: String, where accepts: ([String: [String: Any]]) -> Bool
  ) throws -> [String: [String: Any]] {
    let watch = try start(["peers", "--watch", "--json"])
    defer {
      watch.process.terminate()
      _ = watch.wait()
    }
    var last: [String: [String: Any]] = [:]
    let line = watch.waitForLine(limit: 3 * seconds) { line in
      last = (try? Self.devices(line)) ?? [:]
      return accepts(last)
    }
    try #require(line != nil, "\(name) never saw \(what); last: \(last)")
    return last
  }

  /// Follows the daemon's log to an event.
  func waitForEvent(_ event: String, containing text: String = "") -> String? {
    daemon?.waitForLine(limit: 10_000) { $0.contains("\"event\":\"\(event)\"") && $0.contains(text) }
  }

  /// The devices of a report by name.
  static func devices(_ line: String) throws -> [String: [String: Any]] {
    let devices = try #require(try object(line)["devices"] as? [[String: Any]])
    return Dictionary(devices.map { ($0["name"] as? String ?? "", $0) }) { $1 }
  }

  static func object(_ line: String) throws -> [String: Any] {
    try #require(JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any], "\(line)")
  }
}

extension [String: [String: Any]] {
  /// The state of a device.
  func state(_ name: String) -> String? { self[name]?["state"] as? String }

  /// Why a device is not in.
  func reason(_ name: String) -> String? { self[name]?["reason"] as? String }

  /// Whether a device is in and a session to it stands.
  func isConnected(_ name: String) -> Bool {
    state(name) == "alive" && reason(name) == nil && self[name]?["path"] as? String != "none"
  }
}

/// Calls `body` with a household of running devices that see each other: the first one made it, the others joined;
/// after them come devices outside of it, on which nothing runs.
func withHousehold(
  _ names: String..., outside: [String] = [], body: ([HouseholdDevice]) throws -> Void
) throws {
  try withHousehold(named: names, outside: outside, body: body)
}

/// Calls `body` with a household of running devices of these names.
func withHousehold(
  named names: [String], outside: [String] = [], body: ([HouseholdDevice]) throws -> Void
) throws {
  try withDevices(named: names + outside) { devices in
    let members = devices.prefix(names.count)
    let first = try #require(members.first)
    _ = try first.createHousehold()
    try first.up()
    for (index, device) in members.enumerated().dropFirst() {
      try device.join(first)
      // Without multicast on the loopback each must be told where those before it are.
      try device.up(knowing: Array(members.prefix(index)))
    }
    for device in members {
      try device.waitForReport("all in") { report in
        members.allSatisfy { $0 === device || report.isConnected($0.name) }
      }
    }
    try body(devices)
  }
}

/// Calls `body` with devices whose daemons are ended afterwards, come what may.
func withDevices(_ names: String..., body: ([HouseholdDevice]) throws -> Void) throws {
  try withDevices(named: names, body: body)
}

private func withDevices(named names: [String], body: ([HouseholdDevice]) throws -> Void) throws {
  try HearthProcess.withScratch { hearth in
    let devices = names.map { HouseholdDevice($0, hearth) }
    // A process that hangs must not hang the tests: its end ends all waiting for it.
    let watchdog = DispatchWorkItem { for device in devices { device.end() } }
    DispatchQueue.global().asyncAfter(deadline: .now() + .seconds(240), execute: watchdog)
    defer {
      watchdog.cancel()
      for device in devices { device.end() }
    }
    try body(devices)
  }
}
