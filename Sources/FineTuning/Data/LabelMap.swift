/// The classes of a classification, in the order of their indices.
package struct LabelMap: Sendable, Equatable {
  /// Names by index: in numeric order when all are integers, otherwise by their UTF-8 bytes.
  package let names: [String]
  private let indices: [String: Int]

  /// More classes than this look like scores or free text.
  package static let classLimit = 1_000

  /// The distinct labels of the rows.
  package init(of examples: [LabelledText]) throws(DataFailure) {
    let labels = examples.compactMap(\.label)
    precondition(labels.count == examples.count, "a row was read without its label")
    let distinct = Set(labels)
    if distinct.count < 2 { throw .oneLabel(label: labels.first ?? "", rows: labels.count) }
    let limit = max(2, min(Self.classLimit, labels.count / 2))
    if distinct.count > limit {
      throw .tooManyLabels(count: distinct.count, rows: labels.count, limit: limit)
    }
    self.init(names: Self.ordered(distinct))
  }

  /// Classes in the given order, for instance those of a saved adapter.
  ///
  /// The names must differ; whoever reads them from a file checks that first.
  package init(names: [String]) {
    self.names = names
    indices = Dictionary(uniqueKeysWithValues: names.enumerated().map { ($1, $0) })
  }

  /// Number of classes.
  package var count: Int { names.count }

  /// The index of a class, nil when it is none of these.
  package func index(of label: String) -> Int? { indices[label] }

  /// The indices of the rows' labels.
  package func indices(of examples: [LabelledText]) throws(DataFailure) -> [Int32] {
    var result: [Int32] = []
    result.reserveCapacity(examples.count)
    for example in examples {
      let label = example.label ?? ""
      guard let index = indices[label] else {
        throw .unknownLabel(label: label, row: example.row, known: names)
      }
      result.append(Int32(index))
    }
    return result
  }

  private static func ordered(_ labels: Set<String>) -> [String] {
    let byBytes = labels.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
    let numbers = byBytes.compactMap { Int($0) }
    guard numbers.count == byBytes.count else { return byBytes }
    // "1" and "01" are equal numbers and different labels, hence the place as a second key.
    return byBytes.indices.sorted { (numbers[$0], $0) < (numbers[$1], $1) }.map { byBytes[$0] }
  }
}

/// The number that a label writes, if it is finite in float32.
func targetValue(_ label: String) -> Float? {
  guard let number = finiteNumber(label), Float(number).isFinite else { return nil }
  return Float(number)
}

/// The scores of rows that were read with `LabelKind.number`.
package func regressionTargets(of examples: [LabelledText]) -> [Float] {
  examples.map { example in
    guard let label = example.label, let target = targetValue(label) else {
      preconditionFailure("row \(example.row) was read without a finite number for its label")
    }
    return target
  }
}
