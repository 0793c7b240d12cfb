import ArgumentParser
import ComputeRuntime
import Determinism
import HearthNode
import HearthStorage
import LanguageModels
import NeuralNetworks
import TensorKernels

/// `hearth-benchmark precision`: a frozen backbone in each precision, on one thread.
///
/// Seconds are those in which the thread had a core. Rounds alternate between the precisions, so that a slow moment
/// of the machine meets them all.
struct PrecisionCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "precision",
    abstract: "Measure a frozen backbone in each precision: forward time, memory and distance from float32.",
    discussion: """
      Lines of JSON: the rates of single products of T5-Base's shapes, then one line a precision.
      """)

  @Option(help: "Directory of a model; without it only the products are measured.")
  var model: String?

  @Option(help: "File with texts, one a line; without it ids are drawn.")
  var text: String?

  @Option(help: "Sequences of the batch.")
  var sequences = 8

  @Option(help: "Tokens of a drawn sequence, and most of a text.")
  var tokens = 128

  @Option(help: "Tokens of a target, in an encoder-decoder.")
  var targets = 4

  @Option(help: "Measurements of each; the median counts.")
  var rounds = 5

  func validate() throws {
    guard sequences > 0, tokens > 0, targets > 0, (1...1000).contains(rounds) else {
      throw ValidationError("--sequences, --tokens, --targets and --rounds must be positive")
    }
  }

  func run() throws {
    guard !BLASCore.select().contradictsCPU else {
      throw ValidationError("OpenBLAS's core contradicts this CPU, so no rate is printed")
    }
    enableFlushToZero()
    try measureProducts()
    if let model { try measureModel(model) }
  }

  // MARK: Products

  private struct ProductRates: Encodable {
    var product: String
    var float32: Double
    var blas: Double
    var float16: Double
    var bfloat16: Double
    var int8: Double
    var multiplyAddPeak: Double
    var bytePeak: Double
    var instruction: String
  }

  private func measureProducts() throws {
    let peak = measurePeakGFLOPS()
    let bytePeak = measureBytePeakGOPS()
    for (m, n, k) in [(256, 768, 768), (256, 2304, 768), (256, 3072, 768), (256, 768, 3072)] {
      var random = SeededGenerator(seed: 7)
      let arena = Arena(
        floatCount: m * k + n * k + m * n + n * k + Int8Matrix.byteCount(outputs: n, inputs: k) / 4 + 32)
      for index in 0..<m * k + n * k { arena.base[index] = random.normalFloat() }
      let x = Matrix(arena.base, rows: m, columns: k)
      let w = Matrix(arena.base + m * k, rows: n, columns: k)
      let c = Matrix(arena.base + m * k + n * k, rows: m, columns: n)
      let halves = UnsafeMutableRawPointer(c.base + m * n).bindMemory(to: UInt16.self, capacity: n * k)
      let panels = UnsafeMutableRawPointer(c.base + m * n + n * k)
      Int8Matrix.quantize(w, into: panels)
      let packed = Int8Matrix(panels, outputs: n, inputs: k)
      func rate(_ body: () -> Void) -> Double {
        measureRate {
          body()
          return 2 * Double(m * n * k)
        }
      }
      func halfRate(_ format: HalfFormat) -> Double {
        _ = encodeHalf(w, format, into: halves)
        let half = HalfMatrix(halves, rows: n, columns: k, format: format)
        return rate { matrixMultiply(x, transposed: half, into: c) }
      }
      let rates = ProductRates(
        product: "\(m) x \(n) x \(k)", float32: rate { matrixMultiply(x, .none, w, .transposed, into: c) },
        blas: rate { matrixMultiplyByBLAS(x, .none, w, .transposed, into: c) }, float16: halfRate(.float16),
        bfloat16: halfRate(.bfloat16), int8: rate { matrixMultiply(x, transposed: packed, into: c) },
        multiplyAddPeak: peak, bytePeak: bytePeak, instruction: Int8KernelSet.best.name)
      withExtendedLifetime(arena) {}
      try OutputStream.standard.write(try jsonLine(rates) + "\n")
    }
  }

  // MARK: A model

  private struct ModelFigures: Encodable {
    var precision: String
    var seconds: Double
    var conversionSeconds: Double
    var bytes: Int
    var float32Matrices: Int
    var float32Columns: Int
    /// Of the last tap, against float32: root mean square over its rows.
    var relativeError: Double
    var tokens: Int
  }

  private struct Candidate {
    var backbone: any Backbone
    var figures: ModelFigures
    var times: [Double] = []
    var states: [Float] = []
  }

  private func measureModel(_ directory: String) throws {
    let folder = ModelFolder(directory)
    let configuration = try ModelDirectory.loadConfiguration(folder)
    let checkpoint = try ModelDirectory.loadCheckpoint(folder)
    let backbone: any Backbone =
      switch configuration {
      case .bert(let configuration): try BERTBackbone(checkpoint, configuration)
      case .t5(let configuration): try T5Backbone(checkpoint, configuration)
      case .bart(let configuration): try BARTBackbone(checkpoint, configuration)
      }
    let tokenizer = try? ModelDirectory.loadTokenizer(folder, configuration: configuration)
    let batch = try batch(tokenizer, backbone.architecture)
    let calibration = tokenizer.map { CalibrationText.batch($0, backbone.architecture) } ?? batch
    var candidates = WeightPrecision.allCases.map { precision in
      candidate(precision, backbone, calibration: calibration, tokens: batch.encoder.tokens)
    }
    let workspace = Arena(floatCount: backbone.workspaceFloats(capacity: BackboneCapacity(of: batch)))
    for round in 0...rounds {
      for index in candidates.indices {
        let model = candidates[index].backbone
        var states: [Float] = []
        let seconds = secondsOf {
          model.forward(batch, workspace: workspace) { stack, tap, rows in
            let stacks = model.architecture.stacks
            guard round == 0, stack == stacks.count - 1, tap == stacks[stack].layers else { return }
            for row in 0..<rows.rows {
              states += UnsafeBufferPointer(start: rows.base + row * rows.stride, count: rows.columns)
            }
          }
        }
        if round == 0 { candidates[index].states = states } else { candidates[index].times.append(seconds) }
      }
    }
    let width = backbone.architecture.width
    for var candidate in candidates {
      candidate.figures.seconds = candidate.times.sorted()[candidate.times.count / 2]
      candidate.figures.relativeError = Self.relativeError(
        candidate.states, candidates[0].states, width: width)
      try OutputStream.standard.write(try jsonLine(candidate.figures) + "\n")
    }
  }

  private func candidate(
    _ precision: WeightPrecision, _ backbone: any Backbone, calibration: BackboneBatch, tokens: Int
  ) -> Candidate {
    var figures = ModelFigures(
      precision: precision.rawValue, seconds: 0, conversionSeconds: 0,
      bytes: backbone.parameters.reduce(0) { $0 + $1.count } * MemoryLayout<Float>.stride, float32Matrices: 0,
      float32Columns: 0, relativeError: 0, tokens: tokens)
    guard precision != .float32 else { return Candidate(backbone: backbone, figures: figures) }
    var converted: ConvertedBackbone?
    figures.conversionSeconds = secondsOf {
      converted = PrecisionConversion(backbone, loop: SequentialLoop(), layerDone: {}).deciding(
        precision, calibration: [calibration])
    }
    guard let converted else { preconditionFailure("a conversion gave nothing") }
    figures.bytes = converted.convertedBytes + converted.otherBytes
    figures.float32Matrices = converted.decision.float32Matrices.count
    figures.float32Columns = converted.decision.float32Columns.reduce(0) { $0 + $1.columns.count }
    return Candidate(backbone: converted.backbone, figures: figures)
  }

  private static func relativeError(_ found: [Float], _ expected: [Float], width: Int) -> Double {
    var sum = 0.0
    let rows = expected.count / width
    for row in 0..<rows {
      var (error, norm) = (0.0, 0.0)
      for index in row * width..<(row + 1) * width {
        error += Double(found[index] - expected[index]) * Double(found[index] - expected[index])
        norm += Double(expected[index]) * Double(expected[index])
      }
      sum += error / max(norm, .leastNormalMagnitude)
    }
    return (sum / Double(max(1, rows))).squareRoot()
  }

  /// The texts of the file, or drawn ids.
  private func batch(
    _ tokenizer: (any Tokenizer)?, _ architecture: BackboneArchitecture
  ) throws -> BackboneBatch {
    var texts: [[Int32]] = []
    if let text, let tokenizer {
      let bytes = try readWholeFile(text, limit: 1 << 26)
      for line in bytes.split(separator: UInt8(ascii: "\n")).prefix(sequences) {
        let length = min(tokens, architecture.maximumLength ?? tokens)
        texts.append(
          try tokenizer.encode(String(decoding: line, as: UTF8.self), pair: nil, maxLength: length).ids)
      }
    } else {
      var random = SeededGenerator(seed: 11)
      let length = min(tokens, architecture.maximumLength ?? tokens)
      texts = (0..<sequences).map { _ in
        (0..<length).map { _ in Int32(random.uniform(below: architecture.vocabulary)) }
      }
    }
    guard !texts.isEmpty else { throw ValidationError("there is no text in '\(text ?? "")'") }
    let decoder = architecture.decoderStartID.map { start in
      texts.map { [start] + $0.prefix(targets - 1) }
    }
    return BackboneBatch(
      encoderIDs: texts.flatMap { $0 }, encoder: PackedSequences(lengths: texts.map(\.count)),
      decoderIDs: decoder?.flatMap { $0 } ?? [],
      decoder: decoder.map { PackedSequences(lengths: $0.map(\.count)) })
  }
}
