import ArgumentParser
import FoundationEssentials
import HearthNode

/// Where the commands of the household find it.
enum Here {
  static var environment: [String: String] { ProcessInfo.processInfo.environment }

  static func place() throws -> HouseholdPlace { try HouseholdPlace(environment: environment) }

  /// The style of text on standard output.
  static var style: ConsoleStyle {
    ConsoleStyle.of(descriptor: OutputStream.standard.descriptor, environment: environment)
  }
}

/// Questions to the person at the terminal.
enum Question {
  /// Asks on standard error and reads yes or no from standard input; anything else asks again.
  static func yes(_ text: String) throws -> Bool {
    for _ in 0..<5 {
      try OutputStream.diagnostics.write("\(text) [yes/no] ")
      guard let answer = readLine() else { break }
      switch answer.lowercased().filter({ !$0.isWhitespace }) {
      case "yes", "y": return true
      case "no", "n": return false
      default: continue
      }
    }
    throw HouseholdFailure.noAnswerTyped(text)
  }
}

/// Splits `HOST:PORT`, `[IPv6]:PORT` or a bare host.
func listedPeer(_ text: String, defaultPort: UInt16) throws -> (host: String, port: UInt16) {
  var host = text[...]
  var port = defaultPort
  func number(_ digits: Substring) throws -> UInt16 {
    guard let number = UInt16(digits), number > 0 else { throw HouseholdFailure.badAddress(text) }
    return number
  }
  if text.hasPrefix("[") {
    guard let end = text.firstIndex(of: "]") else { throw HouseholdFailure.badAddress(text) }
    host = text[text.index(after: text.startIndex)..<end]
    let rest = text[text.index(after: end)...]
    if !rest.isEmpty {
      guard rest.hasPrefix(":") else { throw HouseholdFailure.badAddress(text) }
      port = try number(rest.dropFirst())
    }
  } else if text.count(where: { $0 == ":" }) == 1, let colon = text.firstIndex(of: ":") {
    host = text[..<colon]
    port = try number(text[text.index(after: colon)...])
  }
  guard !host.isEmpty, !host.contains(where: \.isWhitespace) else { throw HouseholdFailure.badAddress(text) }
  return (String(host), port)
}
