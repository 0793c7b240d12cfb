import FoundationEssentials

/// Rows that are JSON objects, one a line; their keys are the columns.
struct JSONRows: DataRowReader {
  /// Keys in the order in which they were first met (sorted inside one row, since JSON objects have no order).
  private(set) var columns: [String]
  private var scanner: LineScanner
  private let limits: DataLimits
  private let decoder: JSONDecoder
  /// The keys that are read, nil for all that turn up.
  private let wanted: [String]?

  /// Rows with whatever keys turn up, which become the columns.
  init(_ scanner: LineScanner, limits: DataLimits) {
    self.init(scanner, columns: [], wanted: nil, limits: limits)
  }

  /// Rows with known columns, of which only `wanted` are read.
  init(_ scanner: LineScanner, columns: [String], wanted: [String]?, limits: DataLimits) {
    self.scanner = scanner
    self.columns = columns
    self.limits = limits
    self.wanted = wanted
    decoder = JSONDecoder()
    if let key = JSONRow.wantedKeys { decoder.userInfo[key] = wanted }
  }

  mutating func next() -> DataRow? {
    while let line = scanner.next() {
      if line.bytes.count > limits.bytesPerRow {
        return DataRow(line: line.number, cells: .failure(.rowTooLong(limit: limits.bytesPerRow)))
      }
      if line.isBlank { continue }
      do throws(RowFault) {
        let (row, isRepaired) = try object(in: line.bytes)
        if row.keyCount > limits.fieldsPerRow { throw .fieldLimitExceeded(limit: limits.fieldsPerRow) }
        return DataRow(line: line.number, cells: .success(cells(of: row.values)), isRepaired: isRepaired)
      } catch {
        return DataRow(line: line.number, cells: .failure(error))
      }
    }
    return nil
  }

  private mutating func cells(of values: [String: String]) -> [DataCell?] {
    if wanted == nil {
      for key in values.keys.sorted() where !columns.contains(key) && columns.count < limits.fieldsPerRow {
        columns.append(key)
      }
    }
    return columns.map { column in values[column].map { .text($0) } }
  }

  /// The object of a line, and whether its UTF-8 had to be repaired.
  ///
  /// Repair comes first: a line with one wrong byte would otherwise be lost as a whole.
  private func object(in line: ArraySlice<UInt8>) throws(RowFault) -> (JSONRow, isRepaired: Bool) {
    let valid = String(validating: line, as: UTF8.self)
    let text = valid ?? String(decoding: line, as: UTF8.self)
    do {
      return (try decoder.decode(JSONRow.self, from: Data(text.utf8)), valid == nil)
    } catch DecodingError.typeMismatch {
      throw .notAnObject
    } catch {
      throw .invalidJSON
    }
  }
}

/// The strings, numbers and booleans of a JSON object, as text.
private struct JSONRow: Decodable {
  /// Where a decoder finds the keys to read.
  static let wantedKeys = CodingUserInfoKey(rawValue: "wantedKeys")

  var values: [String: String] = [:]
  var keyCount: Int

  init(from decoder: any Decoder) throws {
    let container = try decoder.container(keyedBy: Key.self)
    keyCount = container.allKeys.count
    let wanted = Self.wantedKeys.flatMap { decoder.userInfo[$0] as? [String] }?.map(Key.init)
    for key in wanted ?? container.allKeys {
      values[key.stringValue] = Self.text(key, in: container)
    }
  }

  /// The value as text; nil when it is missing, null, an array or an object.
  ///
  /// The commonest kinds come first, since a failed attempt costs more than a value.
  private static func text(_ key: Key, in container: KeyedDecodingContainer<Key>) -> String? {
    guard container.contains(key) else { return nil }
    if let text = try? container.decode(String.self, forKey: key) { return text }
    if let integer = try? container.decode(Int64.self, forKey: key) { return String(integer) }
    if let number = try? container.decode(Double.self, forKey: key) { return String(number) }
    if let flag = try? container.decode(Bool.self, forKey: key) { return flag ? "true" : "false" }
    return nil
  }

  struct Key: CodingKey {
    var stringValue: String
    var intValue: Int? { nil }
    init(stringValue: String) { self.stringValue = stringValue }
    init?(intValue: Int) { nil }
  }
}
