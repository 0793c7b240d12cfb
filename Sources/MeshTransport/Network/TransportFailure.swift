import Glibc
package import MeshModel

/// Why a transport cannot start.
package enum TransportFailure: Error, Equatable, Sendable, CustomStringConvertible {
  /// The port is in use, or may not be used.
  case portUnavailable(NetworkAddress, code: Int32)
  /// No port is free on all addresses at once.
  case noCommonPort(tries: Int)

  /// What is wrong, where, and the next step.
  package var description: String {
    switch self {
    case .portUnavailable(let address, let code):
      "cannot listen at \(address): \(String(cString: strerror(code))); "
        + "stop what uses the port, or choose another one"
    case .noCommonPort(let tries):
      "no port was free for TCP and UDP on all addresses in \(tries) tries; choose a port yourself"
    }
  }
}

/// What a transport over the network is started with.
package struct TransportConfiguration: Sendable {
  /// The addresses to listen at; those that the machine does not have are left out, but not all of them.
  package var hosts: [NetworkAddress.Host] = [.v4(0), .v6(high: 0, low: 0, scope: 0)]
  /// The port for TCP and UDP; 0 takes a free one.
  package var port: UInt16 = 0
  /// This start of the daemon.
  package var boot: BootID
  /// The wire versions that are offered.
  package var versions = WireVersions.current
  /// The bounds.
  package var limits = TransportLimits()
  /// The times.
  package var timing = TransportTiming()

  /// A configuration for this start of the daemon.
  package init(boot: BootID) {
    self.boot = boot
  }
}
