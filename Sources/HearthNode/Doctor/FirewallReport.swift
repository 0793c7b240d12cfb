import ComputeRuntime
import FoundationEssentials
import Glibc

/// The firewalls that are seen on this machine, as far as this user may look.
package struct FirewallReport: Codable, Sendable, Equatable {
  /// One line for each firewall that was seen.
  package var seen: [String]
  /// Whether one of them may turn away what comes in.
  package var mayBlock: Bool

  /// What a machine without firewalls has.
  package init() { (seen, mayBlock) = ([], false) }

  /// Longest wait for one program's answer, in seconds.
  private static let patience = 2.0
  /// Bytes of one program's answer that are read.
  private static let answerLimit = 1 << 20

  /// Looks for nftables, iptables, ufw and firewalld.
  static func examine() -> FirewallReport {
    var report = FirewallReport()
    let isRoot = geteuid() == 0
    if isRoot, let rules = output(of: "nft", ["list", "ruleset"]) { report.take(nftables: rules) }
    if isRoot {
      for program in ["iptables", "ip6tables"] {
        if let rules = output(of: program, ["-S", "INPUT"]) {
          report.take(iptables: rules, program: program)
        }
      }
    }
    if contents("/etc/ufw/ufw.conf").contains("ENABLED=yes") {
      report.seen.append("ufw is on")
      report.mayBlock = true
    }
    if access("/run/firewalld.pid", F_OK) == 0 {
      report.seen.append("firewalld is on")
      report.mayBlock = true
    }
    if !isRoot, report.seen.isEmpty { report.seen.append("not looked into: only root may read its rules") }
    return report
  }

  /// Notes what a rule set of nftables does with what comes in.
  package mutating func take(nftables rules: String) {
    let words = rules.split(separator: "\n").map { $0.drop(while: \.isWhitespace) }
    var inInput = false
    var policy: String?
    var refusals = 0
    for line in words {
      if line.hasPrefix("chain ") { inInput = false }
      if line.contains("hook input") {
        inInput = true
        if line.contains("policy drop") { policy = "drop" }
      } else if inInput, line.hasSuffix("drop") || line.contains(" reject") || line.hasPrefix("reject") {
        refusals += 1
      }
    }
    guard policy != nil || refusals > 0 else { return }
    let rest = policy == nil ? "" : ", all else is dropped"
    seen.append("nftables refuses by \(refusals) \(refusals == 1 ? "rule" : "rules")\(rest)")
    mayBlock = true
  }

  /// Notes what the rules of iptables do with what comes in.
  package mutating func take(iptables rules: String, program: String) {
    let lines = rules.split(separator: "\n")
    let drops = lines.contains("-P INPUT DROP")
    let refusals = lines.count {
      $0.hasPrefix("-A INPUT") && ($0.contains("-j DROP") || $0.contains("-j REJECT"))
    }
    guard drops || refusals > 0 else { return }
    let rest = drops ? ", all else is dropped" : ""
    seen.append("\(program) refuses by \(refusals) \(refusals == 1 ? "rule" : "rules")\(rest)")
    mayBlock = true
  }

  private static func contents(_ path: String) -> String {
    guard let data = FileManager.default.contents(atPath: path), data.count <= answerLimit else { return "" }
    return String(decoding: data, as: UTF8.self)
  }

  /// What a program of the system prints; nil when it is not there, fails or takes too long.
  private static func output(of program: String, _ arguments: [String]) -> String? {
    let path = ["/usr/sbin", "/sbin", "/usr/bin"].map { "\($0)/\(program)" }.first { (path: String) in
      access(path, X_OK) == 0
    }
    guard let path else { return nil }
    guard let child = ChildProcess(path, arguments) else { return nil }
    child.endInput()
    let answer = child.wholeOutput(limit: answerLimit, seconds: patience)
    return child.wait() == 0 ? answer : nil
  }
}
