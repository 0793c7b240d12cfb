/// Where the texts of a prediction come from, in chunks that the predictor takes at once.
package struct PredictionSource: Sendable {
  /// Texts of a chunk: enough to keep all threads busy, few enough to answer while a file is being read.
  package static let chunkSize = 64

  /// Some texts of the input in order.
  package struct Chunk: Sendable {
    /// Position of each text in the input, counted from 1.
    package var rows: [Int]
    /// The texts.
    package var inputs: [PredictionInput]
  }

  private let file: String
  private let options: DataOptions

  /// The texts of `file`; "-" is standard input.
  package init(file: String, options: DataOptions) {
    self.file = file
    self.options = options
  }

  private var format: RunDataFormat {
    if let format = options.format { return format }
    let name = file.lowercased()
    if name.hasSuffix(".tsv") { return .tsv }
    if name.hasSuffix(".csv") { return .csv }
    if name.hasSuffix(".jsonl") || name.hasSuffix(".ndjson") { return .jsonl }
    return .text
  }

  /// Calls `body` with each chunk as soon as it is complete or no more input is waiting.
  package func forEachChunk(_ body: (Chunk) throws -> Void) throws {
    let name = file == "-" ? "standard input" : file
    let stream = file == "-" ? InputStream.standard() : try InputStream.file(file, role: "input")
    guard format == .text else {
      throw RunFailure.badInput(role: "input", path: name, detail: "tables are read here soon")
    }
    var splitter = LineSplitter(name: name)
    var row = 0
    while true {
      let bytes = try stream.next()
      var lines = bytes.isEmpty ? [] : try splitter.add(bytes)
      if bytes.isEmpty, let last = try splitter.finish() { lines.append(last) }
      for start in stride(from: 0, to: lines.count, by: Self.chunkSize) {
        let part = lines[start..<min(start + Self.chunkSize, lines.count)]
        try body(
          Chunk(
            rows: part.indices.map { row + $0 + 1 }, inputs: part.map { PredictionInput(text: $0) }))
      }
      row += lines.count
      if bytes.isEmpty { return }
    }
  }
}
