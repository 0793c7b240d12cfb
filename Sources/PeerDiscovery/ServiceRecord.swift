/// What a daemon says of itself in multicast DNS: the strings of its TXT record (RFC 6763 §6).
///
/// `v=1`, `ht=` household tag, `iid=` instance, `pm=` 1 while an invitation is open, `d=` its discriminator.
package struct ServiceRecord: Hashable, Sendable {
  /// The service type (RFC 6763 §7).
  package static let serviceType = "_hearth-mesh._tcp"
  /// Most bytes of a whole record, its length bytes counted: larger ones may never resolve elsewhere.
  package static let byteLimit = 200
  /// Most bytes of a record that is read at all.
  package static let readLimit = 1300
  /// Most strings of a record that is read at all.
  package static let entryLimit = 32
  private static let version = "1"

  /// The household, as members and past members know it in this epoch.
  package let householdTag: UInt64
  /// The announcing daemon.
  package let instance: InstanceTag
  /// The discriminator of the open invitation; nil when there is none.
  package let pairing: UInt16?

  /// A record.
  package init(householdTag: UInt64, instance: InstanceTag, pairing: UInt16? = nil) {
    precondition((pairing ?? 0) <= Beacon.discriminatorLimit, "discriminator \(pairing ?? 0)")
    self.householdTag = householdTag
    self.instance = instance
    self.pairing = pairing
  }

  /// Why a TXT record is not one of Hearth's.
  package enum Failure: Error, Hashable, Sendable, CustomStringConvertible {
    /// The record is longer than any daemon makes it.
    case tooLong(bytes: Int, entries: Int)
    /// A key that must be there is missing.
    case missing(key: String)
    /// A key has a value that means nothing.
    case invalid(key: String)
    /// The record is of a version that is not known here.
    case otherVersion

    /// What is wrong with the record.
    package var description: String {
      switch self {
      case .tooLong(let bytes, let entries):
        "a TXT record of \(bytes) bytes in \(entries) strings; at most \(readLimit) in \(entryLimit) are read"
      case .missing(let key): "the TXT record has no '\(key)='; another program may use the service type"
      case .invalid(let key): "the TXT record's '\(key)=' has a value that means nothing"
      case .otherVersion: "the TXT record is of another version; update Hearth on the older device"
      }
    }
  }

  /// Reads the strings of a TXT record, in any order; keys ignore case, the first of equals counts, unknown
  /// ones are skipped (RFC 6763 §6.4).
  package init(strings: [[UInt8]]) throws(Failure) {
    let bytes = strings.reduce(0) { $0 + 1 + $1.count }
    guard bytes <= Self.readLimit, strings.count <= Self.entryLimit else {
      throw .tooLong(bytes: bytes, entries: strings.count)
    }
    func value(_ key: String) throws(Failure) -> String? {
      for string in strings {
        guard let separator = string.firstIndex(of: UInt8(ascii: "=")), separator == key.utf8.count,
          String(decoding: string[..<separator], as: UTF8.self).lowercased() == key
        else { continue }
        guard let text = String(validating: string[(separator + 1)...], as: UTF8.self) else {
          throw .invalid(key: key)
        }
        return text
      }
      return nil
    }
    func required(_ key: String) throws(Failure) -> String {
      guard let text = try value(key) else { throw .missing(key: key) }
      return text
    }
    guard try required("v") == Self.version else { throw .otherVersion }
    guard let tag = fixedHexadecimal(try required("ht")) else { throw .invalid(key: "ht") }
    guard let instance = InstanceTag(text: try required("iid")) else { throw .invalid(key: "iid") }
    householdTag = tag
    self.instance = instance
    switch try value("pm") {
    case nil, "0": pairing = nil
    case "1":
      let digits = try required("d")
      guard digits.utf8.count <= 4, digits.utf8.allSatisfy({ (0x30...0x39).contains($0) }),
        let discriminator = UInt16(digits), discriminator <= Beacon.discriminatorLimit
      else { throw .invalid(key: "d") }
      pairing = discriminator
    default: throw .invalid(key: "pm")
    }
  }

  /// The strings to publish.
  package var strings: [[UInt8]] {
    var texts = ["v=\(Self.version)", "ht=\(fixedHexadecimal(householdTag))", "iid=\(instance)"]
    if let pairing { texts += ["pm=1", "d=\(pairing)"] } else { texts.append("pm=0") }
    return texts.map { Array($0.utf8) }
  }
}
