import MeshModel
import PeerDiscovery
import Testing

@Suite("Which interfaces are used")
struct InterfaceFilterTests {
  @Test(
    "Interfaces of containers, virtual machines and tunnels are left out by their names",
    arguments: [
      ("docker0", InterfaceFilter.SkipReason.virtual), ("br-1a2b3c", .virtual), ("veth12ab", .virtual),
      ("virbr0", .virtual), ("lxdbr0", .virtual), ("tun0", .tunnel), ("tap3", .tunnel), ("wg0", .tunnel),
      ("tailscale0", .tunnel), ("ppp0", .tunnel),
    ])
  func skipped(name: String, reason: InterfaceFilter.SkipReason) {
    #expect(InterfaceFilter().skipReason(of: ethernet(name)) == reason)
    #expect(InterfaceFilter(listed: [name]).skipReason(of: ethernet(name)) == nil)
  }

  @Test(
    "Wired, wireless and bridged home networks are used, a namespace's eth0 too",
    arguments: ["eth0", "enp3s0", "wlan0", "wlp2s0", "br0", "bond0", "usb0", "end0"])
  func used(name: String) {
    #expect(InterfaceFilter().skipReason(of: ethernet(name)) == nil)
  }

  @Test("An interface that cannot serve is left out even when it is listed")
  func unable() {
    let filter = InterfaceFilter(listed: ["eth0", "lo"])
    #expect(filter.skipReason(of: ethernet(isRunning: false)) == .notRunning)
    #expect(filter.skipReason(of: ethernet(hasMulticast: false)) == .noMulticast)
    #expect(filter.skipReason(of: ethernet(addresses: [])) == .noAddress)
    #expect(filter.skipReason(of: ethernet("lo", isLoopback: true)) == .loopback)
  }

  @Test("Of too many interfaces the listed ones stay, and the others are reported as over the limit")
  func limit() {
    let many = (1...40).map { ethernet("eth\($0)", index: UInt32($0)) }
    let filter = InterfaceFilter(listed: ["eth40"])
    let used = filter.usable(many.reversed())
    #expect(used.count == DiscoveryLimits.interfaces)
    #expect(used.map(\.index) == Array(1...31) + [40])
    let report = filter.report(many)
    #expect(report.count { $0.skip == .overLimit } == 8)
    #expect(report.count { $0.skip == nil } == 32)
  }

  @Test(
    "The directed broadcast has all host bits set (RFC 919); networks without hosts have none",
    arguments: [
      (UInt32(0xC0A8_0105), UInt8(24), UInt32(0xC0A8_01FF)), (0xC0A8_0105, 16, 0xC0A8_FFFF),
      (0x0A00_0001, 8, 0x0AFF_FFFF), (0xC0A8_0105, 30, 0xC0A8_0107), (0xC0A8_0105, 31, nil),
      (0xC0A8_0105, 32, nil), (0xC0A8_0105, 0, nil),
    ] as [(UInt32, UInt8, UInt32?)])
  func broadcast(address: UInt32, prefix: UInt8, expected: UInt32?) {
    #expect(LocalInterface.Address(host: .v4(address), prefixLength: prefix).broadcast == expected)
  }

  @Test("IPv6 has no broadcast, and addresses are kept in order")
  func order() {
    let low = LocalInterface.Address(host: .v4(1), prefixLength: 24)
    let high = LocalInterface.Address(host: .v6(high: 1, low: 1, scope: 0), prefixLength: 64)
    #expect(high.broadcast == nil)
    #expect(ethernet(addresses: [high, low]).addresses == [low, high])
  }

  @Test("Every reason has a stable name and a next step")
  func reasons() {
    let names = InterfaceFilter.SkipReason.allCases.map(\.rawValue)
    #expect(
      names == [
        "not-running", "loopback", "no-multicast", "no-address", "virtual", "tunnel", "over-limit",
      ])
    #expect(InterfaceFilter.SkipReason.allCases.allSatisfy { !$0.nextStep.isEmpty })
  }
}
