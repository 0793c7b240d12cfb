import AvahiDiscovery
import Foundation
import Glibc
import MeshModel
import PeerDiscovery
import Synchronization
import Testing

@Suite("Watching the interfaces")
struct InterfaceWatchTests {
  @Test("The interfaces are those that the kernel lists, and the loopback is known as such")
  func current() throws {
    let interfaces = InterfaceWatch.current()
    let listed = try FileManager.default.contentsOfDirectory(atPath: "/sys/class/net")
      .filter { access("/sys/class/net/\($0)/ifindex", F_OK) == 0 }
    #expect(Set(interfaces.map(\.name)) == Set(listed))
    for interface in interfaces {
      let index = try String(contentsOfFile: "/sys/class/net/\(interface.name)/ifindex", encoding: .utf8)
      #expect("\(interface.index)\n" == index)
    }
    let loopback = interfaces.filter(\.isLoopback)
    #expect(loopback.allSatisfy { $0.name == "lo" && !$0.isWireless })
    let home = LocalInterface.Address(host: .v4(0x7F00_0001), prefixLength: 8)
    #expect(loopback.filter(\.isRunning).allSatisfy { $0.addresses.contains(home) })
  }

  @Test(
    "New addresses, a lost carrier and a new interface are told, each as the whole new state",
    .enabled(if: AvahiLab.isPossible, AvahiLab.requirement), .timeLimit(.minutes(1)))
  func changes() async throws {
    let lab = try AvahiLab()
    let watch = try #require(makeWatch(inNamespace: lab.networkNamespace))
    var changes = watch.changes.makeAsyncIterator()
    func next(until condition: (LocalInterface) -> Bool) async -> LocalInterface? {
      while let interfaces = await changes.next() {
        if let found = interfaces.first(where: condition) { return found }
      }
      return nil
    }
    let first = LocalInterface.Address(host: .v4(0x0A4E_0001), prefixLength: 24)
    let wired = await next { $0.name == "eth0" && $0.addresses.contains(first) && $0.isRunning }
    #expect(wired?.hasMulticast == true && wired?.isLoopback == false)

    let second = LocalInterface.Address(host: .v4(0x0A4E_0111), prefixLength: 16)
    try lab.run("ip addr add 10.78.1.17/16 dev eth0")
    #expect(await next { $0.name == "eth0" && $0.addresses.contains(second) } != nil)

    try lab.run("on b ip link set eth0 down")
    #expect(await next { $0.name == "eth0" && !$0.isRunning } != nil)
    try lab.run("on b ip link set eth0 up")
    #expect(await next { $0.name == "eth0" && $0.isRunning } != nil)

    try lab.run("ip link add docker0 type veth peer name port && ip addr add 10.9.0.1/30 dev docker0")
    let virtual = try #require(
      await next { $0.name == "docker0" && $0.addresses.map(\.prefixLength) == [30] })
    #expect(InterfaceFilter().skipReason(of: virtual) == .virtual)

    try lab.run("ip addr add fd12:3456::7/48 dev eth0 nodad")
    let unique = LocalInterface.Address(
      host: .v6(high: 0xFD12_3456_0000_0000, low: 7, scope: 0), prefixLength: 48)
    let dual = await next { $0.name == "eth0" && $0.addresses.contains(unique) }
    let linkLocal = dual?.addresses.first { NetworkAddress($0.host, port: 1).isLinkLocal }
    if case .v6(_, _, let scope) = linkLocal?.host { #expect(scope == dual?.index) }
  }

  /// A watch that looks at another network namespace: it looks where the thread that makes it is.
  private func makeWatch(inNamespace path: String) -> InterfaceWatch? {
    let box = WatchBox()
    let isDone = DispatchSemaphore(value: 0)
    Thread {
      if enterNetworkNamespace(path) { box.watch.withLock { $0 = try? InterfaceWatch() } }
      isDone.signal()
    }.start()
    isDone.wait()
    return box.watch.withLock { $0 }
  }

  private final class WatchBox: Sendable {
    let watch = Mutex<InterfaceWatch?>(nil)
  }
}

/// Moves the calling thread into a network namespace; `setns` is in glibc but not in Swift's view of it.
private func enterNetworkNamespace(_ path: String) -> Bool {
  guard let symbol = dlsym(nil, "setns") else { return false }
  typealias SetNamespace = @convention(c) (Int32, Int32) -> Int32
  let setNamespace = unsafeBitCast(symbol, to: SetNamespace.self)
  let descriptor = open(path, O_RDONLY | O_CLOEXEC)
  guard descriptor >= 0 else { return false }
  defer { close(descriptor) }
  let networkNamespaces: Int32 = 0x4000_0000
  return setNamespace(descriptor, networkNamespaces) == 0
}
