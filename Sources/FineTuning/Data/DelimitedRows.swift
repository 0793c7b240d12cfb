/// One value of a row, decoded only when it is needed.
enum DataCell {
  case bytes(ArraySlice<UInt8>)
  case text(String)
}

/// A row as a reader of some format found it: cells by column index, nil where a JSON object has no such key.
struct DataRow {
  /// 1-based line on which the row starts.
  var line: Int
  var cells: Result<[DataCell?], RowFault>
  /// True when the reader had to replace invalid UTF-8 before it could find the cells.
  var isRepaired = false
}

/// Gives the rows of a file one by one.
///
/// Blank lines are not rows. A value type: a copy reads on independently, which is how the first rows are
/// looked at before the columns are decided.
protocol DataRowReader {
  mutating func next() -> DataRow?
}

/// Rows of one line each: columns separated by tabs without quoting, or a single column.
struct LineRows: DataRowReader {
  private var scanner: LineScanner
  private let separator: UInt8?
  private let limits: DataLimits

  init(_ scanner: LineScanner, separator: UInt8?, limits: DataLimits) {
    self.scanner = scanner
    self.separator = separator
    self.limits = limits
  }

  mutating func next() -> DataRow? {
    while let line = scanner.next() {
      if line.bytes.count > limits.bytesPerRow {
        return DataRow(line: line.number, cells: .failure(.rowTooLong(limit: limits.bytesPerRow)))
      }
      if line.isBlank { continue }
      guard let separator else {
        return DataRow(line: line.number, cells: .success([.bytes(line.bytes)]))
      }
      let fields = line.bytes.split(
        separator: separator, maxSplits: limits.fieldsPerRow, omittingEmptySubsequences: false)
      if fields.count > limits.fieldsPerRow {
        return DataRow(line: line.number, cells: .failure(.fieldLimitExceeded(limit: limits.fieldsPerRow)))
      }
      return DataRow(line: line.number, cells: .success(fields.map { .bytes($0) }))
    }
    return nil
  }
}

/// Rows of RFC 4180: a field that starts with a quote ends at the next quote that is not doubled, and may hold
/// commas and line ends.
///
/// A quote inside a field that does not start with one is an ordinary character. After a row whose quotes are
/// broken, reading goes on at the line after the one on which that row started, so that one stray quote costs
/// one row and not the rest of the file.
struct QuotedRows: DataRowReader {
  private var scanner: LineScanner
  private let separator = UInt8(ascii: ",")
  private let quote = UInt8(ascii: "\"")
  private let limits: DataLimits

  init(_ scanner: LineScanner, limits: DataLimits) {
    self.scanner = scanner
    self.limits = limits
  }

  mutating func next() -> DataRow? {
    while true {
      var lookahead = scanner
      guard let line = lookahead.next() else { return nil }
      if line.isBlank {
        scanner = lookahead
        continue
      }
      do throws(RowFault) {
        let row = try row(from: scanner.position)
        scanner.advance(pastRowEndingAt: row.end, lines: row.lines)
        return DataRow(line: line.number, cells: .success(row.fields.map { .bytes($0) }))
      } catch {
        scanner = lookahead
        return DataRow(line: line.number, cells: .failure(error))
      }
    }
  }

  /// The fields of the row that starts at `start`, the index at which it ends, and how many lines it spans.
  private func row(
    from start: Int
  ) throws(RowFault) -> (fields: [ArraySlice<UInt8>], end: Int, lines: Int) {
    let bytes = scanner.bytes
    var fields: [ArraySlice<UInt8>] = []
    var position = start
    var lines = 1
    while true {
      if fields.count == limits.fieldsPerRow { throw .fieldLimitExceeded(limit: limits.fieldsPerRow) }
      if position < bytes.count, bytes[position] == quote {
        let field = try quotedField(from: position, rowStart: start)
        fields.append(field.content)
        position = field.end
        lines += field.lineEnds
      } else {
        let rest = bytes[position...]
        let end = rest.firstIndex { $0 == separator || $0 == scanner.lineEnd } ?? bytes.count
        let isLast = end == bytes.count || bytes[end] == scanner.lineEnd
        let field = bytes[position..<end]
        fields.append(isLast ? scanner.withoutCarriageReturn(field) : field)
        position = end
      }
      if position - start > limits.bytesPerRow { throw .rowTooLong(limit: limits.bytesPerRow) }
      if position == bytes.count || bytes[position] == scanner.lineEnd {
        return (fields, position, lines)
      }
      position += 1  // the separator
    }
  }

  /// The content of the quoted field whose opening quote is at `opening`, the index of the separator or line
  /// end after it, and how many line ends it holds.
  private func quotedField(
    from opening: Int, rowStart: Int
  ) throws(RowFault) -> (content: ArraySlice<UInt8>, end: Int, lineEnds: Int) {
    let bytes = scanner.bytes
    let limit = min(bytes.count, rowStart + limits.bytesPerRow)
    var content: [UInt8] = []
    var lineEnds = 0
    var position = opening + 1
    while position < limit {
      let byte = bytes[position]
      position += 1
      if byte != quote {
        if byte == scanner.lineEnd { lineEnds += 1 }
        content.append(byte)
      } else if position < bytes.count, bytes[position] == quote {
        content.append(quote)
        position += 1
      } else {
        return (content[...], try endOfField(afterQuote: position), lineEnds)
      }
    }
    if limit == bytes.count { throw .unterminatedQuote }
    throw .rowTooLong(limit: limits.bytesPerRow)
  }

  /// The index of the separator or line end that must follow a closing quote.
  private func endOfField(afterQuote position: Int) throws(RowFault) -> Int {
    let bytes = scanner.bytes
    guard position < bytes.count else { return position }
    if bytes[position] == separator || bytes[position] == scanner.lineEnd { return position }
    let next = position + 1
    let endsLine = next == bytes.count || bytes[next] == scanner.lineEnd
    if bytes[position] == UInt8(ascii: "\r"), endsLine { return next }
    throw .textAfterQuote
  }
}
