extension HouseholdReport {
  /// What a person reads: the household, a table of its devices, and a line for each that is not in.
  package func text(style: ConsoleStyle) -> String {
    var lines = ["household \(household.prefix(8)), \(headline)", ""]
    let rows = [["", "DEVICE", "STATE", "SINCE", "ADDRESS", "PATH", "RTT", "MACHINE", "POWER", "VERSION"]]
    lines += tableLines(rows + devices.filter { $0.state != "revoked" }.map(\.cells))
    let absent = devices.filter { $0.reason != nil && ($0.isSelf || $0.state != "revoked") }
    if !absent.isEmpty || devices.contains(where: { $0.isPaused == true }) { lines.append("") }
    for device in absent {
      let reason = style.paint("\(device.name): \(device.reason ?? "")", .yellow)
      lines.append("\(reason); \(device.nextStep ?? "")")
    }
    for device in devices where device.isPaused == true {
      let reason = style.paint("\(device.name): paused", .yellow)
      lines.append(
        device.isSelf
          ? "\(reason) (\(device.pauseReason ?? "")); 'hearth resume' ends that"
          : "\(reason); it takes no part in jobs until 'hearth resume' there, or until it is off battery")
    }
    let revoked = devices.filter { $0.state == "revoked" }
    if !revoked.isEmpty {
      lines.append("")
      lines.append("removed: " + revoked.map(\.shownName).joined(separator: ", "))
    }
    return lines.joined(separator: "\n") + "\n"
  }

  private var headline: String {
    let members = devices.filter { $0.state != "revoked" }
    let count = members.count == 1 ? "1 device" : "\(members.count) devices"
    guard isLive else { return "\(count); the daemon is not running here, so this is what lies on the disk" }
    let here = members.count { $0.state == "alive" }
    let leader = devices.first(where: \.isLeader).map { ", leader \($0.name)" } ?? ""
    return "\(count), \(here) here\(leader)"
  }
}

extension HouseholdReport.Device {
  /// The name with the start of the id, when the name alone may not tell.
  var shownName: String { "\(name) (\(device.prefix(8)))" }

  fileprivate var cells: [String] {
    [
      isSelf ? "*" : "", isAdmin ? "\(name) (admin)" : name, state,
      state == "unknown" ? "-" : briefDuration(sinceSeconds), address ?? "-", isSelf ? "-" : path,
      rttMilliseconds.map { "\(decimal($0, 1)) ms" } ?? "-", machine, powerText, version ?? "-",
    ]
  }

  private var machine: String {
    guard let cores, let memoryBytes else { return "-" }
    let wire = attachment == "unknown" ? "" : ", \(attachment ?? "")"
    let shared = isPaused == true ? ", paused" : isAvailable == false ? ", not shared" : ""
    return "\(cores) \(cores == 1 ? "core" : "cores"), \(ByteCount(memoryBytes))\(wire)\(shared)"
  }

  private var powerText: String { power == nil || power == "unknown" ? "-" : power ?? "-" }
}

/// A time as "4 s", "12 min", "3 h" or "5 d".
func briefDuration(_ seconds: Double) -> String {
  switch seconds {
  case ..<90: "\(Int(max(0, seconds))) s"
  case ..<5400: "\(Int(seconds / 60)) min"
  case ..<172_800: "\(Int(seconds / 3600)) h"
  default: "\(Int(seconds / 86_400)) d"
  }
}

/// A device's id in groups of four, as both sides of a pairing show it.
package func fingerprint(_ device: String) -> String {
  var groups: [String] = []
  var rest = device.prefix(16)[...]
  while !rest.isEmpty {
    groups.append(String(rest.prefix(4)))
    rest = rest.dropFirst(4)
  }
  return groups.joined(separator: " ")
}
