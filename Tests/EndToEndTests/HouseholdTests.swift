import Foundation
import Testing

/// Households of real daemons on 127.0.0.1, without root.
@Suite(.timeLimit(.minutes(5))) struct HouseholdTests {
  @Test("two devices pair by code, find each other, and both show the other with its path")
  func pairing() throws {
    try withHousehold("desk", "laptop") { devices in
      let (desk, laptop) = (devices[0], devices[1])
      for (device, other) in [(desk, laptop), (laptop, desk)] {
        let report = try device.waitForReport("\(other.name) in") { $0.isConnected(other.name) }
        let seen = try #require(report[other.name])
        #expect(seen["address"] as? String == "127.0.0.1:\(other.port)")
        #expect(seen["path"] as? String == "datagrams" && seen["version"] as? String != nil)
        #expect((seen["cores"] as? Int ?? 0) > 0 && (seen["memory_bytes"] as? Int ?? 0) > 0)
        #expect(report[device.name]?["is_self"] as? Bool == true)
      }
      let text = try desk.run("peers")
      #expect(text.exitCode == 0)
      #expect(text.output.contains("2 devices, 2 here") && text.output.contains("desk (admin)"))
    }
  }

  @Test("a person who says no keeps a device out, and nothing stays on it")
  func declining() throws {
    try withHousehold("desk", outside: ["stranger"]) { devices in
      let (desk, stranger) = (devices[0], devices[1])
      let (invitation, code) = try desk.invite(input: "perhaps\nno\n")
      let join = try stranger.tryToJoin(desk, with: code)
      #expect(join.exitCode == 77 && join.errors.contains("declined"), "\(join.errors)")
      let end = invitation.wait()
      #expect(end.exitCode == 77, "\(end.errors)")
      // Both sides show the same fingerprint.
      let asked = try #require(try end.events.first { $0["event"] as? String == "asked" })
      let device = try #require(asked["device"] as? String)
      #expect(join.errors.contains("\(device.prefix(4)) \(device.dropFirst(4).prefix(4))"))
      #expect(!stranger.hasKeys)
      #expect(try desk.run("household", "show").output.contains("devices:      1"))
    }
  }

  @Test("three wrong codes end an invitation, and the right one comes too late")
  func wrongCodes() throws {
    try withHousehold("desk", outside: ["stranger"]) { devices in
      let (desk, stranger) = (devices[0], devices[1])
      let (invitation, code) = try desk.invite("--yes")
      let wrong = code == "0000-0000" ? "1111-1111" : "0000-0000"
      for _ in 0..<3 {
        let join = try stranger.tryToJoin(desk, with: wrong)
        #expect(join.exitCode == 77 && join.errors.contains("code is wrong"), "\(join.errors)")
      }
      let end = invitation.wait()
      #expect(end.exitCode == 68 && end.errors.contains("three wrong"), "\(end.errors)")
      let late = try stranger.tryToJoin(desk, with: code)
      #expect(late.exitCode == 68, "\(late.errors)")
      #expect(!stranger.hasKeys)
    }
  }

  @Test("twenty wrong codes close pairing for an hour, and a daemon that starts anew gives no more of them")
  func wrongCodesOverRestarts() throws {
    try withHousehold("desk", outside: ["stranger"]) { devices in
      let (desk, stranger) = (devices[0], devices[1])
      var guesses = 0
      while guesses < 20 {
        let (invitation, code) = try desk.invite("--yes")
        for _ in 0..<min(2, 20 - guesses) {
          let wrong = code == "0000-0000" ? "1111-1111" : "0000-0000"
          let join = try stranger.tryToJoin(desk, with: wrong)
          #expect(join.exitCode == 77 && join.errors.contains("code is wrong"), "\(join.errors)")
          guesses += 1
        }
        _ = try desk.down(guesses % 4 == 0 ? SIGKILL : SIGTERM)
        _ = invitation.wait()
        try desk.up()
      }
      let closed = try desk.run("invite", "--yes")
      #expect(closed.exitCode == 77 && closed.errors.contains("20 wrong codes"), "\(closed.errors)")
      #expect(try desk.run("invite", "--token").exitCode == 77)
      #expect(!stranger.hasKeys)
    }
  }

  @Test("a token admits one device without a question, and no second one")
  func token() throws {
    try withHousehold("desk", outside: ["nas", "second"]) { devices in
      let (desk, nas, second) = (devices[0], devices[1], devices[2])
      let token = try desk.run("invite", "--token").output.trimmingCharacters(in: .whitespacesAndNewlines)
      #expect(token.hasPrefix("hearth1"))
      // The daemon may be started anew in between.
      #expect(try desk.down().exitCode == 0)
      try desk.up()
      let join = try nas.run(
        "join", "-", "--name", "nas", "--address", "127.0.0.1:\(desk.port)", input: token)
      #expect(join.exitCode == 0, "\(join.errors)")
      for _ in 0..<2 {
        let again = try second.tryToJoin(desk, with: token)
        #expect(again.exitCode == 68, "\(again.errors)")
        #expect(!second.hasKeys)
        #expect(try desk.down().exitCode == 0)
        try desk.up()
      }
    }
  }

  @Test("a removed device is turned away, told so, and stays out after a restart")
  func revocation() throws {
    try withHousehold("desk", "laptop") { devices in
      let (desk, laptop) = (devices[0], devices[1])
      let refused = try laptop.run("revoke", "desk", "--yes")
      #expect(refused.exitCode == 77 && refused.errors.contains("no admin"))
      #expect(try desk.run("revoke", "lap-top", "--yes").exitCode == 64)
      let revoked = try desk.run("revoke", "laptop", "--yes")
      #expect(revoked.exitCode == 0 && revoked.output.contains("removed for ever"), "\(revoked.errors)")
      try desk.waitForReport("laptop out") { $0.state("laptop") == "revoked" }
      try laptop.waitForReport("that it was removed") {
        $0.reason("desk") == "self-revoked" || $0.reason("laptop") == "self-revoked"
      }
      #expect(try laptop.down().exitCode == 0)
      try laptop.up(knowing: [desk])
      #expect(desk.waitForEvent("dropped", containing: "handshake-refused") != nil)
      #expect(try desk.run("peers").output.contains("removed: laptop"))
      // Its way back is a new identity.
      #expect(try laptop.run("leave", "--yes").exitCode == 0)
      #expect(!laptop.hasKeys)
      _ = try laptop.down(SIGKILL)
      try laptop.join(desk)
    }
  }

  @Test("a device of another household gets no session, whoever dials")
  func foreignHousehold() throws {
    try withDevices("desk", "neighbour") { devices in
      let (desk, neighbour) = (devices[0], devices[1])
      for device in devices { _ = try device.createHousehold() }
      try desk.up()
      try neighbour.up(knowing: [desk])
      #expect(desk.waitForEvent("dropped", containing: "handshake-refused") != nil)
      let report = try HouseholdDevice.object(try desk.run("peers", "--json").output)
      #expect(report["sessions"] as? Int == 0)
      #expect((report["devices"] as? [Any])?.count == 1)
    }
  }

  @Test("a device that leaves takes its keys with it and is out everywhere")
  func leaving() throws {
    try withHousehold("desk", "laptop") { devices in
      let (desk, laptop) = (devices[0], devices[1])
      // The last device that may invite cannot go while others stay.
      let last = try desk.run("leave", "--yes")
      #expect(last.exitCode == 77 && last.errors.contains("last admin"), "\(last.errors)")
      let left = try laptop.run("leave", "--yes", "--json")
      #expect(left.exitCode == 0, "\(left.errors)")
      #expect(try left.lastEvent["told"] as? Int == 1)
      #expect(!laptop.hasKeys)
      try desk.waitForReport("laptop out") { $0.state("laptop") == "revoked" }
    }
  }

  @Test("rights go from one admin to another, and the phrase brings them back")
  func adminRights() throws {
    try withDevices("desk", "laptop") { devices in
      let (desk, laptop) = (devices[0], devices[1])
      let phrase = try desk.createHousehold()
      try desk.up()
      try laptop.join(desk)
      #expect(try desk.run("household", "demote", "desk").exitCode == 77)
      #expect(try desk.run("household", "promote", "laptop").exitCode == 0)
      try laptop.up(knowing: [desk])
      try laptop.waitForReport("to be an admin") { $0["laptop"]?["is_admin"] as? Bool == true }
      #expect(try laptop.run("household", "demote", "desk").exitCode == 0)
      try desk.waitForReport("to be none") { $0["desk"]?["is_admin"] as? Bool == false }
      let wrong = try desk.run("household", "recover", input: "AAAAA-" + phrase.dropFirst(6) + "\n")
      #expect(wrong.exitCode == 64, "\(wrong.errors)")
      let recovered = try desk.run(
        "household", "recover", "--lost", "laptop", input: phrase.lowercased() + "\n")
      #expect(recovered.exitCode == 0, "\(recovered.errors)")
      try desk.waitForReport("laptop out") {
        $0.state("laptop") == "revoked" && $0["desk"]?["is_admin"] as? Bool == true
      }
    }
  }
}
