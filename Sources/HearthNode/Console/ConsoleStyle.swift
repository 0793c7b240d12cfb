import Glibc

/// How text reaches a stream: redrawn in place on a terminal, plain lines elsewhere.
package struct ConsoleStyle: Sendable, Equatable {
  /// Columns of the terminal; nil when the stream is none.
  package var columns: Int?
  /// True when colours may be used.
  package var colored: Bool

  /// A style, for tests and for streams that are no terminal.
  package init(columns: Int?, colored: Bool) {
    self.columns = columns
    self.colored = colored
  }

  /// The style of an open stream under the environment's wishes.
  ///
  /// NO_COLOR (https://no-color.org) forbids colours when it is set and not empty; TERM=dumb forbids
  /// redrawing too.
  package static func of(descriptor: Int32, environment: [String: String]) -> ConsoleStyle {
    let terminal = environment["TERM"] ?? ""
    guard isatty(descriptor) == 1, !terminal.isEmpty, terminal != "dumb" else {
      return ConsoleStyle(columns: nil, colored: false)
    }
    var size = winsize()
    let known = ioctl(descriptor, UInt(TIOCGWINSZ), &size) == 0 && size.ws_col > 0
    let columns = known ? Int(size.ws_col) : environment["COLUMNS"].flatMap { Int($0) } ?? 80
    return ConsoleStyle(
      columns: max(20, min(columns, 1_000)), colored: (environment["NO_COLOR"] ?? "").isEmpty)
  }

  /// Text in an ANSI colour, or as it is.
  func paint(_ text: String, _ color: Color) -> String {
    colored ? "\u{1B}[\(color.rawValue)m\(text)\u{1B}[0m" : text
  }

  /// The few colours in use.
  enum Color: Int {
    case bold = 1
    case red = 31
    case green = 32
    case yellow = 33
  }
}
