/// Which units of a job something has: a bit for each, by number.
package struct UnitSet: Sendable, Hashable {
  /// The most units of a job.
  package static let countLimit = 1 << 27

  /// Units that there are.
  package let count: Int
  /// 64 units a word, the first in the lowest bit; bits behind the last unit are 0.
  package private(set) var words: [UInt64]

  /// No unit of `count`.
  package init(count: Int) {
    precondition(0...Self.countLimit ~= count, "a set of \(count) units")
    self.count = count
    words = Array(repeating: 0, count: (count + 63) / 64)
  }

  /// The given units of `count`.
  package init(count: Int, _ units: some Sequence<Int>) {
    self.init(count: count)
    for unit in units { insert(unit) }
  }

  /// A set from its words; nil when they are not those of a set of `count` units.
  package init?(count: Int, words: [UInt64]) {
    guard 0...Self.countLimit ~= count, words.count == (count + 63) / 64 else { return nil }
    if count % 64 != 0, let last = words.last, last >> UInt64(count % 64) != 0 { return nil }
    self.count = count
    self.words = words
  }

  /// Every one of `count` units.
  package static func all(_ count: Int) -> UnitSet { UnitSet(count: count, 0..<count) }

  /// Whether no unit is in it.
  package var isEmpty: Bool { words.allSatisfy { $0 == 0 } }
  /// Units in it.
  package var members: Int { words.reduce(0) { $0 + $1.nonzeroBitCount } }

  /// Whether a unit is in it.
  package func contains(_ unit: Int) -> Bool {
    0..<count ~= unit && words[unit / 64] >> UInt64(unit % 64) & 1 == 1
  }

  /// Takes a unit in.
  package mutating func insert(_ unit: Int) {
    precondition(0..<count ~= unit, "unit \(unit) of \(count)")
    words[unit / 64] |= 1 << UInt64(unit % 64)
  }

  /// Takes all units of another set in.
  package mutating func formUnion(_ other: UnitSet) { combine(other) { $0 | $1 } }
  /// Leaves the units of another set out.
  package mutating func subtract(_ other: UnitSet) { combine(other) { $0 & ~$1 } }

  /// The units of this set that are not in another one.
  package func subtracting(_ other: UnitSet) -> UnitSet {
    var rest = self
    rest.subtract(other)
    return rest
  }

  /// The units in it, ascending.
  package var units: [Int] {
    var units: [Int] = []
    for (index, word) in words.enumerated() where word != 0 {
      var rest = word
      while rest != 0 {
        units.append(index * 64 + rest.trailingZeroBitCount)
        rest &= rest - 1
      }
    }
    return units
  }

  private mutating func combine(_ other: UnitSet, _ body: (UInt64, UInt64) -> UInt64) {
    precondition(other.count == count, "a set of \(other.count) units and one of \(count)")
    for index in words.indices { words[index] = body(words[index], other.words[index]) }
  }
}
