/// A column as people name it.
package enum ColumnReference: Sendable, Equatable, CustomStringConvertible {
  /// The column with this name in the header (or this key of a JSON object).
  case name(String)
  /// The column at this place, counted from 1.
  case position(Int)

  /// Digits are a position, everything else is a name.
  package init(_ argument: String) {
    if let position = Int(argument), position > 0, argument.utf8.allSatisfy({ (48...57).contains($0) }) {
      self = .position(position)
    } else {
      self = .name(argument)
    }
  }

  /// As a person would write it.
  package var description: String {
    switch self {
    case .name(let name): name
    case .position(let position): String(position)
    }
  }
}

/// Which columns a person asked for; nil leaves a column to the usual names and to what the rows look like.
///
/// A pair is looked for only when the text is left open as well: whoever names the text column alone means
/// single texts.
package struct ColumnSelection: Sendable, Equatable {
  /// The text, or the first text of a pair.
  package var text: ColumnReference?
  /// The second text of a pair.
  package var pair: ColumnReference?
  /// The class or the score.
  package var label: ColumnReference?

  /// A selection; by default everything is left open.
  package init(
    text: ColumnReference? = nil, pair: ColumnReference? = nil, label: ColumnReference? = nil
  ) {
    self.text = text
    self.pair = pair
    self.label = label
  }
}

/// The columns that a file is read by: 0-based indices and what to call them in messages.
package struct ResolvedColumns: Sendable, Equatable {
  /// Index of the text, or of the first text of a pair.
  package var text: Int
  /// Index of the second text of a pair.
  package var pair: Int?
  /// Index of the class or score; nil when labels are not read.
  package var label: Int?
  /// All columns, as the header or the JSON keys name them, or "column N".
  package var names: [String]

  /// What one of the columns is called.
  package func name(_ index: Int) -> String {
    index < names.count ? names[index] : "column \(index + 1)"
  }
}

/// Decides the columns of one file from what was asked for, the names it has, and a sample of its rows.
struct ColumnResolver {
  let fileName: String
  /// All columns of the file.
  let names: [String]
  /// True when `names` come from the file and can be asked for.
  let isNamed: Bool
  /// The first rows, decoded, each with as many cells as there are names.
  let sample: [[String]]
  let labels: LabelKind

  /// Names that come in pairs in published sets: GLUE, MRPC, QQP, MNLI and SNLI, QNLI, PAWS.
  static let usualPairs = [
    ("sentence1", "sentence2"), ("s1", "s2"), ("#1 string", "#2 string"), ("text1", "text2"),
    ("text_a", "text_b"), ("question1", "question2"), ("premise", "hypothesis"), ("question", "sentence"),
  ]
  static let usualTexts = [
    "sentence", "text", "review", "review_text", "content", "comment", "tweet", "body", "utterance",
    "question", "title",
  ]
  static let usualLabels = [
    "label", "gold_label", "labels", "class", "category", "sentiment", "target", "quality", "is_duplicate",
    "score", "similarity", "relatedness_score", "rating", "stars", "intensity",
  ]
  static let usualScores = [
    "score", "similarity", "relatedness_score", "rating", "stars", "intensity", "label", "target",
    "sentiment",
    "quality",
  ]

  /// What a model reads, in sets of texts to write.
  static let usualInputs = ["input", "source", "src", "prompt", "question", "document", "article", "word"]
  /// What it has to write.
  static let usualTargets = [
    "target", "output", "tgt", "completion", "response", "answer", "summary", "translation", "label",
  ]

  /// True when the name is one that `resolve` would recognise.
  static func isUsual(_ name: String, labels: LabelKind) -> Bool {
    let name = normal(name)
    if labels == .text, usualInputs.contains(name) || usualTargets.contains(name) { return true }
    return usualTexts.contains(name) || usualLabels.contains(name) || usualScores.contains(name)
      || usualPairs.contains { $0.0 == name || $0.1 == name }
  }

  /// Names that the label column of this kind usually has, best first.
  private var usualLabelNames: [String] {
    switch labels {
    case .none: []
    case .name: Self.usualLabels
    case .number: Self.usualScores
    case .text: Self.usualTargets
    }
  }

  /// Names are compared without case and outer spaces.
  static func normal(_ name: String) -> String { name.trimmingSpaces().lowercased() }

  func resolve(_ selection: ColumnSelection) throws(DataFailure) -> ResolvedColumns {
    let text = try index(of: selection.text, role: .text)
    let pair = try index(of: selection.pair, role: .pair)
    var label: Int?
    if labels != .none { label = try index(of: selection.label, role: .label) }
    if labels != .none, label == nil { label = usualColumn(usualLabelNames) }

    var texts: (text: Int, pair: Int?)
    if let text {
      texts = (text, pair)
    } else if labels == .text, let input = usualColumn(Self.usualInputs), input != label, input != pair {
      texts = (input, pair)
    } else if labels == .text, names.count == 2, pair == nil {
      // Nobody named anything: what is read stands before what is written.
      texts = (label == 0 ? 1 : 0, nil)
    } else if let usual = usualTexts(pair: pair, label: label) {
      texts = usual
    } else {
      texts = try textsByShape(pair: pair, label: label)
    }
    if labels != .none, label == nil { label = try labelByShape(excluding: [texts.text, texts.pair]) }

    let used = [texts.text, texts.pair, label].compactMap { $0 }
    for (place, column) in used.enumerated() where used[..<place].contains(column) {
      throw .columnUsedTwice(name: fileName, column: names[column])
    }
    return ResolvedColumns(text: texts.text, pair: texts.pair, label: label, names: names)
  }

  private func index(of reference: ColumnReference?, role: ColumnRole) throws(DataFailure) -> Int? {
    switch reference {
    case nil:
      return nil
    case .position(let position) where position <= names.count:
      return position - 1
    case .name(let name):
      if isNamed, let index = names.firstIndex(where: { $0 == name }) { return index }
      if isNamed, let index = usualColumn([Self.normal(name)]) { return index }
    case .position: break
    }
    throw .unknownColumn(
      name: fileName, role: role, requested: reference?.description ?? "", columns: names)
  }

  private func usualColumn(_ candidates: [String]) -> Int? {
    guard isNamed else { return nil }
    for candidate in candidates {
      if let index = names.firstIndex(where: { Self.normal($0) == candidate }) { return index }
    }
    return nil
  }

  private func usualTexts(pair: Int?, label: Int?) -> (text: Int, pair: Int?)? {
    for (first, second) in Self.usualPairs {
      if let text = usualColumn([first]), let usualPair = usualColumn([second]), text != label {
        let second = pair ?? usualPair
        if second != text, second != label { return (text, second) }
      }
    }
    guard let text = usualColumn(Self.usualTexts), text != label, text != pair else { return nil }
    return (text, pair)
  }

  /// Texts are the columns in which most values hold a space: one is a text, two are a pair.
  ///
  /// When texts are single words, the text is the one column that is not a number.
  private func textsByShape(pair: Int?, label: Int?) throws(DataFailure) -> (text: Int, pair: Int?) {
    let open = names.indices.filter { $0 != pair && $0 != label }
    if open.count == 1 { return (open[0], pair) }
    let prose = open.filter(isProse)
    if prose.count == 1 { return (prose[0], pair) }
    if prose.count == 2, pair == nil { return (prose[0], prose[1]) }
    let words = open.filter { !isNumeric($0) }
    if prose.isEmpty, words.count == 1 { return (words[0], pair) }
    throw .undecidedColumn(name: fileName, role: .text, columns: names)
  }

  /// The label is the one column that is not text; among several, the one that is a number, and
  /// among several of those, the one with a decimal point (row numbers and years have none).
  private func labelByShape(excluding texts: [Int?]) throws(DataFailure) -> Int {
    let open = names.indices.filter { !texts.contains($0) }
    let short = open.filter { !isProse($0) }
    for candidates in [open, short, short.filter(isNumeric), short.filter(isFractional)]
    where candidates.count == 1 {
      return candidates[0]
    }
    throw .undecidedColumn(name: fileName, role: .label, columns: names)
  }

  private func isProse(_ column: Int) -> Bool {
    let withSpace = sample.count { $0[column].trimmingSpaces().contains(" ") }
    return withSpace > 0 && 2 * withSpace >= sample.count
  }

  private func isNumeric(_ column: Int) -> Bool {
    mostlyNumbers(sample.map { $0[column] })
  }

  private func isFractional(_ column: Int) -> Bool {
    isNumeric(column) && sample.contains { $0[column].contains(".") }
  }
}

/// What the label column holds.
package enum LabelKind: Sendable, Equatable {
  /// Labels are not read, and no column for them is needed.
  case none
  /// Each row names its class.
  case name
  /// Each row has a finite number.
  case number
  /// Each row has the text that is to be written.
  case text
}

/// True when at least nine in ten values are numbers: a malformed row must not hide what a column holds.
func mostlyNumbers(_ values: [String]) -> Bool {
  !values.isEmpty && 10 * values.count { finiteNumber($0) != nil } >= 9 * values.count
}

/// The number that the text writes in decimal notation, if it is finite.
func finiteNumber(_ text: String) -> Double? {
  let trimmed = text.trimmingSpaces()
  let allowed: (UInt8) -> Bool = { byte in
    (48...57).contains(byte) || "+-.eE".utf8.contains(byte)
  }
  guard trimmed.utf8.allSatisfy(allowed), let number = Double(trimmed), number.isFinite else { return nil }
  return number
}

extension String {
  /// Without white space at either end.
  func trimmingSpaces() -> String {
    guard let first = firstIndex(where: { !$0.isWhitespace }),
      let last = lastIndex(where: { !$0.isWhitespace })
    else { return "" }
    return String(self[first...last])
  }
}
