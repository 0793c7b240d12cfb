/// Why one row of a data file cannot be used.
package enum RowFault: Error, Sendable, Equatable, CustomStringConvertible {
  /// The row has fewer fields than a selected column needs.
  case tooFewFields(found: Int, needed: Int)
  /// The row has more fields than the header or the other rows.
  case tooManyFields(found: Int, expected: Int)
  /// The row has more fields than `DataLimits.fieldsPerRow`.
  case fieldLimitExceeded(limit: Int)
  /// The row is longer than `DataLimits.bytesPerRow`.
  case rowTooLong(limit: Int)
  /// A quote opens a field and none closes it within the row's limit.
  case unterminatedQuote
  /// Something other than a separator follows a closing quote.
  case textAfterQuote
  /// The line is not JSON.
  case invalidJSON
  /// The line is JSON, and not an object.
  case notAnObject
  /// The object has no such key, or its value is not a string, number or boolean.
  case missingValue(column: String)
  /// The text (or the second text of a pair) is empty.
  case emptyText(column: String)
  /// The label is empty.
  case emptyLabel(column: String)
  /// The label should be a finite number and is not.
  case badNumber(value: String)
  /// The row is not valid UTF-8 (a fault under `strict` only; otherwise it is repaired).
  case invalidUTF8

  /// One clause for people.
  package var description: String {
    switch self {
    case .tooFewFields(let found, let needed): "\(found) fields where at least \(needed) are needed"
    case .tooManyFields(let found, let expected): "\(found) fields where \(expected) are expected"
    case .fieldLimitExceeded(let limit): "more than \(limit) fields"
    case .rowTooLong(let limit): "longer than \(limit) bytes"
    case .unterminatedQuote: "a quote opens and never closes"
    case .textAfterQuote: "text after a closing quote"
    case .invalidJSON: "not valid JSON"
    case .notAnObject: "JSON, but not an object"
    case .missingValue(let column): "no text or number for '\(column)'"
    case .emptyText(let column): "empty text in '\(column)'"
    case .emptyLabel(let column): "empty label in '\(column)'"
    case .badNumber(let value): "'\(value)' is not a finite number"
    case .invalidUTF8: "not valid UTF-8"
    }
  }
}

/// A row that was left out, and why.
package struct SkippedRow: Sendable, Equatable, CustomStringConvertible {
  /// 1-based line of the file on which the row starts.
  package var row: Int
  /// Why it cannot be used.
  package var fault: RowFault

  /// A row that was left out.
  package init(row: Int, fault: RowFault) {
    self.row = row
    self.fault = fault
  }

  /// One clause for people.
  package var description: String { "row \(row): \(fault)" }
}

/// What a column of a data file is used for.
package enum ColumnRole: String, Sendable, Equatable {
  /// The text, or the first text of a pair.
  case text
  /// The second text of a pair.
  case pair
  /// The class or the score.
  case label
}

/// Why a data file, or a whole set of rows, cannot be used.
package enum DataFailure: Error, Sendable, Equatable, CustomStringConvertible {
  /// There is no row at all.
  case emptyFile(name: String)
  /// The file starts like UTF-16 or UTF-32.
  case unsupportedEncoding(name: String, encoding: String)
  /// The file has more rows than `DataLimits.rows`.
  case tooManyRows(name: String, limit: Int)
  /// A column was asked for that the file does not have.
  case unknownColumn(name: String, role: ColumnRole, requested: String, columns: [String])
  /// Nobody said which column has this role, and the content does not tell.
  case undecidedColumn(name: String, role: ColumnRole, columns: [String])
  /// One column was given two roles.
  case columnUsedTwice(name: String, column: String)
  /// The first malformed row under `strict`.
  case malformedRow(name: String, row: SkippedRow)
  /// Every row was left out.
  case noUsableRows(name: String, skippedCount: Int, first: SkippedRow)
  /// All rows have the same label, so there is nothing to learn.
  case oneLabel(label: String, rows: Int)
  /// So many different labels that they look like scores or free text.
  case tooManyLabels(count: Int, rows: Int, limit: Int)
  /// A label that the adapter (or the training rows) does not know.
  case unknownLabel(label: String, row: Int, known: [String])
  /// A held-out share that leaves one side without rows.
  case emptySplit(rows: Int, fraction: Double)

  /// One line for people: what was wrong, where, and the next step.
  package var description: String {
    switch self {
    case .emptyFile(let name):
      "'\(name)' has no rows"
    case .unsupportedEncoding(let name, let encoding):
      "'\(name)' looks like \(encoding); convert it, for instance with: iconv --to-code UTF-8"
    case .tooManyRows(let name, let limit):
      "'\(name)' has more than \(limit) rows; cut it into smaller files"
    case .unknownColumn(let name, let role, let requested, let columns):
      "'\(name)' has no column '\(requested)' for the \(role); its columns are \(Self.list(columns))"
    case .undecidedColumn(let name, let role, let columns):
      "cannot tell which column of '\(name)' is the \(role); its columns are \(Self.list(columns)): "
        + "name one with --\(role)-column"
    case .columnUsedTwice(let name, let column):
      "column '\(column)' of '\(name)' has two roles; name different columns for text, pair and label"
    case .malformedRow(let name, let row):
      "'\(name)', \(row); correct it, or leave out --strict to skip such rows"
    case .noUsableRows(let name, let skippedCount, let first):
      "none of the \(skippedCount) rows of '\(name)' can be used; the first: \(first)"
    case .oneLabel(let label, let rows):
      "all \(rows) rows have the label '\(label)'; classification needs at least two labels"
    case .tooManyLabels(let count, let rows, let limit):
      "\(count) different labels in \(rows) rows (at most \(limit) make sense); if they are scores, "
        + "use --task regress, otherwise name the right column with --label-column"
    case .unknownLabel(let label, let row, let known):
      "row \(row) has the label '\(label)', which is not one of \(Self.list(known))"
    case .emptySplit(let rows, let fraction):
      "holding out \(fraction) of \(rows) rows leaves one side empty; "
        + "use more rows, another --validation-fraction, or a file of held-out rows with --validation"
    }
  }

  /// Names in quotes; a long list is cut.
  private static func list(_ names: [String]) -> String {
    let limit = 20
    let shown = names.prefix(limit).map { "'\($0)'" }.joined(separator: ", ")
    return names.count > limit ? "\(shown) and \(names.count - limit) more" : shown
  }
}
