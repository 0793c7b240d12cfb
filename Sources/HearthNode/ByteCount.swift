/// A number of bytes, written for people: "512 B", "1.5 MiB", "23.4 GiB".
package struct ByteCount: Sendable, Equatable, CustomStringConvertible {
  /// The number of bytes.
  package var bytes: Int

  /// A number of bytes.
  package init(_ bytes: Int) { self.bytes = bytes }

  private static let units = ["KiB", "MiB", "GiB", "TiB", "PiB"]

  /// At most four significant digits and a binary unit.
  package var description: String {
    guard bytes.magnitude >= 1024 else { return "\(bytes) B" }
    var value = Double(bytes)
    var unit = -1
    while value.magnitude >= 1023.95 && unit < Self.units.count - 1 {
      value /= 1024
      unit += 1
    }
    let tenths = Int((value * 10).rounded())
    return "\(tenths / 10).\(abs(tenths % 10)) \(Self.units[unit])"
  }

  /// Reads "2GiB", "1.5 GB", "512m", "4096": binary units, also when written with their decimal letters.
  ///
  /// Returns nil for anything else, for negative values and for values that do not fit.
  package init?(parsing text: String) {
    let lower = text.lowercased().filter { $0 != " " && $0 != "_" }
    let number = lower.prefix { ($0 >= "0" && $0 <= "9") || $0 == "." }
    guard let value = Double(number), value.isFinite else { return nil }
    let powers = ["": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4]
    var suffix = String(lower.dropFirst(number.count))
    if suffix.count > 1 && suffix.hasSuffix("ib") { suffix.removeLast(2) }
    if suffix.count > 1 && suffix.hasSuffix("b") { suffix.removeLast() }
    guard let power = powers[suffix] else { return nil }
    let bytes = (0..<power).reduce(value) { total, _ in total * 1024 }
    guard bytes >= 0, bytes < 0x1p62 else { return nil }
    self.bytes = Int(bytes)
  }
}
