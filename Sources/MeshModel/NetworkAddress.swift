package import WireCoding

/// Where a device might be reached: an IP address, a port, and for link-local IPv6 the interface.
///
/// An address is a hint and nothing more: who answers there is decided by the handshake.
package struct NetworkAddress: Hashable, Comparable, Sendable, WireCodable {
  /// The address without its port.
  package enum Host: Hashable, Sendable {
    /// IPv4, the first byte uppermost.
    case v4(UInt32)
    /// IPv6 in two words, and the interface's index when the address is link-local (else 0).
    case v6(high: UInt64, low: UInt64, scope: UInt32)
  }

  /// The address without its port.
  package let host: Host
  /// The TCP and UDP port.
  package let port: UInt16

  /// The address with this host and port.
  ///
  /// A scope that does not belong to a link-local address is dropped.
  package init(_ host: Host, port: UInt16) {
    if case .v6(let high, let low, _) = host, !Self.isLinkLocal(high: high) {
      self.host = .v6(high: high, low: low, scope: 0)
    } else {
      self.host = host
    }
    self.port = port
  }

  /// True for fe80::/10 and 169.254.0.0/16: meaningful on one interface of one device only, never told to others.
  package var isLinkLocal: Bool {
    switch host {
    case .v4(let bits): bits >> 16 == 0xA9FE
    case .v6(let high, _, _): Self.isLinkLocal(high: high)
    }
  }

  /// True for 127.0.0.0/8 and ::1.
  package var isLoopback: Bool {
    switch host {
    case .v4(let bits): bits >> 24 == 127
    case .v6(let high, let low, _): high == 0 && low == 1
    }
  }

  private static func isLinkLocal(high: UInt64) -> Bool { high >> 54 == 0xFE80 >> 6 }

  private var sortKey: (UInt8, UInt64, UInt64, UInt64) {
    switch host {
    case .v4(let bits): (4, 0, UInt64(bits), UInt64(port))
    case .v6(let high, let low, let scope): (6, high, low, UInt64(scope) << 16 | UInt64(port))
    }
  }

  /// IPv4 before IPv6, then by address and port: one order on every device.
  package static func < (left: NetworkAddress, right: NetworkAddress) -> Bool {
    left.sortKey < right.sortKey
  }

  /// Reads a family byte (4 or 6), the address and the port; the scope does not travel.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    let family = try reader.integer("address family", as: UInt8.self)
    switch family {
    case 4: host = .v4(try reader.integer("IPv4 address"))
    case 6:
      let high = try reader.integer("IPv6 address", as: UInt64.self)
      host = .v6(high: high, low: try reader.integer("IPv6 address"), scope: 0)
    default: throw .invalid(field: "address family", value: UInt64(family))
    }
    port = try reader.integer("port")
  }

  /// Writes family, address and port.
  package func encode(to writer: inout ByteWriter) {
    switch host {
    case .v4(let bits):
      writer.integer(UInt8(4))
      writer.integer(bits)
    case .v6(let high, let low, _):
      writer.integer(UInt8(6))
      writer.integer(high)
      writer.integer(low)
    }
    writer.integer(port)
  }
}

extension NetworkAddress: CustomStringConvertible {
  /// `192.0.2.1:7946`, `[2001:db8::1]:7946` or `[fe80::1%3]:7946` (RFC 5952 and RFC 4007).
  package var description: String {
    switch host {
    case .v4(let bits):
      let parts = [24, 16, 8, 0].map { String(bits >> UInt32($0) & 255) }
      return "\(parts.joined(separator: ".")):\(port)"
    case .v6(let high, let low, let scope):
      return "[\(Self.text(high: high, low: low))\(scope == 0 ? "" : "%\(scope)")]:\(port)"
    }
  }

  /// RFC 5952: no leading zeros, the longest run of two or more zero groups (the first of equals) as `::`.
  private static func text(high: UInt64, low: UInt64) -> String {
    let groups = [high, low].flatMap { word in [48, 32, 16, 0].map { word >> UInt64($0) & 0xFFFF } }
    var best = 0..<0
    var start = 0
    while start < groups.count {
      var end = start
      while end < groups.count, groups[end] == 0 { end += 1 }
      if end - start > max(best.count, 1) { best = start..<end }
      start = max(end, start + 1)
    }
    func joined(_ part: ArraySlice<UInt64>) -> String {
      part.map { String($0, radix: 16) }.joined(separator: ":")
    }
    if best.isEmpty { return joined(groups[...]) }
    return joined(groups[..<best.lowerBound]) + "::" + joined(groups[best.upperBound...])
  }
}
