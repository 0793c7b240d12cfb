import Glibc
package import MeshModel

/// How this machine is powered, as the kernel's power-supply class tells it.
package struct PowerSupplies: Sendable {
  /// Where the kernel lists them (Documentation/ABI/testing/sysfs-class-power).
  package static let folder = "/sys/class/power_supply"
  /// Supplies that are looked at; a machine has a few.
  private static let limit = 64

  private let folder: String

  /// The supplies that a folder lists.
  package init(folder: String = Self.folder) { self.folder = folder }

  /// On mains when any supply that is no battery is on line; a machine without supplies has no battery either.
  package var power: DeviceTraits.Power {
    guard let directory = opendir(folder) else { return .mains }
    defer { closedir(directory) }
    var hasBattery = false
    for _ in 0..<Self.limit {
      guard let entry = readdir(directory) else { break }
      let name = withUnsafeBytes(of: entry.pointee.d_name) {
        String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
      }
      guard !name.hasPrefix(".") else { continue }
      let kind = Self.line("\(folder)/\(name)/type")
      // A mouse's battery says that it powers a device, not the system.
      if kind == "Battery", Self.line("\(folder)/\(name)/scope") != "Device" { hasBattery = true }
      if kind != "Battery", Self.line("\(folder)/\(name)/online") == "1" { return .mains }
    }
    return hasBattery ? .battery : .mains
  }

  private static func line(_ path: String) -> String? {
    MachineFacts.contents(path, limit: 256).map { bytes in
      String(decoding: bytes.prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self)
    }
  }
}
