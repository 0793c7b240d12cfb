/// One row of a data file, ready for the tokenizer.
package struct LabelledText: Sendable, Equatable {
  /// 1-based line of the file on which the row starts.
  package var row: Int
  /// The text, without white space at its ends.
  package var text: String
  /// The second text of a pair.
  package var pair: String?
  /// The class, the score as it is written, or the text to write; nil when labels were not read.
  package var label: String?

  /// A row.
  package init(row: Int, text: String, pair: String? = nil, label: String? = nil) {
    self.row = row
    self.text = text
    self.pair = pair
    self.label = label
  }
}

/// Bounds on what is read from a data file.
package struct DataLimits: Sendable, Equatable {
  /// Longest row in bytes.
  package var bytesPerRow = 1 << 20
  /// Most rows of a file.
  package var rows = 10_000_000
  /// Most fields of a row.
  package var fieldsPerRow = 1_024
  /// How many skipped rows are kept with their reasons; the others are only counted.
  package var reportedSkips = 20
  /// How many rows decide about header and columns.
  package var sampledRows = 100

  /// The documented bounds.
  package init() {}
}

/// How a data file is to be read.
package struct DataReadOptions: Sendable, Equatable {
  /// The format; nil decides by name and content.
  package var format: DataFormat?
  /// Which columns to read.
  package var columns: ColumnSelection
  /// Whether the first row names the columns; nil decides by its content.
  package var hasHeader: Bool?
  /// What the label column holds.
  package var labels: LabelKind
  /// Whether the first malformed row ends the reading; otherwise such rows are skipped and counted.
  package var strict: Bool
  /// Bounds on what is read.
  package var limits = DataLimits()

  /// Options that leave everything but the kind of label to the file.
  package init(
    format: DataFormat? = nil, columns: ColumnSelection = ColumnSelection(), hasHeader: Bool? = nil,
    labels: LabelKind, strict: Bool = false
  ) {
    self.format = format
    self.columns = columns
    self.hasHeader = hasHeader
    self.labels = labels
    self.strict = strict
  }
}

/// What was found in a data file.
package struct DataReadResult: Sendable, Equatable {
  /// The usable rows in the order of the file; never empty.
  package var examples: [LabelledText] = []
  /// Malformed rows that were left out; blank lines are not counted.
  package var skippedCount = 0
  /// The first of them, with reasons.
  package var skipped: [SkippedRow] = []
  /// Rows in which invalid UTF-8 was replaced by U+FFFD.
  package var repairedCount = 0
  /// The format that was used.
  package var format: DataFormat
  /// The columns that were used.
  package var columns: ResolvedColumns
  /// True when the first row named the columns.
  package var hasHeader: Bool
}

/// Reads the rows of a data file.
///
/// Handled as people expect: a byte order mark, CRLF and CR line ends, blank lines, a missing last line end. A
/// malformed row is left out with its number and reason, or ends the reading under `strict`. Invalid UTF-8 in a
/// used column is replaced by U+FFFD and counted.
///
/// - Parameters:
///   - bytes: the whole file.
///   - name: its name, for messages and for the format.
package func readExamples(
  bytes: [UInt8], name: String, options: DataReadOptions
) throws(DataFailure) -> DataReadResult {
  if let encoding = unsupportedEncoding(bytes) { throw .unsupportedEncoding(name: name, encoding: encoding) }
  let format = options.format ?? DataFormat.detect(name: name, bytes: bytes)
  var reader: any DataRowReader = rowReader(bytes, format: format, limits: options.limits)
  let layout = try DataLayout(sampling: reader, name: name, format: format, options: options)
  if let keys = layout.jsonKeys {
    let wanted = [layout.columns.text, layout.columns.pair, layout.columns.label].compactMap { $0 }
    reader = JSONRows(
      LineScanner(bytes), columns: keys, wanted: wanted.map { keys[$0] }, limits: options.limits)
  }

  var result = DataReadResult(format: format, columns: layout.columns, hasHeader: layout.headerLine != nil)
  var rows = 0
  while let row = reader.next() {
    if row.line == layout.headerLine { continue }
    rows += 1
    if rows > options.limits.rows { throw .tooManyRows(name: name, limit: options.limits.rows) }
    do throws(RowFault) {
      let (example, isRepaired) = try layout.example(from: row, labels: options.labels)
      if isRepaired, options.strict { throw .invalidUTF8 }
      result.examples.append(example)
      if isRepaired { result.repairedCount += 1 }
    } catch {
      let skipped = SkippedRow(row: row.line, fault: error)
      if options.strict { throw .malformedRow(name: name, row: skipped) }
      result.skippedCount += 1
      if result.skipped.count < options.limits.reportedSkips { result.skipped.append(skipped) }
    }
  }
  if result.examples.isEmpty {
    guard let first = result.skipped.first else { throw .emptyFile(name: name) }
    throw .noUsableRows(name: name, skippedCount: result.skippedCount, first: first)
  }
  return result
}

private func rowReader(_ bytes: [UInt8], format: DataFormat, limits: DataLimits) -> any DataRowReader {
  let scanner = LineScanner(bytes)
  switch format {
  case .tsv: return LineRows(scanner, separator: UInt8(ascii: "\t"), limits: limits)
  case .text: return LineRows(scanner, separator: nil, limits: limits)
  case .csv: return QuotedRows(scanner, limits: limits)
  case .jsonl: return JSONRows(scanner, limits: limits)
  }
}

/// The encoding that a byte order mark other than UTF-8's announces.
private func unsupportedEncoding(_ bytes: [UInt8]) -> String? {
  if bytes.starts(with: [0xFF, 0xFE, 0, 0]) || bytes.starts(with: [0, 0, 0xFE, 0xFF]) { return "UTF-32" }
  if bytes.starts(with: [0xFF, 0xFE]) || bytes.starts(with: [0xFE, 0xFF]) { return "UTF-16" }
  return nil
}

/// What the first rows of a file say about all of them.
private struct DataLayout {
  let columns: ResolvedColumns
  /// The line on which the header starts.
  let headerLine: Int?
  /// The keys of the objects of a JSONL file.
  private(set) var jsonKeys: [String]?
  /// Most fields that a row may have; nil where fields beyond the used ones do not matter.
  private(set) var fieldLimit: Int?

  /// Looks at the first rows of `reader`, which stays where it is.
  init(
    sampling reader: any DataRowReader, name: String, format: DataFormat, options: DataReadOptions
  ) throws(DataFailure) {
    var reader = reader
    var sample: [[String]] = []
    var firstLine: Int?
    var firstFault: SkippedRow?
    var seen = 0
    while seen < options.limits.sampledRows, let row = reader.next() {
      seen += 1
      switch row.cells {
      case .success(let cells):
        sample.append(cells.map { $0?.text.value ?? "" })
        firstLine = firstLine ?? row.line
      case .failure(let fault):
        firstFault = firstFault ?? SkippedRow(row: row.line, fault: fault)
      }
    }
    guard seen > 0 else { throw .emptyFile(name: name) }
    if sample.isEmpty, let firstFault {
      if options.strict { throw .malformedRow(name: name, row: firstFault) }
      throw .noUsableRows(name: name, skippedCount: seen, first: firstFault)
    }

    var names: [String]
    if let json = reader as? JSONRows {
      headerLine = nil
      names = json.columns
      jsonKeys = names
      // Rows that came before a key was first met have no cell for it.
      sample = sample.map { $0 + Array(repeating: "", count: names.count - $0.count) }
    } else {
      let hasHeader =
        format != .text && (options.hasHeader ?? Self.looksLikeHeader(sample, options))
      headerLine = hasHeader ? firstLine : nil
      names = hasHeader ? sample.removeFirst() : (1...Self.usualWidth(sample)).map { "column \($0)" }
      // Trailing fields of headerless TSV rows are extra remarks (STS-B has them); anywhere else a surplus
      // field means that a separator stands inside a text, and the row would be read wrongly.
      fieldLimit = hasHeader || format == .csv ? names.count : nil
      // Shorter rows would shift the columns that are looked at.
      sample = sample.filter { $0.count >= names.count }
    }
    let resolver = ColumnResolver(
      fileName: name, names: names, isNamed: jsonKeys != nil || headerLine != nil, sample: sample,
      labels: options.labels)
    columns = try resolver.resolve(options.columns)
  }

  /// The commonest number of fields; the smaller one of equally common numbers.
  private static func usualWidth(_ sample: [[String]]) -> Int {
    let widths = sample.map(\.count).sorted()
    var best = (width: 1, rows: 0)
    var start = 0
    for end in 1...widths.count where end == widths.count || widths[end] != widths[start] {
      if end - start > best.rows { best = (widths[start], end - start) }
      start = end
    }
    return best.width
  }

  /// A first row is a header when one of its cells is a usual column name or one that was asked for, or when
  /// it is short and holds no number while a column under it does.
  private static func looksLikeHeader(_ sample: [[String]], _ options: DataReadOptions) -> Bool {
    let (first, selection) = (sample[0], options.columns)
    if first.contains(where: { ColumnResolver.isUsual($0, labels: options.labels) }) { return true }
    for case .name(let name) in [selection.text, selection.pair, selection.label].compactMap({ $0 }) {
      if first.contains(where: { ColumnResolver.normal($0) == ColumnResolver.normal(name) }) { return true }
    }
    let longestName = 40
    let rest = sample.dropFirst().filter { $0.count >= first.count }
    guard !rest.isEmpty, first.count > 1, Set(first).count == first.count,
      first.allSatisfy({
        !$0.trimmingSpaces().isEmpty && $0.utf8.count <= longestName && finiteNumber($0) == nil
      })
    else { return false }
    return first.indices.contains { column in
      mostlyNumbers(rest.map { $0[column] })
    }
  }

  /// The example that a row holds, and whether invalid UTF-8 was repaired in it.
  func example(from row: DataRow, labels: LabelKind) throws(RowFault) -> (LabelledText, isRepaired: Bool) {
    let cells = try row.cells.get()
    if let fieldLimit, cells.count > fieldLimit,
      cells[fieldLimit...].contains(where: { $0?.text.value.isEmpty == false })
    {
      throw .tooManyFields(found: cells.count, expected: fieldLimit)
    }
    var isRepaired = row.isRepaired
    func value(_ column: Int) throws(RowFault) -> String {
      if column >= cells.count, jsonKeys == nil {
        throw .tooFewFields(found: cells.count, needed: column + 1)
      }
      guard column < cells.count, let cell = cells[column] else {
        throw .missingValue(column: columns.name(column))
      }
      let text = cell.text
      if text.isRepaired { isRepaired = true }
      return text.value.trimmingSpaces()
    }
    // The rightmost column first, so that a short row is told how many fields it needs in all.
    if jsonKeys == nil, let last = [columns.text, columns.pair ?? 0, columns.label ?? 0].max() {
      _ = try value(last)
    }
    var example = LabelledText(row: row.line, text: try value(columns.text))
    if example.text.isEmpty { throw .emptyText(column: columns.name(columns.text)) }
    if let pair = columns.pair {
      let text = try value(pair)
      if text.isEmpty { throw .emptyText(column: columns.name(pair)) }
      example.pair = text
    }
    if let label = columns.label {
      let text = try value(label)
      if text.isEmpty { throw .emptyLabel(column: columns.name(label)) }
      if labels == .number, targetValue(text) == nil { throw .badNumber(value: String(text.prefix(40))) }
      example.label = text
    }
    return (example, isRepaired)
  }
}

extension DataCell {
  /// The cell as text, with U+FFFD in place of what is not UTF-8.
  var text: (value: String, isRepaired: Bool) {
    switch self {
    case .text(let text): return (text, false)
    case .bytes(let bytes):
      if let text = String(validating: bytes, as: UTF8.self) { return (text, false) }
      return (String(decoding: bytes, as: UTF8.self), true)
    }
  }
}
