import ComputeRuntime
import Glibc
import HouseholdTrust
package import MeshModel
package import PeerDiscovery

/// What this machine is, as far as the household wants to know.
package enum MachineFacts {
  /// The bytes of /etc/machine-id, by which a copied state directory is noticed; empty where there is none.
  package static func machineID() -> [UInt8] {
    for path in ["/etc/machine-id", "/var/lib/dbus/machine-id"] {
      if let bytes = contents(path, limit: 64), !bytes.isEmpty { return bytes }
    }
    return []
  }

  /// The name that a device has unless its person gives another: the host name, cut to what a certificate takes.
  package static func hostName() -> String {
    var buffer = [CChar](repeating: 0, count: 256)
    guard gethostname(&buffer, buffer.count - 1) == 0 else { return "device" }
    let name = String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    return deviceName(from: String(name.split(separator: ".").first ?? "device"))
  }

  /// What this device tells about itself.
  package static func traits(interfaces: [LocalInterface], isAvailable: Bool) -> DeviceTraits {
    let machine = MachineProfile.current()
    return DeviceTraits(
      power: power(), attachment: attachment(interfaces),
      cores: UInt16(clamping: machine.usableCores),
      memoryMebibytes: UInt32(clamping: machine.totalMemory >> 20),
      isAvailable: isAvailable, wireVersions: .current, version: hearthVersion)
  }

  private static func attachment(_ interfaces: [LocalInterface]) -> DeviceTraits.Attachment {
    let used = InterfaceFilter().usable(interfaces)
    if used.contains(where: { !$0.isWireless }) { return .wired }
    return used.isEmpty ? .unknown : .wireless
  }

  /// On mains when any supply that is no battery is on line; a machine without supplies has no battery either.
  private static func power() -> DeviceTraits.Power {
    let folder = "/sys/class/power_supply"
    guard let directory = opendir(folder) else { return .mains }
    defer { closedir(directory) }
    var hasBattery = false
    while let entry = readdir(directory) {
      let name = withUnsafeBytes(of: entry.pointee.d_name) {
        String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
      }
      guard !name.hasPrefix(".") else { continue }
      let kind = line("\(folder)/\(name)/type")
      // A mouse's battery says that it powers a device, not the system.
      if kind == "Battery", line("\(folder)/\(name)/scope") != "Device" { hasBattery = true }
      if kind != "Battery", line("\(folder)/\(name)/online") == "1" { return .mains }
    }
    return hasBattery ? .battery : .mains
  }

  private static func line(_ path: String) -> String? {
    contents(path, limit: 256).map { bytes in
      String(decoding: bytes.prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self)
    }
  }

  private static func contents(_ path: String, limit: Int) -> [UInt8]? {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    var buffer = [UInt8](repeating: 0, count: limit)
    let count = read(descriptor, &buffer, limit)
    return count < 0 ? nil : Array(buffer.prefix(count))
  }
}
