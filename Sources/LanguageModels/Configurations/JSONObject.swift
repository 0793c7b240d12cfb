import FoundationEssentials

/// A JSON value of a settings file, whatever its type.
enum JSONValue: Decodable, Equatable, Sendable {
  case null
  case bool(Bool)
  case number(Double)
  case string(String)
  case array([JSONValue])
  case object([String: JSONValue])

  init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    if container.decodeNil() {
      self = .null
    } else if let value = try? container.decode(Bool.self) {
      self = .bool(value)
    } else if let value = try? container.decode(Double.self) {
      self = .number(value)
    } else if let value = try? container.decode(String.self) {
      self = .string(value)
    } else if let value = try? container.decode([JSONValue].self) {
      self = .array(value)
    } else {
      self = .object(try container.decode([String: JSONValue].self))
    }
  }

  /// The value in a few words, for an error.
  var brief: String {
    switch self {
    case .null: "null"
    case .bool(let value): "\(value)"
    case .number(let value): Int(exactly: value).map { "\($0)" } ?? "\(value)"
    case .string(let value): "\"\(value.prefix(60))\""
    case .array(let values): "a list of \(values.count)"
    case .object(let values): "an object of \(values.count)"
    }
  }
}

/// A settings file's object, whose fields are read with their range and whose errors name the key.
struct JSONObject: Sendable {
  /// What to call the file in an error.
  let file: String
  /// The fields.
  let values: [String: JSONValue]

  /// The largest settings file that is read.
  static let maximumBytes = 1 << 20

  /// Parses a settings file.
  init(region: any ByteRegion) throws(ConfigurationFailure) {
    self = try region.withBytes { bytes throws(ConfigurationFailure) in
      try JSONObject(bytes, file: region.name)
    }
  }

  /// Parses the bytes of a settings file.
  init(_ bytes: UnsafeRawBufferPointer, file: String) throws(ConfigurationFailure) {
    guard bytes.count <= Self.maximumBytes else {
      throw .tooLong(file: file, bytes: bytes.count, limit: Self.maximumBytes)
    }
    do {
      values = try JSONDecoder().decode([String: JSONValue].self, from: Data(bytes))
    } catch let error as DecodingError {
      throw .malformed(file: file, reason: error.shortReason)
    } catch {
      throw .malformed(file: file, reason: "\(error)")
    }
    self.file = file
  }

  private func present(_ key: String) -> JSONValue? {
    guard let value = values[key], value != .null else { return nil }
    return value
  }

  /// A whole number in `range`; absent or null means `fallback`, or an error when there is none.
  func integer(
    _ key: String, in range: ClosedRange<Int>, default fallback: Int? = nil
  ) throws(ConfigurationFailure) -> Int {
    guard let value = present(key) else {
      guard let fallback else { throw .missing(file: file, key: key) }
      return fallback
    }
    guard case .number(let number) = value, let integer = Int(exactly: number) else {
      throw .wrongType(file: file, key: key, found: value.brief, expected: "a whole number")
    }
    guard range.contains(integer) else {
      throw .outOfRange(
        file: file, key: key, found: value.brief, expected: "\(range.lowerBound) to \(range.upperBound)")
    }
    return integer
  }

  /// A real number in `range`; absent or null means `fallback`, or an error when there is none.
  func real(
    _ key: String, in range: ClosedRange<Double>, default fallback: Double? = nil
  ) throws(ConfigurationFailure) -> Double {
    guard let value = present(key) else {
      guard let fallback else { throw .missing(file: file, key: key) }
      return fallback
    }
    guard case .number(let number) = value else {
      throw .wrongType(file: file, key: key, found: value.brief, expected: "a number")
    }
    guard range.contains(number) else {
      throw .outOfRange(
        file: file, key: key, found: value.brief, expected: "\(range.lowerBound) to \(range.upperBound)")
    }
    return number
  }

  /// A truth value; absent or null means `fallback`.
  func bool(_ key: String, default fallback: Bool) throws(ConfigurationFailure) -> Bool {
    guard let value = present(key) else { return fallback }
    guard case .bool(let bool) = value else {
      throw .wrongType(file: file, key: key, found: value.brief, expected: "true or false")
    }
    return bool
  }

  /// A string; nil when absent or null.
  func string(_ key: String) throws(ConfigurationFailure) -> String? {
    guard let value = present(key) else { return nil }
    guard case .string(let string) = value else {
      throw .wrongType(file: file, key: key, found: value.brief, expected: "a string")
    }
    return string
  }

  /// The choice that a string names; absent or null means `fallback`.
  func choice<Choice>(
    _ key: String, _ choices: KeyValuePairs<String, Choice>, default fallback: Choice
  ) throws(ConfigurationFailure) -> Choice {
    guard let name = try string(key) else { return fallback }
    guard let found = choices.first(where: { $0.key == name }) else {
      throw .unsupported(file: file, key: key, found: name, supported: choices.map(\.key))
    }
    return found.value
  }
}
