/// How a data file divides into rows and columns.
package enum DataFormat: String, Sendable, Equatable, CaseIterable {
  /// One row a line, columns separated by tabs, no quoting: what GLUE and most research sets use.
  case tsv
  /// Comma-separated values with the quotes of RFC 4180: a quoted field may hold commas, line ends and
  /// doubled quotes.
  case csv
  /// One JSON object a line; its keys are the columns.
  case jsonl
  /// One text a line and nothing else.
  case text

  /// Lines that `detect` looks at.
  static let detectionLineLimit = 10

  /// The format that a file's name and first lines speak for.
  ///
  /// Names mislead in one known way, so content has a say: widely copied sets (STS-B, MRPC) are tab-separated
  /// files called `.csv` or `.txt`. Under those two endings, and under unknown ones, a file is `tsv` when each
  /// of its first lines holds a tab.
  package static func detect(name: String, bytes: [UInt8]) -> DataFormat {
    switch fileExtension(of: name) {
    case "tsv", "tab": return .tsv
    case "jsonl", "ndjson", "json": return .jsonl
    case "csv": return everyFirstLineHoldsTab(bytes) ? .tsv : .csv
    default: return everyFirstLineHoldsTab(bytes) ? .tsv : .text
    }
  }

  private static func fileExtension(of name: String) -> String {
    let file = name.split(separator: "/").last ?? ""
    let parts = file.split(separator: ".", omittingEmptySubsequences: false)
    return parts.count > 1 ? (parts.last ?? "").lowercased() : ""
  }

  private static func everyFirstLineHoldsTab(_ bytes: [UInt8]) -> Bool {
    var scanner = LineScanner(bytes)
    var seen = 0
    while seen < detectionLineLimit, let line = scanner.next() {
      if line.isBlank { continue }
      if !line.bytes.contains(UInt8(ascii: "\t")) { return false }
      seen += 1
    }
    return seen > 0
  }
}
