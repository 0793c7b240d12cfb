package import MeshModel

/// A network interface of this device, as the system describes it.
package struct LocalInterface: Hashable, Sendable {
  /// An address of the interface and how many of its bits name the network.
  package struct Address: Hashable, Comparable, Sendable {
    /// The address; link-local IPv6 with the interface's index as scope.
    package let host: NetworkAddress.Host
    /// Bits of the network's part.
    package let prefixLength: UInt8

    /// An address with its prefix.
    package init(host: NetworkAddress.Host, prefixLength: UInt8) {
      self.host = host
      self.prefixLength = prefixLength
    }

    /// By address, then by prefix.
    package static func < (left: Address, right: Address) -> Bool {
      (NetworkAddress(left.host, port: 0), left.prefixLength)
        < (NetworkAddress(right.host, port: 0), right.prefixLength)
    }

    /// The directed broadcast address (RFC 919) of an IPv4 network of at most 30 bits; nil otherwise.
    package var broadcast: UInt32? {
      guard case .v4(let bits) = host, (1...30).contains(prefixLength) else { return nil }
      return bits | (UInt32.max >> UInt32(prefixLength))
    }
  }

  /// The system's name: `eth0`, `wlan0`.
  package let name: String
  /// The system's number.
  package let index: UInt32
  /// Its addresses, in order.
  package let addresses: [Address]
  /// Whether it is up and has a carrier.
  package let isRunning: Bool
  /// Whether it can send to groups.
  package let hasMulticast: Bool
  /// Whether it is the loopback.
  package let isLoopback: Bool
  /// Whether it is wireless.
  package let isWireless: Bool

  /// An interface.
  package init(
    name: String, index: UInt32, addresses: [Address], isRunning: Bool, hasMulticast: Bool, isLoopback: Bool,
    isWireless: Bool
  ) {
    self.name = name
    self.index = index
    self.addresses = addresses.sorted()
    self.isRunning = isRunning
    self.hasMulticast = hasMulticast
    self.isLoopback = isLoopback
    self.isWireless = isWireless
  }
}

/// Decides on which interfaces a household is looked for.
///
/// By name, not by driver: inside a network namespace or a container the home's network is a virtual device too.
package struct InterfaceFilter: Hashable, Sendable {
  /// Why an interface is not used; the raw values are stable and documented.
  package enum SkipReason: String, Hashable, Sendable, CaseIterable {
    /// It is down or has no carrier.
    case notRunning = "not-running"
    /// It is the loopback.
    case loopback = "loopback"
    /// It cannot send to groups.
    case noMulticast = "no-multicast"
    /// It has no address yet.
    case noAddress = "no-address"
    /// It leads to containers or virtual machines of this device.
    case virtual = "virtual"
    /// It is a tunnel to somewhere else.
    case tunnel = "tunnel"
    /// There are more interfaces than are used.
    case overLimit = "over-limit"

    /// What the person can do about it, in one line.
    package var nextStep: String {
      switch self {
      case .notRunning: "plug it in, or connect it to the network"
      case .loopback: "nothing to do: it reaches only this device"
      case .noMulticast: "list the other devices' addresses by hand; announcements do not pass here"
      case .noAddress: "wait for an address, or look at the network's router"
      case .virtual, .tunnel: "if the household's devices are reached through it, list it by name"
      case .overLimit: "list the interfaces that matter by name"
      }
    }
  }

  /// Interfaces that the person named: used whatever their name is.
  package let listed: [String]

  /// A filter that also uses the interfaces that are listed.
  package init(listed: [String] = []) { self.listed = listed.sorted() }

  private static let virtualNames = [
    "docker", "br-", "veth", "virbr", "vnet", "vmnet", "vboxnet", "podman", "cni", "flannel", "cali", "lxc",
    "lxdbr", "dummy", "ifb",
  ]
  private static let tunnelNames = [
    "tun", "tap", "wg", "tailscale", "zt", "ppp", "nordlynx", "sit", "gre", "ip6tnl", "ipip", "vti",
  ]

  /// Why an interface is not used; nil when it is.
  package func skipReason(of interface: LocalInterface) -> SkipReason? {
    if interface.isLoopback { return .loopback }
    if !listed.contains(interface.name) {
      if Self.virtualNames.contains(where: interface.name.hasPrefix) { return .virtual }
      if Self.tunnelNames.contains(where: interface.name.hasPrefix) { return .tunnel }
    }
    if !interface.isRunning { return .notRunning }
    if !interface.hasMulticast { return .noMulticast }
    if interface.addresses.isEmpty { return .noAddress }
    return nil
  }

  /// The interfaces that are used, by index, listed ones before the others when there are too many.
  package func usable(_ interfaces: [LocalInterface]) -> [LocalInterface] {
    let good = interfaces.filter { skipReason(of: $0) == nil }
    let ranked = good.sorted {
      let left = (listed.contains($0.name) ? 0 : 1, $0.index)
      return left < (listed.contains($1.name) ? 0 : 1, $1.index)
    }
    return ranked.prefix(DiscoveryLimits.interfaces).sorted { $0.index < $1.index }
  }

  /// Every interface with the reason why it is not used, by index; nil for those that are.
  package func report(_ interfaces: [LocalInterface]) -> [(interface: LocalInterface, skip: SkipReason?)] {
    let used = Set(usable(interfaces).map(\.index))
    return interfaces.sorted { $0.index < $1.index }.map { interface in
      (interface, skipReason(of: interface) ?? (used.contains(interface.index) ? nil : .overLimit))
    }
  }
}
