import Determinism
import TensorKernels
import Testing

/// One attention problem with random operands, its results and its gradients.
private final class AttentionCase {
  let shape: AttentionShape
  let queries: PackedSequences
  let keys: PackedSequences
  let q, k, v, out, dOut, dq, dk, dv: OwnedMatrix
  let span: Int
  var bias: [Float]
  var biasGradient: [Float]
  var logSumExp: [Float]
  let hasBias: Bool
  /// Drops probabilities; sequence `i` is then sample `1000 − i`.
  var dropout: Dropout?

  init(
    shape: AttentionShape, queryLengths: [Int], keyLengths: [Int], hasBias: Bool, seed: UInt64,
    operandScale: Float = 1, shift: Int = 0
  ) {
    var generator = SeededGenerator(seed: seed)
    self.shape = shape
    self.hasBias = hasBias
    queries = PackedSequences(lengths: queryLengths)
    keys = PackedSequences(lengths: keyLengths)
    let width = shape.heads * shape.headSize
    span = max(queries.longest, keys.longest) + 2
    q = OwnedMatrix(
      rows: queries.tokens, columns: width, shift: shift, random: &generator, scale: operandScale)
    k = OwnedMatrix(rows: keys.tokens, columns: width, gap: 5, shift: shift, random: &generator)
    v = OwnedMatrix(rows: keys.tokens, columns: width, shift: shift, random: &generator)
    dOut = OwnedMatrix(rows: queries.tokens, columns: width, gap: 0, shift: shift, random: &generator)
    out = OwnedMatrix(rows: queries.tokens, columns: width, gap: 1, shift: shift)
    dq = OwnedMatrix(rows: queries.tokens, columns: width, shift: shift)
    dk = OwnedMatrix(rows: keys.tokens, columns: width, shift: shift)
    dv = OwnedMatrix(rows: keys.tokens, columns: width, shift: shift)
    bias = (0..<shape.heads * (2 * span - 1)).map { _ in generator.normalFloat() }
    biasGradient = [Float](repeating: 0, count: bias.count)
    logSumExp = [Float](repeating: .nan, count: queries.tokens * shape.heads)
  }

  func run(using set: KernelSet) {
    let samples = (0..<queries.count).map { 1000 - $0 }
    samples.withUnsafeBufferPointer { samples in
      run(using: set, dropout: dropout.map { SampleDropout($0, samples: samples.baseAddress!) })
    }
  }

  private func run(using set: KernelSet, dropout: SampleDropout?) {
    bias.withUnsafeBufferPointer { biases in
      let positionBias = hasBias ? PositionBias(values: biases.baseAddress!, span: span) : nil
      attentionForward(
        shape, q: q.view, k: k.view, v: v.view, queries: queries, keys: keys, bias: positionBias,
        dropout: dropout, into: out.view, logSumExp: &logSumExp, using: set)
      biasGradient.withUnsafeMutableBufferPointer { biasGradients in
        attentionBackward(
          shape, q: q.view, k: k.view, v: v.view, out: out.view, logSumExp: logSumExp,
          gradient: dOut.view, queries: queries, keys: keys, bias: positionBias,
          dropout: dropout, dq: dq.view, dk: dk.view, dv: dv.view,
          biasGradient: hasBias ? biasGradients.baseAddress : nil, using: set)
      }
    }
  }

  func reference(head: Int, sequence: Int) -> Reference.Attention {
    var row: [Double]?
    if hasBias {
      let start = head * (2 * span - 1) + span - queries.length(sequence)
      row = bias[start..<start + queries.length(sequence) + keys.length(sequence) - 1].map(Double.init)
    }
    return Reference.Attention(
      scale: Double(shape.scale), causal: shape.causal, bias: row, mask: mask(head: head, sequence: sequence))
  }

  /// Factors of the probabilities by the mask's definition.
  private func mask(head: Int, sequence: Int) -> [[Double]]? {
    guard let dropout else { return nil }
    return (0..<queries.length(sequence)).map { query in
      let keyCount = keys.length(sequence)
      let drawn = (0..<(keyCount + 63) / 64).flatMap { block in
        dropoutBits(
          dropout, sample: UInt32(1000 - sequence), row: UInt32(head << 20 + query), block: UInt32(block))
      }
      return drawn.prefix(keyCount).map { UInt32($0) < dropout.threshold ? Double(dropout.scale) : 0 }
    }
  }

  /// The largest differences from the reference: forward, backward.
  func differences() -> (forward: Double, backward: Double) {
    var forward = 0.0
    var backward = 0.0
    var expectedBias = [Double](repeating: 0, count: bias.count)
    for sequence in 0..<queries.count {
      let queryRows = queries.offsets[sequence]..<queries.offsets[sequence + 1]
      let keyRows = keys.offsets[sequence]..<keys.offsets[sequence + 1]
      for head in 0..<shape.heads {
        let columns = head * shape.headSize..<(head + 1) * shape.headSize
        let operands = (
          q: q.doubles(rows: queryRows, columns: columns), k: k.doubles(rows: keyRows, columns: columns),
          v: v.doubles(rows: keyRows, columns: columns)
        )
        let attention = reference(head: head, sequence: sequence)
        let result = attention.forward(q: operands.q, k: operands.k, v: operands.v)
        forward = max(forward, worst(result.context, out.doubles(rows: queryRows, columns: columns)))
        for (index, row) in queryRows.enumerated() {
          let got = Double(logSumExp[row * shape.heads + head])
          let wanted = result.logSumExp[index]
          if got != wanted { forward = max(forward, abs(got - wanted) / max(1, abs(wanted))) }
        }
        let gradients = attention.backward(
          q: operands.q, k: operands.k, v: operands.v,
          dContext: dOut.doubles(rows: queryRows, columns: columns))
        backward = max(backward, worst(gradients.q, dq.doubles(rows: queryRows, columns: columns)))
        backward = max(backward, worst(gradients.k, dk.doubles(rows: keyRows, columns: columns)))
        backward = max(backward, worst(gradients.v, dv.doubles(rows: keyRows, columns: columns)))
        let start = head * (2 * span - 1) + span - queries.length(sequence)
        for (index, value) in gradients.bias.enumerated() { expectedBias[start + index] += value }
      }
    }
    if hasBias { backward = max(backward, worst([expectedBias], [biasGradient.map(Double.init)])) }
    return (forward, backward)
  }

  private func worst(_ a: [[Double]], _ b: [[Double]]) -> Double {
    var worst = 0.0
    for (x, y) in zip(a.joined(), b.joined()) {
      let difference = abs(x - y) / max(1, abs(x))
      worst = difference.isNaN ? .infinity : max(worst, difference)
    }
    return worst
  }
}

private func attentionShape(heads: Int, headSize: Int, causal: Bool = false) -> AttentionShape {
  AttentionShape(heads: heads, headSize: headSize, scale: 1 / Float(headSize).squareRoot(), causal: causal)
}

@Suite("Attention")
struct AttentionTests {
  @Test(
    "forward and backward equal the reference for every head size, length and kernel set",
    arguments: [4, 5, 8, 12, 16, 32, 64])
  func matchesReference(headSize: Int) {
    let lengthLists = [[1, 2, 15, 16], [17, 33], [3, 128], [257]]
    for set in supportedSets {
      for (index, lengths) in lengthLists.enumerated() {
        let seed = UInt64(headSize * 100 + index)
        let problem = AttentionCase(
          shape: attentionShape(heads: 2, headSize: headSize, causal: index % 2 == 1),
          queryLengths: lengths, keyLengths: lengths, hasBias: index != 1, seed: seed)
        problem.run(using: set)
        let differences = problem.differences()
        #expect(differences.forward < 2e-6, "set \(set), lengths \(lengths), seed \(seed)")
        #expect(differences.backward < 2e-5, "set \(set), lengths \(lengths), seed \(seed)")
        #expect(problem.out.gapIsUntouched() && problem.dq.gapIsUntouched())
        #expect(problem.dk.gapIsUntouched() && problem.dv.gapIsUntouched())
      }
    }
  }

  @Test(
    "with dropout forward and backward equal the reference under the same mask", arguments: [8, 12, 64])
  func dropout(headSize: Int) {
    for set in supportedSets {
      for (index, lengths) in [[1, 2, 70, 16], [17, 33], [129]].enumerated() {
        let problem = AttentionCase(
          shape: attentionShape(heads: 2, headSize: headSize, causal: index == 1), queryLengths: lengths,
          keyLengths: lengths, hasBias: index != 1, seed: UInt64(headSize * 50 + index))
        problem.dropout = Dropout(key: DropoutKey(seed: 5, step: 9), site: 77, rate: 0.25)
        problem.run(using: set)
        let differences = problem.differences()
        #expect(differences.forward < 4e-6, "set \(set), lengths \(lengths)")
        #expect(differences.backward < 4e-5, "set \(set), lengths \(lengths)")
      }
    }
  }

  @Test("a few queries attend to sequences of another length")
  func crossAttention() {
    for set in supportedSets {
      let problem = AttentionCase(
        shape: attentionShape(heads: 3, headSize: 32), queryLengths: [1, 4, 2, 40],
        keyLengths: [128, 7, 33, 3], hasBias: true, seed: 5)
      problem.run(using: set)
      let differences = problem.differences()
      #expect(differences.forward < 2e-6 && differences.backward < 2e-5, "set \(set): \(differences)")
    }
  }

  @Test("scores of thousands neither overflow nor lose the largest")
  func largeScores() {
    for set in supportedSets {
      let problem = AttentionCase(
        shape: AttentionShape(heads: 1, headSize: 8, scale: 1, causal: false), queryLengths: [20],
        keyLengths: [20], hasBias: false, seed: 11)
      for row in 0..<20 {
        for column in 0..<8 {
          problem.q.view[row, column] = (row + column) % 3 == 0 ? 1250 : -1250
          problem.k.view[row, column] = Float(row % 2 == 0 ? 1 : -1) * Float(1 + row) / 20
        }
      }
      problem.run(using: set)
      #expect(problem.differences().forward < 1e-5, "set \(set)")
      #expect(!problem.dk.elements.contains { !$0.isFinite })
    }
  }

  @Test("keys behind a bias of −∞ count for nothing, and a query that sees no key gives 0")
  func infiniteBias() {
    for set in supportedSets {
      let problem = AttentionCase(
        shape: attentionShape(heads: 2, headSize: 16), queryLengths: [19], keyLengths: [19],
        hasBias: true, seed: 13)
      // Head 0 hides every later key, head 1 every key.
      for distance in 0..<2 * problem.span - 1 {
        if distance >= problem.span { problem.bias[distance] = -.infinity }
        problem.bias[2 * problem.span - 1 + distance] = -.infinity
      }
      problem.run(using: set)
      let differences = problem.differences()
      #expect(differences.forward < 2e-6 && differences.backward < 2e-5, "set \(set): \(differences)")
      #expect(problem.out.view[7, 16] == 0 && problem.dq.view[7, 16] == 0)
    }
  }

  @Test("the bits of a sequence do not depend on its neighbours or on its place in memory")
  func independentOfTheBatch() {
    for set in supportedSets {
      for length in [5, 33, 61] {
        let shape = attentionShape(heads: 2, headSize: 12, causal: length == 33)
        let packed = AttentionCase(
          shape: shape, queryLengths: [7, length, 90], keyLengths: [7, length, 90], hasBias: false,
          seed: 17)
        let alone = AttentionCase(
          shape: shape, queryLengths: [length], keyLengths: [length], hasBias: false, seed: 18, shift: 1)
        for row in 0..<length {
          for column in 0..<24 {
            alone.q.view[row, column] = packed.q.view[7 + row, column]
            alone.k.view[row, column] = packed.k.view[7 + row, column]
            alone.v.view[row, column] = packed.v.view[7 + row, column]
            alone.dOut.view[row, column] = packed.dOut.view[7 + row, column]
          }
        }
        do {
          packed.run(using: set)
          alone.run(using: set)
        }
        for (a, b) in [
          (alone.out, packed.out), (alone.dq, packed.dq), (alone.dk, packed.dk), (alone.dv, packed.dv),
        ] {
          let rows = packed.queries.offsets[1]..<packed.queries.offsets[2]
          #expect(
            a.doubles(rows: 0..<length, columns: 0..<24) == b.doubles(rows: rows, columns: 0..<24),
            "set \(set), length \(length)")
        }
      }
    }
  }

  @Test("the reference's gradients are the slopes of its loss")
  func referenceGradients() {
    var generator = SeededGenerator(seed: 23)
    func rows(_ count: Int) -> [[Double]] {
      (0..<count).map { _ in (0..<3).map { _ in Double(generator.normalFloat()) } }
    }
    let q = rows(4)
    let k = rows(5)
    let v = rows(5)
    let dContext = rows(4)
    let bias = (0..<8).map { _ in Double(generator.normalFloat()) }
    let attention = Reference.Attention(scale: 0.7, causal: true, bias: bias)
    func loss(q: [[Double]], k: [[Double]], v: [[Double]], bias: [Double]) -> Double {
      let attention = Reference.Attention(scale: 0.7, causal: true, bias: bias)
      let context = attention.forward(q: q, k: k, v: v).context
      return zip(context.joined(), dContext.joined()).map { $0 * $1 }.reduce(0, +)
    }
    let gradients = attention.backward(q: q, k: k, v: v, dContext: dContext)
    let step = 1e-5
    func slope(_ evaluate: (Double) -> Double) -> Double {
      (evaluate(step) - evaluate(-step)) / (2 * step)
    }
    func moved(_ x: [[Double]], _ row: Int, _ by: Double) -> [[Double]] {
      var y = x
      y[row][1] += by
      return y
    }
    for row in 0..<4 {
      #expect(abs(slope { loss(q: moved(q, row, $0), k: k, v: v, bias: bias) } - gradients.q[row][1]) < 1e-8)
      #expect(abs(slope { loss(q: q, k: moved(k, row, $0), v: v, bias: bias) } - gradients.k[row][1]) < 1e-8)
      #expect(abs(slope { loss(q: q, k: k, v: moved(v, row, $0), bias: bias) } - gradients.v[row][1]) < 1e-8)
      let biasSlope = slope { by in
        var movedBias = bias
        movedBias[row] += by
        return loss(q: q, k: k, v: v, bias: movedBias)
      }
      #expect(abs(biasSlope - gradients.bias[row]) < 1e-8)
    }
  }
}
