package import MeshModel
package import WireCoding

/// The link from one device to another, as it was measured or taken from another device's measurement.
package struct DeviceLink: Hashable, Sendable, WireCodable {
  /// The longest round trip that is told: what takes longer is this slow.
  package static let longestRoundTrip: Duration = .seconds(60)

  /// The device at its other end.
  package let device: DeviceID
  /// Payload that arrives there each second, in bytes; at least 1.
  package let bytesPerSecond: UInt64
  /// How long a word takes there and back.
  package let roundTrip: Duration

  /// A link; values out of range become the nearest ones that are in it.
  package init(to device: DeviceID, bytesPerSecond: UInt64, roundTrip: Duration) {
    self.device = device
    self.bytesPerSecond = max(1, bytesPerSecond)
    self.roundTrip = min(max(.zero, roundTrip), Self.longestRoundTrip)
  }

  /// This link, continued by one from its other end: as fast as the slower one, and as far as both.
  package func continued(by next: DeviceLink) -> DeviceLink {
    DeviceLink(
      to: next.device, bytesPerSecond: min(bytesPerSecond, next.bytesPerSecond),
      roundTrip: roundTrip + next.roundTrip)
  }

  /// Reads 32 bytes.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    let device = try DeviceID(from: &reader)
    let rate = try reader.integer("bytes a second of a link", as: UInt64.self)
    guard rate > 0 else { throw .invalid(field: "bytes a second of a link", value: 0) }
    let nanoseconds = try reader.integer("round trip of a link", as: UInt64.self)
    guard nanoseconds <= UInt64(Self.longestRoundTrip.components.seconds) * 1_000_000_000 else {
      throw .invalid(field: "round trip of a link", value: nanoseconds)
    }
    self.init(to: device, bytesPerSecond: rate, roundTrip: .nanoseconds(Int64(nanoseconds)))
  }

  /// Writes device, bytes a second and nanoseconds of the round trip.
  package func encode(to writer: inout ByteWriter) {
    device.encode(to: &writer)
    writer.integer(bytesPerSecond)
    let (seconds, attoseconds) = roundTrip.components
    writer.integer(UInt64(seconds) * 1_000_000_000 + UInt64(attoseconds / 1_000_000_000))
  }
}
