import Foundation
import Testing

/// One daemon's life: starts, signals, crashes, and commands while it is down.
@Suite(.timeLimit(.minutes(5))) struct HouseholdDaemonTests {
  @Test("SIGTERM ends a daemon with code 0, the others see it leave, and a restart brings it back")
  func restart() throws {
    try withHousehold("desk", "laptop") { devices in
      let (desk, laptop) = (devices[0], devices[1])
      let end = try laptop.down()
      #expect(end.exitCode == 0 && end.output.contains(#""event":"down""#), "\(end.errors)")
      #expect(end.errors.isEmpty, "\(end.errors)")
      try desk.waitForReport("laptop leave") { $0.state("laptop") == "left" && $0.reason("laptop") == "left" }
      try laptop.up()
      // Without --peer this time: it remembers where the other was.
      try desk.waitForReport("laptop back") { $0.isConnected("laptop") }
    }
  }

  @Test("a killed daemon leaves a state that the next one takes up")
  func crash() throws {
    try withHousehold("desk", "laptop") { devices in
      let (desk, laptop) = (devices[0], devices[1])
      #expect(try laptop.down(SIGKILL).exitCode == 128 + SIGKILL)
      try laptop.up(knowing: [desk])
      #expect(desk.waitForEvent("disconnected", containing: "laptop") != nil)
      #expect(desk.waitForEvent("connected", containing: "laptop") != nil)
      try desk.waitForReport("laptop back") { $0.isConnected("laptop") }
      try laptop.waitForReport("desk") { $0.isConnected("desk") }
    }
  }

  @Test("SIGHUP does nothing, and a second daemon of the same state is refused with the first one's process")
  func hangUp() throws {
    try withHousehold("desk") { devices in
      let desk = devices[0]
      let process = try #require(desk.daemon?.process.processIdentifier)
      kill(process, SIGHUP)
      #expect(try desk.run("peers").exitCode == 0)
      let second = try desk.run("up", "--loopback", "--port", "0")
      #expect(second.exitCode == 75 && second.errors.contains("process \(process)"), "\(second.errors)")
      #expect(try desk.down(SIGINT).exitCode == 0)
    }
  }

  @Test("while the daemon is down commands say so, and show what lies on the disk")
  func daemonDown() throws {
    try withDevices("desk") { devices in
      let desk = devices[0]
      let none = try desk.run("up", "--loopback", "--port", "0")
      #expect(none.exitCode == 66 && none.errors.contains("hearth household create"), "\(none.errors)")
      #expect(try desk.run("peers").exitCode == 66)
      _ = try desk.createHousehold()
      let peers = try desk.run("peers")
      #expect(peers.exitCode == 68 && peers.errors.contains("hearth up"), "\(peers.errors)")
      #expect(peers.output.contains("desk (admin)") && peers.output.contains("daemon is not running"))
      let invite = try desk.run("invite")
      #expect(invite.exitCode == 68 && invite.errors.contains("hearth up"))
      let again = try desk.run("household", "create")
      #expect(again.exitCode == 73 && again.errors.contains("already"), "\(again.errors)")
      let join = try desk.run("join", "1234-5678")
      #expect(join.exitCode == 73 && join.errors.contains("already"), "\(join.errors)")
    }
  }

  @Test("keys that others may read, or that lie in a checkout, are refused")
  func refusedPlaces() throws {
    try withDevices("desk") { devices in
      let desk = devices[0]
      _ = try desk.createHousehold()
      try FileManager.default.setAttributes([.posixPermissions: 0o755], ofItemAtPath: desk.home)
      let open = try desk.run("up", "--loopback", "--port", "0")
      #expect(open.exitCode == 77 && open.errors.contains("chmod go-rwx"), "\(open.errors)")
      try FileManager.default.setAttributes([.posixPermissions: 0o700], ofItemAtPath: desk.home)
      try FileManager.default.createDirectory(atPath: "\(desk.home)/.git", withIntermediateDirectories: false)
      let inside = try desk.run("household", "show")
      #expect(inside.exitCode == 73 && inside.errors.contains("git work tree"), "\(inside.errors)")
    }
  }

  @Test(
    "words that are no invitation, address or name are refused before anything is sent",
    arguments: [
      (["join", "1234"], "neither a code"),
      (["join", "hearth1abc"], "cut off"),
      (["join", "1234-5678", "--address", "host:0"], "no address"),
      (["join", "1234-5678", "--name", "a\u{7}b"], "name"),
      (["join", "1234-5678", "--timeout", "0"], "--timeout is 0"),
      (["up", "--log-level", "loud"], "--log-level is 'loud'"),
      (["up", "--peer", ":1"], "no address"),
    ])
  func badWords(arguments: [String], message: String) throws {
    try withDevices("desk") { devices in
      let result = try devices[0].run(arguments)
      #expect(result.exitCode == 64 && result.errors.contains(message), "\(result.errors)")
      #expect(!devices[0].hasKeys)
    }
  }

  @Test("the doctor looks at the household's network with and without the daemon")
  func doctor() throws {
    try withDevices("desk") { devices in
      let desk = devices[0]
      _ = try desk.createHousehold()
      let down = try desk.run("doctor", "--json")
      #expect(down.exitCode == 0, "\(down.errors)")
      let mesh = try #require(try down.lastEvent["mesh"] as? [String: Any])
      #expect(mesh["has_household"] as? Bool == true)
      let findings = try #require(try down.lastEvent["findings"] as? [[String: Any]])
      #expect(findings.contains { ($0["problem"] as? String ?? "").contains("daemon is not running") })
      try desk.up()
      let up = try desk.run("doctor", "--json")
      let network = try #require((try up.lastEvent["mesh"] as? [String: Any])?["network"] as? [String: Any])
      #expect(network["port"] as? Int == desk.port)
      #expect(try desk.run("doctor").output.contains("1 of 1 devices here"))
    }
  }

  @Test("each device measures its link and puts itself into one household file, with which a plan is made")
  func profile() throws {
    try withHousehold("desk", "laptop") { devices in
      let file = "\(devices[0].home)/../measured.json"
      let words = ["profile", "--length", "8", "--household", file, "--json"]
      for (device, other) in [(devices[0], "laptop"), (devices[1], "desk")] {
        let result = try device.run(words)
        #expect(result.exitCode == 0, "\(result.errors)")
        let report = try #require(try result.lastEvent["links"] as? [String: Any])
        #expect(report["name"] as? String == device.name)
        let link = try #require((report["links"] as? [[String: Any]])?.first)
        #expect(link["name"] as? String == other)
        #expect(link["gap"] == nil, "\(link)")
        #expect((link["mbit_s"] as? Double ?? 0) > 1 && (link["round_trip_ms"] as? Double ?? 0) > 0)
      }
      let household = try HouseholdDevice.object(String(contentsOfFile: file, encoding: .utf8))
      let names = (household["devices"] as? [[String: Any]] ?? []).compactMap { $0["name"] as? String }
      #expect(names == ["desk", "laptop"])
      let links = try #require(household["links"] as? [[String: Any]])
      #expect(links.map { $0["between"] as? [String] ?? [] } == [["laptop", "desk"]])
      let plan = try devices[0].run(
        "plan", "--model", "t5-base", "--samples", "100", "--devices", file, "--json")
      #expect(plan.exitCode == 0, "\(plan.errors)")
    }
  }

  @Test("without a daemon a profile says that links were not measured, and a household file is refused")
  func profileAlone() throws {
    try withDevices("desk") { devices in
      let desk = devices[0]
      _ = try desk.createHousehold()
      let alone = try desk.run("profile", "--length", "8")
      #expect(alone.exitCode == 0 && alone.output.contains("links were not measured"), "\(alone.errors)")
      #expect(alone.output.contains("hearth up"))
      let refused = try desk.run("profile", "--length", "8", "--household", "\(desk.home)/../home.json")
      #expect(refused.exitCode == 68 && refused.errors.contains("hearth up"), "\(refused.errors)")
    }
  }
}
