/// Decomposes text canonically (Unicode Standard Annex #15, form NFD).
package struct CanonicalDecomposition: Sendable {
  private var stepByScalar: [UInt32: (first: UInt32, second: UInt32?)] = [:]

  /// Reads the table; about a millisecond, once a tokenizer.
  package init() {
    for entry in CanonicalDecompositionTable.text.split(separator: " ") {
      let sides = entry.split(separator: "=")
      let targets = sides[1].split(separator: "+").compactMap { UInt32($0, radix: 16) }
      guard let scalar = UInt32(sides[0], radix: 16), (1...2).contains(targets.count) else {
        preconditionFailure("the table's entry \(entry) is not scalar=first+second")
      }
      stepByScalar[scalar] = (targets[0], targets.count == 2 ? targets[1] : nil)
    }
  }

  /// The scalars of `text` decomposed, combining marks in canonical order.
  package func decompose(_ text: [Unicode.Scalar]) -> [Unicode.Scalar] {
    var result: [Unicode.Scalar] = []
    result.reserveCapacity(text.count)
    for scalar in text { append(scalar.value, to: &result) }
    Self.orderMarks(&result)
    return result
  }

  private func append(_ value: UInt32, to result: inout [Unicode.Scalar]) {
    if let step = stepByScalar[value] {
      append(step.first, to: &result)
      if let second = step.second { append(second, to: &result) }
    } else if let syllable = Self.hangul(value) {
      result += syllable
    } else if let scalar = Unicode.Scalar(value) {
      result.append(scalar)
    }
  }

  /// The letters of a Hangul syllable block, which follow from its place (Unicode Standard, section 3.12).
  private static func hangul(_ value: UInt32) -> [Unicode.Scalar]? {
    let (leadBase, vowelBase, tailBase) = (UInt32(0x1100), UInt32(0x1161), UInt32(0x11A7))
    let (vowels, tails) = (UInt32(21), UInt32(28))
    guard (0xAC00...0xD7A3).contains(value) else { return nil }
    let index = value - 0xAC00
    var letters = [leadBase + index / (vowels * tails), vowelBase + index % (vowels * tails) / tails]
    if index % tails != 0 { letters.append(tailBase + index % tails) }
    return letters.compactMap(Unicode.Scalar.init)
  }

  /// Sorts each run of combining marks by class, equal classes in the order of the text.
  private static func orderMarks(_ scalars: inout [Unicode.Scalar]) {
    var start = 0
    while start < scalars.count {
      guard scalars[start].value > 0x2FF, combiningClass(scalars[start]) != 0 else {
        start += 1
        continue
      }
      var end = start
      while end < scalars.count, combiningClass(scalars[end]) != 0 { end += 1 }
      if end - start > 1 {
        let run = scalars[start..<end].enumerated().sorted {
          (combiningClass($0.element), $0.offset) < (combiningClass($1.element), $1.offset)
        }
        scalars.replaceSubrange(start..<end, with: run.map(\.element))
      }
      start = end
    }
  }

  private static func combiningClass(_ scalar: Unicode.Scalar) -> UInt8 {
    scalar.properties.canonicalCombiningClass.rawValue
  }
}
