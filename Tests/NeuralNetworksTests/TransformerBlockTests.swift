import Determinism
import NeuralNetworks
import TensorKernels
import Testing

/// The block computes in float32 with sums of up to 15 terms, the reference in float64: a few units in the
/// seventh digit of values around one.
private let forwardTolerance = 2e-5
/// A gradient passes about twenty such sums, and central differences with step 1e-5 in float64 add 1e-9.
private let gradientTolerance = 2e-4

@Suite("A transformer block")
struct TransformerBlockTests {
  private static let seed: UInt64 = 20_240_813

  @Test("computes what the plain double-precision block computes", arguments: BlockCase.all)
  func forwardMatchesReference(_ blockCase: BlockCase) {
    let fixture = BlockFixture(blockCase, seed: Self.seed)
    let expected = referenceOutput(fixture.reference, fixture)
    let actual = fixture.forward(training: false).rows
    expectClose(actual, expected, tolerance: forwardTolerance, "seed \(Self.seed)")
  }

  @Test("has the same bits in inference and training layout", arguments: BlockCase.all)
  func layoutsAgree(_ blockCase: BlockCase) {
    let fixture = BlockFixture(blockCase, seed: Self.seed + 1)
    let inference = fixture.forward(training: false).values
    let training = fixture.forward(training: true).values
    #expect(inference == training)
  }

  @Test("may write its output over its input when there is no backward", arguments: BlockCase.all)
  func inPlace(_ blockCase: BlockCase) {
    let fixture = BlockFixture(blockCase, seed: Self.seed + 2)
    let expected = fixture.forward(training: false).values
    BlockTestBuffers(fixture, training: false).forward(fixture, into: fixture.input.matrix)
    #expect(fixture.input.values == expected)
  }

  @Test("gives a packed micro-batch the rows that each sequence gets alone", arguments: BlockCase.all)
  func packing(_ blockCase: BlockCase) {
    let packed = BlockFixture(blockCase, seed: Self.seed + 3)
    let together = packed.forward(training: true).values
    let width = blockCase.configuration.width
    for (index, length) in blockCase.lengths.enumerated() {
      var alone = blockCase
      alone.lengths = [length]
      alone.encoderLengths = [blockCase.encoderLengths[index]]
      let single = BlockFixture(alone, of: packed, sequence: index)
      let rows = single.forward(training: true).values
      let start = packed.sequences.offsets[index] * width
      // A product of one row and one of eleven may split its sums differently: rounding, no more.
      for (position, value) in rows.enumerated() {
        #expect(abs(value - together[start + position]) <= 1e-5, "sequence \(index)")
      }
    }
  }

  @Test("backward equals finite differences of the double-precision block", arguments: BlockCase.all)
  func backwardMatchesFiniteDifferences(_ blockCase: BlockCase) {
    let fixture = BlockFixture(blockCase, seed: Self.seed + 4)
    let run = BackwardRun(fixture)
    let coefficients = run.coefficients.rows

    func loss(_ reference: ReferenceBlock, _ change: (inout Rows, inout Rows?, inout [Double]?) -> Void)
      -> Double
    {
      var input = fixture.input.rows
      var encoder = fixture.encoder?.rows
      var bias = fixture.bias?.map { Double($0) }
      change(&input, &encoder, &bias)
      let output = reference.forward(
        input, lengths: blockCase.lengths, bias: bias, span: fixture.span, encoder: encoder,
        encoderLengths: blockCase.encoderLengths)
      return zip(output, coefficients).reduce(0) { sum, pair in
        sum + zip(pair.0, pair.1).reduce(0) { $0 + $1.0 * $1.1 }
      }
    }
    let step = 1e-5
    func difference(_ value: (Double) -> Double) -> Double { (value(step) - value(-step)) / (2 * step) }

    let reference = fixture.reference
    for leaf in fixture.tree.parameters {
      let gradient = run.sink.gradients[leaf.name] ?? []
      #expect(gradient.count == leaf.count, "\(leaf.name)")
      for index in gradient.indices {
        let expected = difference { delta in
          var moved = reference
          moved.leaves[leaf.name]?[index] += delta
          return loss(moved) { _, _, _ in }
        }
        expectClose(Double(gradient[index]), expected, "\(leaf.name)[\(index)]")
      }
    }
    for row in 0..<fixture.input.matrix.rows {
      for column in 0..<fixture.input.matrix.columns {
        let expected = difference { delta in loss(reference) { input, _, _ in input[row][column] += delta } }
        expectClose(Double(run.gradient.matrix[row, column]), expected, "input[\(row), \(column)]")
      }
    }
    if let encoder = fixture.encoder, let gradient = run.encoderGradient {
      for row in 0..<encoder.matrix.rows {
        for column in 0..<encoder.matrix.columns {
          let expected = difference { delta in
            loss(reference) { _, encoder, _ in encoder?[row][column] += delta }
          }
          // The run starts from ones: the gradient is added.
          expectClose(Double(gradient.matrix[row, column]) - 1, expected, "encoder[\(row), \(column)]")
        }
      }
    }
    for index in (fixture.bias ?? []).indices {
      let expected = difference { delta in loss(reference) { _, _, bias in bias?[index] += delta } }
      expectClose(Double(run.biasGradient[index]) - 1, expected, "bias[\(index)]")
    }
  }

  @Test("more absorbed rows than the scratch takes at once get the gradients that their sequences get alone")
  func groupsOfAbsorbedRows() throws {
    var blockCase = try #require(BlockCase.all.first { $0.name == "T5 decoder with a long source" })
    // 80 rows are two groups of at most 64.
    blockCase.lengths = [Int](repeating: 4, count: 20)
    blockCase.encoderLengths = (0..<20).map { 30 + $0 % 7 }
    #expect(
      AbsorbedCrossAttention.isCheaper(
        blockCase.configuration, queries: PackedSequences(lengths: blockCase.lengths),
        keys: PackedSequences(lengths: blockCase.encoderLengths)))
    let packed = BlockFixture(blockCase, seed: Self.seed + 8)
    let run = BackwardRun(packed)
    let encoderGradient = try #require(run.encoderGradient)
    let encoders = try #require(packed.encoderSequences)
    var sums: [String: [Double]] = [:]
    for (index, length) in blockCase.lengths.enumerated() {
      var alone = blockCase
      alone.lengths = [length]
      alone.encoderLengths = [blockCase.encoderLengths[index]]
      let single = BackwardRun(
        BlockFixture(alone, of: packed, sequence: index),
        coefficients: run.coefficients.copy(of: packed.sequences, index))
      for (name, gradient) in single.sink.gradients {
        sums[name] = zip(sums[name] ?? [Double](repeating: 0, count: gradient.count), gradient).map {
          $0 + Double($1)
        }
      }
      let rows = try #require(single.encoderGradient)
      for row in 0..<rows.matrix.rows {
        for column in 0..<rows.matrix.columns {
          expectClose(
            Double(encoderGradient.matrix[encoders.offsets[index] + row, column]),
            Double(rows.matrix[row, column]), "encoder of \(index) [\(row), \(column)]")
        }
      }
    }
    for (name, gradient) in run.sink.gradients {
      let expected = try #require(sums[name])
      for index in gradient.indices {
        expectClose(Double(gradient[index]), expected[index], "\(name)[\(index)]")
      }
    }
  }

  @Test("hands each trainable leaf to the sink exactly once", arguments: BlockCase.all)
  func sinkOnce(_ blockCase: BlockCase) {
    let run = BackwardRun(BlockFixture(blockCase, seed: Self.seed + 5))
    let names = blockCase.configuration.parameterShapes(prefix: "P").map(\.name)
    #expect(run.sink.additions.keys.sorted() == names.sorted())
    #expect(run.sink.additions.values.allSatisfy { $0 == 1 })
  }

  @Test("gives frozen leaves no gradient and the input the same one", arguments: BlockCase.all)
  func frozen(_ blockCase: BlockCase) {
    let trainable = BackwardRun(BlockFixture(blockCase, seed: Self.seed + 6))
    let frozen = BackwardRun(BlockFixture(blockCase, seed: Self.seed + 6, frozen: true))
    #expect(frozen.sink.additions.isEmpty)
    for (a, b) in zip(trainable.gradient.values, frozen.gradient.values) { #expect(abs(a - b) <= 1e-5) }
  }

  @Test("gives the same leaf gradients when the input needs none", arguments: BlockCase.all)
  func withoutInputGradient(_ blockCase: BlockCase) {
    let with = BackwardRun(BlockFixture(blockCase, seed: Self.seed + 7))
    let without = BackwardRun(BlockFixture(blockCase, seed: Self.seed + 7), needsInputGradient: false)
    #expect(with.sink.gradients == without.sink.gradients)
  }

  private func referenceOutput(_ reference: ReferenceBlock, _ fixture: BlockFixture) -> Rows {
    reference.forward(
      fixture.input.rows, lengths: fixture.blockCase.lengths, bias: fixture.bias?.map { Double($0) },
      span: fixture.span, encoder: fixture.encoder?.rows,
      encoderLengths: fixture.blockCase.encoderLengths)
  }

  private func expectClose(_ actual: Rows, _ expected: Rows, tolerance: Double, _ what: String) {
    #expect(actual.count == expected.count)
    for (a, b) in zip(actual, expected) {
      for (x, y) in zip(a, b) { #expect(abs(x - y) <= tolerance * max(1, abs(y)), "\(what)") }
    }
  }

  private func expectClose(_ actual: Double, _ expected: Double, _ what: String) {
    #expect(
      abs(actual - expected) <= gradientTolerance * max(1, abs(expected)),
      "\(what): \(actual), finite difference \(expected), seed \(Self.seed)")
  }
}

/// One training forward and backward of the loss `Σ coefficients ∘ output`.
private final class BackwardRun {
  let sink = RecordingSink()
  let coefficients: OwnedMatrix
  let gradient: OwnedMatrix
  let encoderGradient: OwnedMatrix?
  private(set) var biasGradient: [Float]

  init(_ fixture: BlockFixture, needsInputGradient: Bool = true, coefficients given: OwnedMatrix? = nil) {
    var generator = SeededGenerator(seed: 99)
    let (rows, columns) = (fixture.input.matrix.rows, fixture.input.matrix.columns)
    coefficients = given ?? OwnedMatrix(rows: rows, columns: columns) { generator.normalFloat() }
    gradient = OwnedMatrix(rows: rows, columns: columns) { 0 }
    gradient.matrix.base.update(from: coefficients.matrix.base, count: rows * columns)
    encoderGradient = fixture.encoder.map { OwnedMatrix(rows: $0.matrix.rows, columns: columns) { 1 } }
    biasGradient = [Float](repeating: 1, count: fixture.bias?.count ?? 0)

    let buffers = BlockTestBuffers(fixture, training: true)
    let output = OwnedMatrix(rows: rows, columns: columns) { 0 }
    buffers.forward(fixture, into: output.matrix)
    fixture.withBias { bias in
      biasGradient.withUnsafeMutableBufferPointer { buffer in
        fixture.block.backward(
          gradient.matrix, input: fixture.input.matrix, sequences: fixture.sequences, bias: bias,
          biasGradient: bias == nil ? nil : buffer.baseAddress, encoder: fixture.encoderStates,
          encoderGradient: encoderGradient?.matrix, activations: buffers.activations,
          scratch: buffers.scratch, arena: buffers.arena, sink: sink,
          needsInputGradient: needsInputGradient)
      }
    }
  }
}
