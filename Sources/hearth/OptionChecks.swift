import ArgumentParser
import HearthNode

extension RunTask: ExpressibleByArgument {}
extension RunTechnique: ExpressibleByArgument {}
extension RunPreset: ExpressibleByArgument {}

extension ByteCount: ExpressibleByArgument {
  /// Reads "2GiB", "1.5G", "512MiB" or bytes.
  init?(argument: String) { self.init(parsing: argument) }
}

/// Refuses a value outside of `range`, naming option, value and range.
func check<Value: Comparable>(
  _ option: String, _ value: Value?, in range: ClosedRange<Value>
) throws {
  guard let value, !range.contains(value) else { return }
  throw ValidationError("\(option) is \(value); it must be \(range.lowerBound) to \(range.upperBound)")
}

/// Refuses a value that is none of `choices`, naming option, value and choices.
func check(_ option: String, _ value: String, among choices: [String]) throws {
  guard !choices.contains(value) else { return }
  throw ValidationError("\(option) is '\(value)'; it must be one of \(choices.joined(separator: ", "))")
}

/// The threads of any command that computes.
struct ThreadOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "Compute threads, 1 to 256. The number changes no bit of a result. "
        + "(default: the cores that this process may use)",
      valueName: "n"))
  var threads: Int?

  func validate() throws { try check("--threads", threads, in: 1...256) }
}

/// How the rows of a data file are read.
struct DataFileOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "Column of the text: a name of the header, or a position counted from 1. "
        + "(default: a usual name, such as sentence, text or input)",
      valueName: "column"))
  var textColumn: String?

  @Option(
    help: ArgumentHelp(
      "Column of the second text when rows are pairs. (default: a usual name, such as sentence2)",
      valueName: "column"))
  var pairColumn: String?

  @Option(
    help: ArgumentHelp(
      "Column of the label, the score, or for seq2seq the text to write. (default: a usual name, such as label, "
        + "score or target)",
      valueName: "column"))
  var labelColumn: String?

  @Option(
    help: ArgumentHelp(
      "Format of the file: tsv (as in GLUE, no quotes), csv (quoted), jsonl, or for predict text (one a line). "
        + "(default: by the file's name)",
      valueName: "format"))
  var format: String?

  @Flag(
    inversion: .prefixedNo,
    help: "Whether the first row names the columns. (default: by its content)")
  var header: Bool?

  @Flag(help: "Stop at the first malformed row, in place of leaving it out and counting it.")
  var strict = false

  func validate() throws {
    for (option, column) in [
      ("--text-column", textColumn), ("--pair-column", pairColumn), ("--label-column", labelColumn),
    ] {
      guard let column else { continue }
      if column.isEmpty || Int(column).map({ $0 < 1 }) == true {
        throw ValidationError(
          "\(option) is '\(column)'; it must be a column's name or its position, counted from 1")
      }
    }
  }

  /// Requires a format that the command can read.
  func checkFormat(among formats: [String]) throws {
    if let format { try check("--format", format, among: formats) }
  }

  /// Names of the options that were given.
  var given: [String] {
    var names: [String] = []
    if textColumn != nil { names.append("--text-column") }
    if pairColumn != nil { names.append("--pair-column") }
    if labelColumn != nil { names.append("--label-column") }
    if format != nil { names.append("--format") }
    if header != nil { names.append(header == true ? "--header" : "--no-header") }
    if strict { names.append("--strict") }
    return names
  }

  var options: DataOptions {
    DataOptions(
      format: format.flatMap(Choices.dataFormat), textColumn: textColumn, pairColumn: pairColumn,
      labelColumn: labelColumn,
      header: header, strict: strict)
  }
}
