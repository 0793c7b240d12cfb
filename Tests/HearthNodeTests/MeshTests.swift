import Glibc
import HearthNode
import Testing

@Suite struct MeshTests {
  /// sd_notify(3): datagrams to the socket that NOTIFY_SOCKET names; "@" stands for an abstract name.
  @Test(
    "tells the service manager over a socket in the file system and over an abstract one",
    arguments: [false, true])
  func notification(isAbstract: Bool) throws {
    let name = "hearth-notify-\(getpid())-\(isAbstract)"
    let path = isAbstract ? "@\(name)" : "/tmp/\(name)"
    let descriptor = socket(AF_UNIX, CInt(SOCK_DGRAM.rawValue), 0)
    defer {
      close(descriptor)
      unlink("/tmp/\(name)")
    }
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    var bytes = Array(path.utf8)
    if isAbstract { bytes[0] = 0 }
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
    let offset = MemoryLayout<sockaddr_un>.size - MemoryLayout.size(ofValue: address.sun_path)
    let length = socklen_t(offset + bytes.count + (isAbstract ? 0 : 1))
    let bound = withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(descriptor, $0, length) }
    }
    try #require(bound == 0, "bind: \(errno)")
    let manager = ServiceNotification(environment: ["NOTIFY_SOCKET": path])
    manager.ready(status: "listening")
    manager.stopping()
    var received: [String] = []
    for _ in 0..<2 {
      var buffer = [UInt8](repeating: 0, count: 256)
      let count = recv(descriptor, &buffer, buffer.count, CInt(MSG_DONTWAIT))
      try #require(count > 0, "nothing was sent")
      received.append(String(decoding: buffer[..<count], as: UTF8.self))
    }
    #expect(received == ["READY=1\nSTATUS=listening\nMAINPID=\(getpid())", "STOPPING=1"])
  }

  @Test("does without a service manager")
  func noManager() {
    #expect(!ServiceNotification(environment: [:]).send("READY=1"))
    #expect(!ServiceNotification(environment: ["NOTIFY_SOCKET": "relative"]).send("READY=1"))
    #expect(!ServiceNotification(environment: ["NOTIFY_SOCKET": "/nowhere/socket"]).send("READY=1"))
  }

  /// Output of `nft list ruleset` (nftables 1.0.6).
  @Test("sees what nftables refuses of what comes in, and nothing in what it forwards")
  func nftables() {
    var report = FirewallReport()
    report.take(
      nftables: """
        table inet filter {
        	chain input {
        		type filter hook input priority filter; policy drop;
        		ct state established,related accept
        		udp dport 24327 drop
        		reject with icmpx port-unreachable
        	}
        	chain forward {
        		type filter hook forward priority filter; policy drop;
        		ip saddr 10.0.0.0/8 drop
        	}
        }
        """)
    #expect(report.mayBlock && report.seen == ["nftables refuses by 2 rules, all else is dropped"])
    var open = FirewallReport()
    open.take(
      nftables:
        "table ip nat {\n\tchain output {\n\t\ttype nat hook output priority 0; policy accept;\n\t}\n}")
    #expect(open == FirewallReport())
  }

  /// Output of `iptables -S INPUT` (iptables 1.8.9).
  @Test("sees what iptables refuses of what comes in")
  func iptables() {
    var report = FirewallReport()
    report.take(
      iptables: "-P INPUT ACCEPT\n-A INPUT -i lo -j ACCEPT\n-A INPUT -p udp -m udp --dport 24326 -j DROP",
      program: "iptables")
    #expect(report.mayBlock && report.seen == ["iptables refuses by 1 rule"])
    var open = FirewallReport()
    open.take(iptables: "-P INPUT ACCEPT\n-A INPUT -i lo -j ACCEPT", program: "iptables")
    #expect(open == FirewallReport())
  }

  @Test("takes port and peers from a lab's environment, and keeps to the loopback only there")
  func settings() {
    let plain = DaemonSettings(environment: [:])
    #expect(plain.port == 24326 && plain.peers.isEmpty && !plain.loopbackOnly)
    let lab = DaemonSettings(environment: [
      "HEARTH_LAB": "/tmp/lab", "HEARTH_PORT": "23701", "HEARTH_PEERS": "127.0.0.1:23702, 127.0.0.1:23703,",
    ])
    #expect(lab.port == 23701 && lab.loopbackOnly && lab.peers == ["127.0.0.1:23702", "127.0.0.1:23703"])
  }
}
