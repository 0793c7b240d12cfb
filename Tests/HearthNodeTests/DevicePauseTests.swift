import Determinism
import Foundation
import HearthNode
import MeshModel
import Testing

@Suite struct DevicePauseTests {
  /// So many seconds after an arbitrary start.
  private func at(_ seconds: Double) -> MonotonicInstant {
    MonotonicInstant(nanoseconds: 5_000_000_000 + Int64(seconds * 1e9))
  }

  @Test("a person's pause lasts until resume, and its words are told")
  func person() {
    var pause = DevicePause(pausesOnBattery: false)
    #expect(pause.reason == nil)
    pause.pause("video call")
    #expect(pause.reason == "paused by its person: video call")
    pause.pause("")
    #expect(pause.reason == "paused by its person")
    pause.resume()
    #expect(pause.reason == nil)
    #expect(DevicePause(words: "kept", pausesOnBattery: false).reason == "paused by its person: kept")
  }

  @Test("without --pause-on-battery the power supply is never looked at and never counts")
  func batteryDoesNotCount() {
    var pause = DevicePause(pausesOnBattery: false)
    #expect(!pause.isDue(at: at(0)) && pause.nextDeadline == nil)
    pause.note(.battery, at: at(0))
    #expect(pause.reason == nil && pause.nextDeadline == nil)
  }

  @Test("battery power pauses at the first reading, and the supply is read every two seconds")
  func battery() {
    var pause = DevicePause(pausesOnBattery: true)
    #expect(pause.isDue(at: at(0)), "before the first reading")
    pause.note(.mains, at: at(0))
    #expect(pause.reason == nil && pause.nextDeadline == at(2))
    #expect(!pause.isDue(at: at(1.9)) && pause.isDue(at: at(2)))
    pause.note(.battery, at: at(2))
    #expect(pause.reason == "on battery" && pause.nextDeadline == at(4))
  }

  @Test("mains power must last ten seconds before the device takes part again; a loose plug begins anew")
  func mains() {
    var pause = DevicePause(pausesOnBattery: true)
    pause.note(.battery, at: at(0))
    pause.note(.mains, at: at(2))
    pause.note(.mains, at: at(11.9))
    #expect(pause.reason != nil)
    pause.note(.battery, at: at(11.95))
    pause.note(.mains, at: at(14))
    pause.note(.mains, at: at(23.9))
    #expect(pause.reason != nil, "counted from 14")
    pause.note(.mains, at: at(24))
    #expect(pause.reason == nil)
  }

  @Test("resume on battery counts until mains power comes back, and a person's pause outlasts the battery's")
  func overridden() {
    var pause = DevicePause(pausesOnBattery: true)
    pause.note(.battery, at: at(0))
    pause.resume()
    #expect(pause.reason == nil)
    pause.note(.battery, at: at(2))
    #expect(pause.reason == nil)
    pause.note(.mains, at: at(4))
    pause.note(.mains, at: at(14))
    pause.note(.battery, at: at(16))
    #expect(pause.reason == "on battery", "unplugged again")
    pause.pause("mine")
    pause.note(.mains, at: at(18))
    pause.note(.mains, at: at(40))
    #expect(pause.reason == "paused by its person: mine")
  }

  @Test("a power supply of unknown kind is no battery")
  func unknown() {
    var pause = DevicePause(pausesOnBattery: true)
    pause.note(.unknown, at: at(0))
    #expect(pause.reason == nil)
  }

  @Test("words become one line without control characters, cut between characters")
  func words() {
    #expect(DevicePause.plain("  back\nat\u{1B}[31m three \t") == "back at [31m three")
    #expect(DevicePause.plain("\u{9B}2J") == "2J", "C1 control characters move cursors too")
    let long = DevicePause.plain(String(repeating: "ü", count: 150))
    #expect(long == String(repeating: "ü", count: 100))
    #expect(DevicePause.plain(" \n ") == "")
  }
}

/// What /sys/class/power_supply looks like: Documentation/ABI/testing/sysfs-class-power of the Linux kernel.
@Suite struct PowerSuppliesTests {
  private func power(_ supplies: [String: [String: String]]) throws -> DeviceTraits.Power {
    let folder = NSTemporaryDirectory() + "hearth-power-\(UUID().uuidString.prefix(8))"
    defer { try? FileManager.default.removeItem(atPath: folder) }
    for (name, files) in supplies {
      try FileManager.default.createDirectory(atPath: "\(folder)/\(name)", withIntermediateDirectories: true)
      for (file, text) in files {
        try Data((text + "\n").utf8).write(to: URL(filePath: "\(folder)/\(name)/\(file)"))
      }
    }
    return PowerSupplies(folder: folder).power
  }

  @Test("a laptop is on mains while its adapter is on line, and on battery when it is not")
  func laptop() throws {
    let battery = ["type": "Battery", "status": "Discharging"]
    #expect(try power(["AC": ["type": "Mains", "online": "1"], "BAT0": battery]) == .mains)
    #expect(try power(["AC": ["type": "Mains", "online": "0"], "BAT0": battery]) == .battery)
    #expect(try power(["BAT0": battery]) == .battery)
    #expect(try power(["ucsi": ["type": "USB", "online": "1"], "BAT0": battery]) == .mains)
  }

  @Test("a machine without supplies, and one whose mouse has a battery, is on mains")
  func desktop() throws {
    #expect(try power([:]) == .mains)
    #expect(try power(["hidpp_0": ["type": "Battery", "scope": "Device"]]) == .mains)
  }
}
