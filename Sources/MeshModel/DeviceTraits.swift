package import WireCoding

/// What a device tells the household about itself: enough to suggest a leader and to show in `hearth peers`.
package struct DeviceTraits: Hashable, Sendable, WireCodable {
  /// Longest version text, in bytes of UTF-8.
  package static let versionLimit = 24

  /// How the device is powered.
  package enum Power: UInt8, Hashable, Sendable, CaseIterable {
    case unknown = 0
    case mains = 1
    case battery = 2
  }

  /// How the device is attached to the network.
  package enum Attachment: UInt8, Hashable, Sendable, CaseIterable {
    case unknown = 0
    case wired = 1
    case wireless = 2
  }

  /// How the device is powered.
  package var power: Power
  /// How the device is attached.
  package var attachment: Attachment
  /// Cores that training may use.
  package var cores: UInt16
  /// Memory in MiB.
  package var memoryMebibytes: UInt32
  /// Whether its person lets the household use it.
  package private(set) var isAvailable: Bool
  /// Whether it takes no part for a while, and will again; such a device is not available.
  package private(set) var isPaused: Bool
  /// Wire versions that it speaks.
  package var wireVersions: WireVersions
  /// The version of Hearth that runs there: at most `versionLimit` characters of plain ASCII.
  package var version: String

  /// On the wire: 0 keeps the device out for good.
  private static let available: UInt8 = 1
  private static let paused: UInt8 = 2

  /// The traits of a device.
  package init(
    power: Power, attachment: Attachment, cores: UInt16, memoryMebibytes: UInt32, isAvailable: Bool,
    isPaused: Bool = false, wireVersions: WireVersions, version: String
  ) {
    precondition(Self.isVersion(version), "version '\(version)' is too long, or no plain ASCII")
    self.power = power
    self.attachment = attachment
    self.cores = cores
    self.memoryMebibytes = memoryMebibytes
    self.isAvailable = isAvailable && !isPaused
    self.isPaused = isPaused
    self.wireVersions = wireVersions
    self.version = version
  }

  /// Reads the traits; values of later versions count as unknown.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    power = Power(rawValue: try reader.integer("power")) ?? .unknown
    attachment = Attachment(rawValue: try reader.integer("attachment")) ?? .unknown
    cores = try reader.integer("cores")
    memoryMebibytes = try reader.integer("memory")
    let sharing = try reader.integer("sharing", as: UInt8.self)
    guard sharing <= Self.paused else { throw .invalid(field: "sharing", value: UInt64(sharing)) }
    isAvailable = sharing == Self.available
    isPaused = sharing == Self.paused
    wireVersions = try WireVersions(from: &reader)
    version = try reader.text("version", limit: Self.versionLimit)
    guard Self.isVersion(version) else {
      throw .invalid(field: "version", value: UInt64(version.utf8.count))
    }
  }

  // Shown on terminals, so nothing that moves a cursor.
  private static func isVersion(_ text: String) -> Bool {
    text.utf8.count <= versionLimit && text.utf8.allSatisfy { (0x20...0x7E).contains($0) }
  }

  /// Writes the traits.
  package func encode(to writer: inout ByteWriter) {
    writer.integer(power.rawValue)
    writer.integer(attachment.rawValue)
    writer.integer(cores)
    writer.integer(memoryMebibytes)
    writer.integer(isPaused ? Self.paused : isAvailable ? Self.available : 0)
    wireVersions.encode(to: &writer)
    writer.text(version)
  }
}
