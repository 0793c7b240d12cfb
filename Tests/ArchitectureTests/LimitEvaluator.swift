/// Computes the value of a constant from its source text: numbers, + - * <<, durations, lists, other constants.
struct LimitEvaluator {
  private let constants: [String: DeclaredConstant]

  init(_ constants: [DeclaredConstant]) {
    self.constants = Dictionary(constants.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
  }

  /// The value of an expression that stands inside a type; nil when it is of a kind that is not known here.
  func value(of expression: String, in type: String, depth: Int = 0) -> Quantity? {
    guard depth < 8 else { return nil }
    var parser = Parser(tokens: Self.tokens(expression)) { name in
      let inner = type.isEmpty ? name : "\(type).\(name)"
      guard let constant = constants[inner] ?? constants[name] else { return nil }
      return value(of: constant.expression, in: constant.type, depth: depth + 1)
    }
    guard let value = parser.sum(), parser.isAtEnd else { return nil }
    return value
  }

  private static func tokens(_ text: String) -> [String] {
    var tokens: [String] = []
    for character in text {
      let isWord = character.isLetter || character.isNumber || character == "_" || character == "."
      if isWord, let last = tokens.last?.last, last.isLetter || last.isNumber || last == "_" || last == "." {
        tokens[tokens.count - 1].append(character)
      } else if character == "<", tokens.last == "<" {
        tokens[tokens.count - 1] = "<<"
      } else if !character.isWhitespace {
        tokens.append(String(character))
      } else {
        tokens.append(" ")
      }
    }
    return tokens.filter { $0 != " " }
  }

  private struct Parser {
    var tokens: [String]
    let lookup: (String) -> Quantity?
    var place = 0

    init(tokens: [String], lookup: @escaping (String) -> Quantity?) {
      self.tokens = tokens
      self.lookup = lookup
    }

    var isAtEnd: Bool { place == tokens.count }
    private var next: String? { place < tokens.count ? tokens[place] : nil }

    private mutating func take(_ token: String) -> Bool {
      guard next == token else { return false }
      place += 1
      return true
    }

    mutating func sum() -> Quantity? {
      guard var value = product() else { return nil }
      while let sign = next, sign == "+" || sign == "-" {
        place += 1
        guard let other = product(), let result = Self.combine(value, other, sign) else { return nil }
        value = result
      }
      return value
    }

    // In Swift a shift binds tighter than a product; both are here, since no limit has the two together.
    private mutating func product() -> Quantity? {
      guard var value = primary() else { return nil }
      while let sign = next, sign == "*" || sign == "<<" {
        place += 1
        guard let other = primary(), let result = Self.combine(value, other, sign) else { return nil }
        value = result
      }
      return value
    }

    private static func combine(_ left: Quantity, _ right: Quantity, _ sign: String) -> Quantity? {
      guard left.numbers.count == 1, right.numbers.count == 1 else { return nil }
      let (one, other) = (left.numbers[0], right.numbers[0])
      switch sign {
      case "+" where left.isTime == right.isTime: return Quantity(numbers: [one + other], isTime: left.isTime)
      case "-" where left.isTime == right.isTime: return Quantity(numbers: [one - other], isTime: left.isTime)
      case "*": return Quantity(numbers: [one * other], isTime: left.isTime != right.isTime)
      case "<<": return Quantity(numbers: [Double(Int(one) << Int(other))])
      default: return nil
      }
    }

    private mutating func primary() -> Quantity? {
      if take("[") { return list(until: "]") }
      guard let token = next else { return nil }
      place += 1
      if token.first?.isNumber == true { return Self.number(token).map { Quantity(numbers: [$0]) } }
      guard take("(") else {
        return token == ".zero" || token == "Duration.zero"
          ? Quantity(numbers: [0], isTime: true) : lookup(token)
      }
      guard var value = list(until: ")") else { return nil }
      switch token {
      case ".seconds", "Duration.seconds": value.isTime = true
      case ".milliseconds", "Duration.milliseconds":
        value = Quantity(numbers: value.numbers.map { $0 / 1000 }, isTime: true)
      case "QueueMarks", "WireVersions": break
      default: return nil
      }
      return value
    }

    /// Values with commas between and maybe labels before them.
    private mutating func list(until end: String) -> Quantity? {
      var numbers: [Double] = []
      var isTime = false
      while !take(end) {
        if place + 1 < tokens.count, tokens[place + 1] == ":" { place += 2 }
        guard let value = sum() else { return nil }
        numbers += value.numbers
        isTime = value.isTime
        if !take(","), next != end { return nil }
      }
      return Quantity(numbers: numbers, isTime: isTime)
    }

    private static func number(_ token: String) -> Double? {
      let digits = token.filter { $0 != "_" }
      if digits.hasPrefix("0x") { return Int(digits.dropFirst(2), radix: 16).map(Double.init) }
      return Double(digits)
    }
  }
}
