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
  package static func traits(interfaces: [LocalInterface], isAvailable: Bool, isPaused: Bool = false)
    -> DeviceTraits
  {
    let machine = MachineProfile.current()
    return DeviceTraits(
      power: PowerSupplies().power, attachment: attachment(interfaces),
      cores: UInt16(clamping: machine.usableCores),
      memoryMebibytes: UInt32(clamping: machine.totalMemory >> 20),
      isAvailable: isAvailable, isPaused: isPaused, wireVersions: .current, version: hearthVersion)
  }

  private static func attachment(_ interfaces: [LocalInterface]) -> DeviceTraits.Attachment {
    let used = InterfaceFilter().usable(interfaces)
    if used.contains(where: { !$0.isWireless }) { return .wired }
    return used.isEmpty ? .unknown : .wireless
  }

  static func contents(_ path: String, limit: Int) -> [UInt8]? {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    var buffer = [UInt8](repeating: 0, count: limit)
    let count = read(descriptor, &buffer, limit)
    return count < 0 ? nil : Array(buffer.prefix(count))
  }
}
