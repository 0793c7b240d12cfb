import FoundationEssentials

/// Rows that are JSON objects, one a line; the keys found so far are the columns.
struct JSONRows: DataRowReader {
  private var scanner: LineScanner
  private let limits: DataLimits
  private let acceptsNewColumns: Bool
  /// Keys in the order in which they were first met (sorted inside one row, since JSON objects have no order).
  private(set) var columns: [String]
  private var indexOfColumn: [String: Int]

  /// Rows whose columns are `columns`, or, when that is nil, whatever keys turn up.
  init(_ scanner: LineScanner, columns: [String]?, limits: DataLimits) {
    self.scanner = scanner
    self.limits = limits
    acceptsNewColumns = columns == nil
    self.columns = columns ?? []
    indexOfColumn = [:]
    for (index, column) in self.columns.enumerated() { indexOfColumn[column] = index }
  }

  mutating func next() -> DataRow? {
    while let line = scanner.next() {
      if line.bytes.count > limits.bytesPerRow {
        return DataRow(line: line.number, cells: .failure(.rowTooLong(limit: limits.bytesPerRow)))
      }
      if line.isBlank { continue }
      do throws(RowFault) {
        let object = try Self.object(in: line.bytes)
        if object.count > limits.fieldsPerRow { throw .fieldLimitExceeded(limit: limits.fieldsPerRow) }
        return DataRow(
          line: line.number, cells: .success(cells(of: object)),
          isRepaired: String(validating: line.bytes, as: UTF8.self) == nil)
      } catch {
        return DataRow(line: line.number, cells: .failure(error))
      }
    }
    return nil
  }

  private mutating func cells(of object: [String: String]) -> [DataCell?] {
    if acceptsNewColumns {
      for key in object.keys.sorted() where indexOfColumn[key] == nil && columns.count < limits.fieldsPerRow {
        indexOfColumn[key] = columns.count
        columns.append(key)
      }
    }
    return columns.map { column in object[column].map { .text($0) } }
  }

  /// The object's strings, numbers and booleans as text; other values are left out.
  private static func object(in line: ArraySlice<UInt8>) throws(RowFault) -> [String: String] {
    // Repaired first: JSON that is not UTF-8 would otherwise be lost as a whole.
    let text = String(decoding: line, as: UTF8.self)
    let value: JSONValue
    do {
      value = try JSONDecoder().decode(JSONValue.self, from: Data(text.utf8))
    } catch {
      throw .invalidJSON
    }
    guard case .object(let members) = value else { throw .notAnObject }
    return members.compactMapValues(\.scalarText)
  }
}

/// A JSON value, as far as rows of data need one.
private enum JSONValue: Decodable {
  case object([String: JSONValue])
  case scalar(String)
  case other

  init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    if let text = try? container.decode(String.self) {
      self = .scalar(text)
    } else if let flag = try? container.decode(Bool.self) {
      self = .scalar(flag ? "true" : "false")
    } else if let integer = try? container.decode(Int64.self) {
      self = .scalar(String(integer))
    } else if let number = try? container.decode(Double.self) {
      self = .scalar(String(number))
    } else if let members = try? container.decode([String: JSONValue].self) {
      self = .object(members)
    } else {
      self = .other
    }
  }

  var scalarText: String? {
    if case .scalar(let text) = self { text } else { nil }
  }
}
