import ComputeRuntime
import FoundationEssentials
package import Logging
import MeshTransport

/// How the lines of a daemon's log look.
package enum DaemonLogStyle: Sendable {
  /// For the journal: the priority in front, which systemd takes off again, and no time, which it adds.
  case journal
  /// For a terminal: the time, the level, the event and its facts.
  case text
  /// One JSON object a line, to standard output.
  case json
}

/// Writes a daemon's log: stable event names, and facts as keys and values.
package struct DaemonLogHandler: LogHandler {
  /// Facts of every line.
  package var metadata: Logger.Metadata = [:]
  /// Facts that are asked for at each line.
  package var metadataProvider: Logger.MetadataProvider?
  /// Lines below it are not written.
  package var logLevel: Logger.Level
  private let style: DaemonLogStyle
  private let stream: OutputStream

  /// A log in this style; JSON goes to standard output, all else to standard error.
  package init(style: DaemonLogStyle, level: Logger.Level) {
    self.style = style
    logLevel = level
    stream = if case .json = style { .standard } else { .diagnostics }
  }

  /// One fact of every line.
  package subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  /// Writes one line.
  package func log(event: LogEvent) {
    var facts = metadata.merging(metadataProvider?.get() ?? [:]) { $1 }
    facts.merge(event.metadata ?? [:]) { $1 }
    let text = line(level: event.level, event: "\(event.message)", facts: facts.mapValues { "\($0)" })
    // Nobody is left to tell when the log cannot be written; the daemon's work goes on.
    try? stream.write(text + "\n")
  }

  /// A line of the log without its end.
  func line(level: Logger.Level, event: String, facts: [String: String]) -> String {
    if case .json = style {
      var record = facts
      record["event"] = event
      record["level"] = level.rawValue
      record["time"] = timestamp()
      return (try? jsonLine(record)) ?? ""
    }
    let pairs = facts.sorted { $0.key < $1.key }.map { " \($0.key)=\(Self.quoted($0.value))" }.joined()
    if case .journal = style { return "<\(Self.priority(level))>\(event)\(pairs)" }
    let name = level.rawValue
    let padding = String(repeating: " ", count: max(0, 7 - name.count))
    return "\(timestamp()) \(name)\(padding) \(event)\(pairs)"
  }

  private func timestamp() -> String {
    let seconds = Double(DeviceClocks.wallSeconds())
    return Date(timeIntervalSince1970: seconds).ISO8601Format()
  }

  /// A value without blanks as it is, any other in quotes and on one line: names come from other devices.
  private static func quoted(_ value: String) -> String {
    let plain = value.unicodeScalars.allSatisfy {
      $0.value > 32 && $0.value != 127 && $0 != "\"" && $0 != "="
    }
    if plain, !value.isEmpty { return value }
    let escaped = value.unicodeScalars.map { scalar -> String in
      switch scalar {
      case "\"": "\\\""
      case "\\": "\\\\"
      default: scalar.value < 32 || scalar.value == 127 ? " " : String(scalar)
      }
    }
    return "\"\(escaped.joined())\""
  }

  /// The priorities of syslog (RFC 5424 §6.2.1).
  private static func priority(_ level: Logger.Level) -> Int {
    switch level {
    case .trace, .debug: 7
    case .info: 6
    case .notice: 5
    case .warning: 4
    case .error: 3
    case .critical: 2
    }
  }
}
