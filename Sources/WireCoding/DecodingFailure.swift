/// Why bytes from outside are not what they should be.
package enum DecodingFailure: Error, Equatable, Sendable, CustomStringConvertible {
  /// The bytes end before the field does.
  case truncated(field: String, needed: Int, available: Int)
  /// Bytes are left after the last field.
  case trailingBytes(count: Int)
  /// A length or count is over its limit.
  case overLimit(field: String, value: UInt64, limit: Int)
  /// A field has a value that means nothing.
  case invalid(field: String, value: UInt64)
  /// Text that is not UTF-8.
  case notText(field: String)
  /// A list that must be in ascending order is not, or holds a value twice.
  case notAscending(field: String)
  /// A field that this version does not know and may not skip.
  case mustUnderstand(tag: UInt16)

  /// What is wrong, and with which field.
  package var description: String {
    switch self {
    case .truncated(let field, let needed, let available):
      "\(field) needs \(needed) bytes, \(available) are left"
    case .trailingBytes(let count): "\(count) bytes are left after the last field"
    case .overLimit(let field, let value, let limit): "\(field) is \(value); the limit is \(limit)"
    case .invalid(let field, let value): "\(field) has the value \(value), which means nothing"
    case .notText(let field): "\(field) is not UTF-8 text"
    case .notAscending(let field): "\(field) is not in ascending order without repetition"
    case .mustUnderstand(let tag): "field \(tag) is not known here and may not be skipped"
    }
  }
}
