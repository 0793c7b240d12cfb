// Avahi's headers bring in <poll.h>, which the Glibc module leaves out.
import CAvahi
import Glibc
import MeshModel
package import PeerDiscovery

/// Tells the interfaces of this device, at once and after every change, as the kernel reports it (rtnetlink).
///
/// The kernel's messages only say that something changed; what there is now is read anew, so that a lost message
/// loses nothing. A burst of changes gives one report.
package final class InterfaceWatch: Sendable {
  /// Interfaces that are looked at.
  package static let interfaceLimit = 256
  /// Addresses that are taken from an interface.
  package static let addressLimit = 32
  /// How long the kernel must be silent before a change is reported, and the longest that it is waited for, in ms.
  private static let (quiet, patience): (Int32, Int64) = (100, 500)

  /// The interfaces, each time all of them; only the newest report waits to be fetched.
  ///
  /// For one consumer.
  package let changes: AsyncStream<[LocalInterface]>
  private let pipe: WakePipe
  private let socket: Int32
  private let thread: pthread_t

  /// Why the kernel cannot be watched.
  package enum Failure: Error, Hashable, Sendable, CustomStringConvertible {
    /// A call to the system failed.
    case system(call: String, code: Int32)

    /// What failed, why, and what to do.
    package var description: String {
      switch self {
      case .system(let call, let code):
        "\(call) failed with error \(code); changes of the network are not noticed until the next start"
      }
    }
  }

  /// Starts to watch the network namespace of the calling thread.
  package init() throws(Failure) {
    let routes: Int32 = 0  // NETLINK_ROUTE
    let type = Int32(SOCK_RAW.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue)
    let netlink = Glibc.socket(AF_NETLINK, type, routes)
    guard netlink >= 0 else { throw .system(call: "opening a netlink socket", code: errno) }
    var address = NetlinkAddress(groups: 0x1 | 0x10 | 0x100)  // links, IPv4 and IPv6 addresses
    let bound = withUnsafeMutableBytes(of: &address) { bytes -> Int32 in
      guard let base = bytes.baseAddress else { return -1 }
      return bind(netlink, base.assumingMemoryBound(to: sockaddr.self), socklen_t(bytes.count))
    }
    guard bound == 0 else {
      let code = errno
      close(netlink)
      throw .system(call: "joining the netlink groups", code: code)
    }
    guard let pipe = WakePipe() else {
      let code = errno
      close(netlink)
      throw .system(call: "making a pipe", code: code)
    }
    let (changes, output) = AsyncStream.makeStream(
      of: [LocalInterface].self, bufferingPolicy: .bufferingNewest(1))
    let waiting = Waiting(netlink: netlink, stop: pipe.readEnd)
    let started = startThread(isDetached: false) {
      waiting.run(output)
      output.finish()
    }
    guard let started else {
      close(netlink)
      throw .system(call: "starting a thread", code: EAGAIN)
    }
    self.pipe = pipe
    self.changes = changes
    socket = netlink
    thread = started
  }

  deinit {
    // The thread uses both descriptors until it has ended; it looks at the pipe at once.
    pipe.wake()
    pthread_join(thread, nil)
    close(socket)
  }

  /// The interfaces as they are now.
  package static func current() -> [LocalInterface] { readInterfaces() }

  /// The watching thread's part.
  private struct Waiting: Sendable {
    let netlink: Int32
    let stop: Int32

    func run(_ output: AsyncStream<[LocalInterface]>.Continuation) {
      var last = readInterfaces()
      output.yield(last)
      while waitForQuiet() {
        let now = readInterfaces()
        if now != last { output.yield(now) }
        last = now
      }
    }

    /// Waits for a change and then until no more follow; false when it is time to end.
    private func waitForQuiet() -> Bool {
      var waited: Int64?
      while true {
        var descriptors = [
          pollfd(fd: netlink, events: Int16(POLLIN), revents: 0),
          pollfd(fd: stop, events: Int16(POLLIN), revents: 0),
        ]
        let count = poll(&descriptors, 2, waited == nil ? -1 : InterfaceWatch.quiet)
        if count < 0 && errno == EINTR { continue }
        if count < 0 || descriptors[1].revents != 0 { return false }
        if count == 0 { return true }
        drain()
        waited = (waited ?? 0) + Int64(InterfaceWatch.quiet)
        if let waited, waited > InterfaceWatch.patience { return true }
      }
    }

    /// Reads all messages; an overrun (ENOBUFS) is a change like any other.
    private func drain() {
      var bytes = [UInt8](repeating: 0, count: 8192)
      while recv(netlink, &bytes, bytes.count, 0) > 0 {}
    }
  }
}

/// The kernel's `sockaddr_nl`, whose header Swift does not see.
private struct NetlinkAddress {
  var family = UInt16(AF_NETLINK)
  var padding: UInt16 = 0
  /// 0: the kernel chooses.
  var port: UInt32 = 0
  var groups: UInt32
}

/// Reads all interfaces with their addresses, by index.
private func readInterfaces() -> [LocalInterface] {
  var first: UnsafeMutablePointer<ifaddrs>?
  guard getifaddrs(&first) == 0 else { return [] }
  defer { freeifaddrs(first) }
  var flags: [String: UInt32] = [:]
  var addresses: [String: [LocalInterface.Address]] = [:]
  var entry = first
  while let current = entry?.pointee {
    entry = current.ifa_next
    let name = String(cString: current.ifa_name)
    guard flags[name] != nil || flags.count < InterfaceWatch.interfaceLimit else { continue }
    flags[name] = current.ifa_flags
    guard let host = host(current.ifa_addr), let mask = current.ifa_netmask else { continue }
    if addresses[name, default: []].count < InterfaceWatch.addressLimit {
      addresses[name, default: []].append(
        LocalInterface.Address(host: host, prefixLength: prefixLength(mask)))
    }
  }
  func has(_ flag: Int, _ flags: UInt32) -> Bool { flags & UInt32(flag) != 0 }
  return flags.compactMap { name, flags -> LocalInterface? in
    let index = if_nametoindex(name)
    guard index != 0 else { return nil }
    return LocalInterface(
      name: name, index: index, addresses: addresses[name] ?? [],
      isRunning: has(IFF_UP, flags) && has(IFF_RUNNING, flags),
      hasMulticast: has(IFF_MULTICAST, flags),
      isLoopback: has(IFF_LOOPBACK, flags), isWireless: isWireless(name))
  }.sorted { $0.index < $1.index }
}

/// Whether the kernel keeps wireless state for an interface.
private func isWireless(_ name: String) -> Bool {
  ["wireless", "phy80211"].contains { access("/sys/class/net/\(name)/\($0)", F_OK) == 0 }
}

private func host(_ address: UnsafeMutablePointer<sockaddr>?) -> NetworkAddress.Host? {
  guard let address else { return nil }
  switch Int32(address.pointee.sa_family) {
  case AF_INET:
    return address.withMemoryRebound(to: sockaddr_in.self, capacity: 1) {
      .v4(UInt32(bigEndian: $0.pointee.sin_addr.s_addr))
    }
  case AF_INET6:
    return address.withMemoryRebound(to: sockaddr_in6.self, capacity: 1) { pointer in
      let bytes = withUnsafeBytes(of: pointer.pointee.sin6_addr) { Array($0) }
      func word(_ part: ArraySlice<UInt8>) -> UInt64 { part.reduce(0) { $0 << 8 | UInt64($1) } }
      let (high, low) = (word(bytes[..<8]), word(bytes[8...]))
      // The scope counts only for link-local addresses, as in `NetworkAddress`.
      return NetworkAddress(.v6(high: high, low: low, scope: pointer.pointee.sin6_scope_id), port: 0).host
    }
  default: return nil
  }
}

/// The leading ones of a netmask, whose family byte glibc may leave out.
private func prefixLength(_ mask: UnsafeMutablePointer<sockaddr>) -> UInt8 {
  switch Int32(mask.pointee.sa_family) {
  case AF_INET6:
    return mask.withMemoryRebound(to: sockaddr_in6.self, capacity: 1) { pointer in
      withUnsafeBytes(of: pointer.pointee.sin6_addr) { UInt8($0.reduce(0) { $0 + $1.nonzeroBitCount }) }
    }
  default:
    return mask.withMemoryRebound(to: sockaddr_in.self, capacity: 1) {
      UInt8($0.pointee.sin_addr.s_addr.nonzeroBitCount)
    }
  }
}
