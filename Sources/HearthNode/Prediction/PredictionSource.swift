import FineTuning

/// Where the texts of a prediction come from, in chunks that the predictor takes at once.
package struct PredictionSource: Sendable {
  /// Texts of a chunk: enough to keep all threads busy, few enough to answer soon.
  package static let chunkSize = 64
  /// Most bytes of a table, which is read as a whole; one text a line has no limit.
  package static let maximumTableBytes = 4 << 30

  /// Some texts of the input in order.
  package struct Chunk: Sendable {
    /// For each text, the 1-based line of the input on which it starts.
    package var rows: [Int]
    /// The texts.
    package var inputs: [PredictionInput]

    init(_ examples: some Sequence<LabelledText>) {
      rows = examples.map(\.row)
      inputs = examples.map { PredictionInput(text: $0.text, pair: $0.pair) }
    }
  }

  /// Rows of the input that got no prediction.
  package struct LeftOut: Sendable, Equatable {
    /// How many.
    package var count = 0
    /// The first ones with reasons, for people.
    package var reasons: [String] = []
  }

  private let file: String
  private let options: DataOptions

  /// The texts of `file`; "-" is standard input.
  package init(file: String, options: DataOptions) {
    self.file = file
    self.options = options
  }

  private var isStandardInput: Bool { file == "-" }
  private var name: String { isStandardInput ? "standard input" : file }

  /// Calls `body` with each chunk in order, as soon as it is complete or no more input is waiting.
  package func forEachChunk(_ body: (Chunk) throws -> Void) throws -> LeftOut {
    let stream = isStandardInput ? InputStream.standard() : try InputStream.file(file, role: "input")
    // What a person types has no name that could tell a format; it is answered line by line.
    if (options.format ?? (isStandardInput ? .text : nil)) == .text {
      try forEachLine(of: stream, body)
      return LeftOut()
    }
    let bytes = try stream.all(limit: Self.maximumTableBytes)
    if options.format == nil, DataFormat.detect(name: name, bytes: bytes) == .text {
      var splitter = LineSplitter(name: name)
      var lines = try splitter.add(bytes)
      if let last = try splitter.finish() { lines.append(last) }
      try chunks(of: lines, from: 1, body)
      return LeftOut()
    }
    let table = try readExamples(bytes: bytes, name: name, options: options.readOptions(labels: .none))
    for start in stride(from: 0, to: table.examples.count, by: Self.chunkSize) {
      try body(Chunk(table.examples[start..<min(start + Self.chunkSize, table.examples.count)]))
    }
    return LeftOut(count: table.skippedCount, reasons: table.skipped.map { "\($0)" })
  }

  private func forEachLine(of stream: InputStream, _ body: (Chunk) throws -> Void) throws {
    var splitter = LineSplitter(name: name)
    var row = 1
    while true {
      let bytes = try stream.next()
      var lines = bytes.isEmpty ? [] : try splitter.add(bytes)
      if bytes.isEmpty, let last = try splitter.finish() { lines.append(last) }
      try chunks(of: lines, from: row, body)
      row += lines.count
      if bytes.isEmpty { return }
    }
  }

  /// Every line is answered, blank ones too, so that output and input stay side by side.
  private func chunks(
    of lines: [String], from first: Int, _ body: (Chunk) throws -> Void
  ) throws {
    for start in stride(from: 0, to: lines.count, by: Self.chunkSize) {
      let end = min(start + Self.chunkSize, lines.count)
      try body(Chunk((start..<end).map { LabelledText(row: first + $0, text: lines[$0]) }))
    }
  }
}
