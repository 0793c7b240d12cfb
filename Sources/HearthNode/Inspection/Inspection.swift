/// What a directory or file turned out to be, with what is worth knowing about it.
package struct Inspection: Sendable, Equatable {
  /// What can be inspected.
  package enum Kind: String, Sendable, Encodable {
    /// A Hugging Face model directory.
    case model
    /// A finished adapter.
    case adapter
    /// A run that is under way or was interrupted.
    case run
    /// An activation cache.
    case cache
    /// One safetensors file.
    case tensors
  }

  /// The value of a fact, kept apart from how it is written.
  package enum Value: Sendable, Equatable {
    /// Words or a digest.
    case text(String)
    /// A count.
    case number(Int)
    /// A fraction or rate.
    case real(Double)
    /// A size.
    case bytes(Int)
    /// A yes or no.
    case flag(Bool)
    /// Several values of the same kind.
    case list([Value])
  }

  /// One thing worth knowing.
  package struct Fact: Sendable, Equatable {
    /// Its name in snake case: a key of the JSON form.
    package var name: String
    /// Its value.
    package var value: Value

    /// A fact.
    package init(_ name: String, _ value: Value) {
      self.name = name
      self.value = value
    }
  }

  /// What it is.
  package var kind: Kind
  /// Where it is.
  package var path: String
  /// What is worth knowing, most important first; names differ.
  package var facts: [Fact]

  /// An inspection.
  package init(kind: Kind, path: String, facts: [Fact]) {
    self.kind = kind
    self.path = path
    self.facts = facts
  }

  /// What a person reads.
  package var text: String {
    let rows =
      [["\(kind.rawValue):", path]]
      + facts.map { fact in
        [fact.name.split(separator: "_").joined(separator: " ") + ":", fact.value.text]
      }
    return tableLines(rows).joined(separator: "\n") + "\n"
  }
}

extension Inspection.Value: Encodable {
  /// As people write it.
  var text: String {
    switch self {
    case .text(let text): text
    case .number(let number): grouped(number)
    case .real(let real): "\(real)"
    case .bytes(let bytes): "\(ByteCount(bytes)) (\(grouped(bytes)) bytes)"
    case .flag(let flag): flag ? "yes" : "no"
    case .list(let values): values.isEmpty ? "none" : values.map(\.text).joined(separator: ", ")
    }
  }

  /// As a plain JSON value.
  package func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    switch self {
    case .text(let text): try container.encode(text)
    case .number(let number), .bytes(let number): try container.encode(number)
    case .real(let real): try container.encode(real)
    case .flag(let flag): try container.encode(flag)
    case .list(let values): try container.encode(values)
    }
  }
}

extension Inspection: Encodable {
  private struct Key: CodingKey {
    var stringValue: String
    var intValue: Int? { nil }
    init(stringValue: String) { self.stringValue = stringValue }
    init?(intValue: Int) { nil }
  }

  /// One flat object: kind, path and each fact.
  package func encode(to encoder: any Encoder) throws {
    var keys = encoder.container(keyedBy: Key.self)
    try keys.encode(kind, forKey: Key(stringValue: "kind"))
    try keys.encode(path, forKey: Key(stringValue: "path"))
    for fact in facts { try keys.encode(fact.value, forKey: Key(stringValue: fact.name)) }
  }
}
