import LanguageModels
import NeuralNetworks
import TensorKernels

/// Averages of the tokens of a stack's taps, each tap's weighted by a learned query: what the head reads beside the side
/// network's output.
///
/// For tap `b` of a sample's tokens: `f = Σₛ softmaxₛ(bₛ·q) bₛ`, scaled to the length √d, projected to
/// the side network's width r and added up over the taps (attention pooling; Lin et al. 2017, "A Structured
/// Self-Attentive Sentence Embedding", §2.1, with one query a tap and no hidden layer). Queries start at zero, so that every
/// average starts as the mean. The sums so far are all that a pipeline's stage passes on.
struct TapPooling {
  /// One tap and what a micro-batch keeps of it between its forward and its backward.
  private struct Tap {
    let slot: Int
    let query: Parameter
    let down: LinearParameters
    /// Offset of a weight a token.
    let weights: Int
    /// Offset of P scaled averages, [P × d].
    let averages: Int
    /// Offset of what each average was multiplied by.
    let factors: Int
  }

  /// Rows that no micro-batch needs between its forward and its backward.
  struct Scratch {
    /// The decoded tokens of a sample.
    let decoded: Int
    let averageGradient: Int
    let parameter: Int
    let slopes: Int
    /// The gradient of the sums: the same for all layers, so that a backward only passes it on.
    let gradient: Int
  }

  /// What a forward or a backward of one micro-batch works with.
  struct Pass {
    /// The taps of the part, in the order of `SideStackShape.taps(of:)`.
    let taps: [EncodedRows]
    let batch: PackedMicroBatch
    let scratch: Scratch
    let arena: Arena
  }

  private let shape: SideNetworkShape
  private let part: StackPart
  private let taps: [Tap]
  private let sums: Int

  /// Reserves what a micro-batch keeps between its forward and its backward; nil when the network pools no taps.
  init?(
    _ shape: SideNetworkShape, part: StackPart, tree: ParameterTree, capacity: MicroBatchCapacity,
    training: Bool, layout: inout ArenaLayout
  ) {
    guard shape.poolsTaps else { return nil }
    self.shape = shape
    self.part = part
    let rows = capacity.sequences * shape.pooledRows
    let stack = shape.stacks[part.stack]
    var shared: (weights: Int, averages: Int, factors: Int)?
    taps = stack.taps(of: part).enumerated().map { slot, tap in
      let prefix = SideNetworkShape.poolingPrefix(stack.name, tap: tap)
      let kept =
        shared
        ?? (
          layout.reserve(capacity.encoderTokens), layout.reserve(rows * shape.backboneWidth),
          layout.reserve(rows)
        )
      if !training { shared = kept }
      return Tap(
        slot: slot, query: tree["\(prefix).query"],
        down: LinearParameters(tree, "\(prefix).down", bias: true), weights: kept.weights,
        averages: kept.averages, factors: kept.factors)
    }
    sums = layout.reserve(rows * shape.width)
  }

  /// Reserves the rest, which the micro-batches of one thread share.
  static func scratch(
    _ shape: SideNetworkShape, capacity: MicroBatchCapacity, training: Bool, layout: inout ArenaLayout
  ) -> Scratch? {
    guard shape.poolsTaps else { return nil }
    let rows = capacity.sequences * shape.pooledRows
    let width = shape.backboneWidth
    let longest = max(1, capacity.longestEncoder)
    return Scratch(
      decoded: layout.reserve(longest * width),
      averageGradient: layout.reserve(training ? rows * width : 0),
      parameter: layout.reserve(training ? shape.width * width : 0),
      slopes: layout.reserve(training ? longest : 0),
      gradient: layout.reserve(training ? rows * shape.width : 0))
  }

  // MARK: Rows that cross to other layers

  /// The sums over all taps so far, [P × r]: where they come in, and where `forward` leaves them.
  func sums(_ batch: PackedMicroBatch, _ arena: Arena) -> Matrix { narrow(sums, batch, arena) }

  /// Their gradient, which comes from behind the last layer.
  func gradient(_ scratch: Scratch, _ batch: PackedMicroBatch, _ arena: Arena) -> Matrix {
    narrow(scratch.gradient, batch, arena)
  }

  // MARK: Forward

  /// Adds the part's taps to the sums, in their order: as one device adds them.
  func forward(_ pass: Pass) {
    let sums = sums(pass.batch, pass.arena)
    if part.startsStack { sums.base.update(repeating: 0, count: sums.rows * sums.columns) }
    let pooled = shape.pooledTokens(pass.batch)
    for tap in taps {
      let averages = wide(tap.averages, pass)
      for (row, tokens) in pooled.enumerated() {
        average(tap, tokens, row, into: averages.rowRange(row, count: 1), pass)
      }
      tap.down.forward(averages, into: sums, accumulate: true)
    }
  }

  private func average(_ tap: Tap, _ tokens: Range<Int>, _ row: Int, into average: Matrix, _ pass: Pass) {
    let decoded = decode(tap, tokens, pass)
    let query = tap.query.matrix
    let weights = Matrix(
      pass.arena.base + tap.weights + tokens.lowerBound, rows: 1, columns: tokens.count)
    for token in 0..<tokens.count {
      weights.base[token] = dotProduct(decoded.rowRange(token, count: 1), query)
    }
    if !tokens.isEmpty { softmaxRows(weights) }
    average.base.update(repeating: 0, count: average.columns)
    for token in 0..<tokens.count {
      addRows(decoded.rowRange(token, count: 1), into: average, scale: weights.base[token])
    }
    let length = Float(sumOfSquares(average.base, count: average.columns).squareRoot())
    let factor = length > Self.shortest ? Float(average.columns).squareRoot() / length : 0
    pass.arena.base[tap.factors + row] = factor
    for column in 0..<average.columns { average.base[column] *= factor }
  }

  /// Averages no longer than this, those of no tokens above all, count as zero: they have no direction.
  private static let shortest: Float = 1e-6

  // MARK: Backward

  /// Hands the gradients of the part's queries and projections to `sink`; nothing flows into the taps.
  func backward(_ pass: Pass, sink: any GradientSink) {
    let gradient = gradient(pass.scratch, pass.batch, pass.arena)
    let averageGradient = wide(pass.scratch.averageGradient, pass)
    let parameter = pass.arena.base + pass.scratch.parameter
    let pooled = shape.pooledTokens(pass.batch)
    for tap in taps {
      let averages = wide(tap.averages, pass)
      tap.down.parameterGradients(gradient, averages, scratch: parameter, sink: sink)
      tap.down.inputGradient(gradient, into: averageGradient, accumulate: false)
      let queryGradient = Matrix(parameter, rows: 1, columns: shape.backboneWidth)
      queryGradient.base.update(repeating: 0, count: queryGradient.columns)
      for (row, tokens) in pooled.enumerated() {
        unscale(
          averageGradient.rowRange(row, count: 1), average: averages.rowRange(row, count: 1),
          factor: pass.arena.base[tap.factors + row])
        addQueryGradient(
          tap, tokens, averageGradient.rowRange(row, count: 1), into: queryGradient, pass)
      }
      sink.add(queryGradient.base, of: tap.query)
    }
  }

  /// From the gradient of `g = √d·f / |f|` to that of `f`: what points along `g` cannot change it.
  private func unscale(_ gradient: Matrix, average: Matrix, factor: Float) {
    let along = dotProduct(gradient, average) / Float(average.columns)
    for column in 0..<gradient.columns {
      gradient.base[column] = factor * (gradient.base[column] - along * average.base[column])
    }
  }

  /// From the gradient of an average to that of the query, through the softmax of the tokens' weights.
  private func addQueryGradient(
    _ tap: Tap, _ tokens: Range<Int>, _ gradient: Matrix, into queryGradient: Matrix, _ pass: Pass
  ) {
    let decoded = decode(tap, tokens, pass)
    let weights = pass.arena.base + tap.weights + tokens.lowerBound
    let slopes = pass.arena.base + pass.scratch.slopes
    var mean: Float = 0
    for token in 0..<tokens.count {
      slopes[token] = dotProduct(decoded.rowRange(token, count: 1), gradient)
      mean += weights[token] * slopes[token]
    }
    for token in 0..<tokens.count {
      addRows(
        decoded.rowRange(token, count: 1), into: queryGradient,
        scale: weights[token] * (slopes[token] - mean))
    }
  }

  // MARK: Views

  private func decode(_ tap: Tap, _ tokens: Range<Int>, _ pass: Pass) -> Matrix {
    let decoded = pass.arena.matrix(
      pass.scratch.decoded, rows: tokens.count, columns: shape.backboneWidth)
    decodeRows(pass.taps[tap.slot].rowRange(tokens.lowerBound, count: tokens.count), into: decoded)
    return decoded
  }

  private func narrow(_ offset: Int, _ batch: PackedMicroBatch, _ arena: Arena) -> Matrix {
    arena.matrix(offset, rows: batch.encoder.count * shape.pooledRows, columns: shape.width)
  }

  private func wide(_ offset: Int, _ pass: Pass) -> Matrix {
    pass.arena.matrix(
      offset, rows: pass.batch.encoder.count * shape.pooledRows, columns: shape.backboneWidth)
  }
}
