package import CryptoPrimitives
package import MeshModel
import WireCoding

/// Who signs an entry of the membership log.
package enum EntryIssuer: Hashable, Comparable, Sendable, CustomStringConvertible {
  /// The household's root key.
  case root
  /// A device, which must have been an admin (or removes itself).
  case device(DeviceID)

  /// `root` or the device.
  package var description: String {
    switch self {
    case .root: "root"
    case .device(let device): "\(device)"
    }
  }

  /// The root first, then devices in their order.
  package static func < (left: EntryIssuer, right: EntryIssuer) -> Bool {
    switch (left, right) {
    case (.root, .device): true
    case (.device(let one), .device(let other)): one < other
    case (_, .root): false
    }
  }

  func encode(to writer: inout ByteWriter) {
    switch self {
    case .root: writer.integer(UInt8(0))
    case .device(let device):
      writer.integer(UInt8(1))
      device.encode(to: &writer)
    }
  }

  init(from reader: inout ByteReader) throws(DecodingFailure) {
    let kind = try reader.integer("issuer", as: UInt8.self)
    switch kind {
    case 0: self = .root
    case 1: self = .device(try DeviceID(from: &reader))
    default: throw .invalid(field: "issuer", value: UInt64(kind))
    }
  }
}

/// One place in an issuer's chain of entries: the entry's number and its digest.
///
/// Because every entry names its predecessor's digest, a point stands for the whole chain up to it: nobody can put
/// another entry before it afterwards, not even with the issuer's key.
package struct ChainPoint: Hashable, Comparable, Sendable {
  /// The entry's number, from 1; 0 stands before the first entry.
  package let sequence: UInt32
  /// The entry's digest; the genesis's at number 0.
  package let digest: ContentDigest

  /// The place of the entry with this number and digest.
  package init(sequence: UInt32, digest: ContentDigest) {
    self.sequence = sequence
    self.digest = digest
  }

  /// By number, then by digest.
  package static func < (left: ChainPoint, right: ChainPoint) -> Bool {
    (left.sequence, left.digest) < (right.sequence, right.digest)
  }

  func encode(to writer: inout ByteWriter) {
    writer.integer(sequence)
    writer.raw(digest.bytes)
  }

  init(from reader: inout ByteReader) throws(DecodingFailure) {
    sequence = try reader.integer("chain sequence")
    digest = try readDigest(&reader, "chain digest")
  }
}

/// What every entry starts with: whose household, which issuer, and where in the issuer's chain.
struct EntryHeader: Hashable, Sendable {
  static let formatVersion: UInt8 = 1
  /// What a signature of an entry is over, before the entry's own bytes.
  static let domain = "hearth membership entry 1"

  let household: HouseholdID
  let issuer: EntryIssuer
  /// The issuer's running number, from 1.
  let sequence: UInt32
  /// The digest of the issuer's entry before, or of the genesis for the first.
  let previous: ContentDigest

  /// The header of the issuer's next entry after a place of its chain.
  init(household: HouseholdID, issuer: EntryIssuer, after last: ChainPoint) {
    precondition(last.sequence < .max, "no entry follows number \(last.sequence)")
    self.init(household: household, issuer: issuer, sequence: last.sequence + 1, previous: last.digest)
  }

  private init(household: HouseholdID, issuer: EntryIssuer, sequence: UInt32, previous: ContentDigest) {
    self.household = household
    self.issuer = issuer
    self.sequence = sequence
    self.previous = previous
  }

  func encode(kind: UInt8, to writer: inout ByteWriter) {
    writer.integer(Self.formatVersion)
    writer.integer(kind)
    household.encode(to: &writer)
    issuer.encode(to: &writer)
    writer.integer(sequence)
    writer.raw(previous.bytes)
  }

  /// Reads the header and the entry's kind.
  static func read(
    from reader: inout ByteReader
  ) throws(DecodingFailure) -> (kind: UInt8, header: EntryHeader) {
    try readFormatVersion(&reader, "entry version", formatVersion)
    let kind = try reader.integer("entry kind", as: UInt8.self)
    let household = try HouseholdID(from: &reader)
    let issuer = try EntryIssuer(from: &reader)
    let sequence = try reader.integer("issuer sequence", as: UInt32.self)
    guard sequence > 0 else { throw .invalid(field: "issuer sequence", value: 0) }
    let previous = try readDigest(&reader, "previous entry")
    return (
      kind, EntryHeader(household: household, issuer: issuer, sequence: sequence, previous: previous)
    )
  }
}
