import LanguageModels
import NeuralNetworks
import TensorKernels

/// What each token of a text adds to a comparison with the other text of its sample: read from the taps of a stack's middle.
///
/// For tap `b`, with rows scaled to the length √d, a token `x` meets what it is aligned with in the other text,
/// `y = Σ softmax(20 cos(x, ·)) ·` (soft alignment without parameters; Parikh et al. 2016, "A Decomposable Attention Model",
/// §3.1), and adds `W [|x − y|, x ⊙ y, x] + 4 (c − 0.7) w` to its row of r values, with `c` its largest cosine. The sum over
/// the taps is what `AlignmentOutput` reads, and all that a pipeline's stage passes on. Nothing flows into the taps.
struct TapAlignment {
  /// How sharp an alignment is: the factor of cosines before the softmax.
  private static let sharpness: Float = 20
  /// The closeness that counts as none, and the factor of what differs from it: cosines of a frozen encoder's tokens lie near.
  private static let closeness: (middle: Float, scale: Float) = (0.7, 4)

  /// One tap and what a micro-batch keeps of it between its forward and its backward.
  private struct Tap {
    let slot: Int
    let weight: LinearParameters
    let closeness: Parameter
    /// Offset of what each token is aligned with, [tokens × d].
    let aligned: Int
    /// Offset of each token's largest cosine, less the middle and scaled.
    let closest: Int
  }

  /// Rows that no micro-batch needs between its forward and its backward.
  struct Scratch {
    /// The tap's tokens at length √d.
    let rows: Int
    /// `[|x − y|, x ⊙ y, x]`.
    let features: Int
    /// Cosines of one text's tokens with the other's.
    let scores: Int
    let parameter: Int
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

  /// Reserves what a micro-batch keeps between its forward and its backward; nil when the network aligns no texts.
  init?(
    _ shape: SideNetworkShape, part: StackPart, tree: ParameterTree, capacity: MicroBatchCapacity,
    training: Bool, layout: inout ArenaLayout
  ) {
    guard shape.alignsTexts else { return nil }
    self.shape = shape
    self.part = part
    let tokens = capacity.encoderTokens
    let stack = shape.stacks[part.stack]
    var shared: (aligned: Int, closest: Int)?
    taps = stack.taps(of: part).enumerated().compactMap { slot, tap in
      guard stack.alignedTaps.contains(tap) else { return nil }
      let prefix = SideNetworkShape.alignmentPrefix(stack.name, tap: tap)
      let kept = shared ?? (layout.reserve(tokens * shape.backboneWidth), layout.reserve(tokens))
      if !training { shared = kept }
      return Tap(
        slot: slot, weight: LinearParameters(tree, prefix, bias: false),
        closeness: tree["\(prefix).closeness"],
        aligned: kept.aligned, closest: kept.closest)
    }
    sums = layout.reserve(tokens * shape.width)
  }

  /// Reserves the rest, which the micro-batches of one thread share.
  static func scratch(
    _ shape: SideNetworkShape, capacity: MicroBatchCapacity, training: Bool, layout: inout ArenaLayout
  ) -> Scratch? {
    guard shape.alignsTexts else { return nil }
    let (tokens, width) = (capacity.encoderTokens, shape.backboneWidth)
    // Two texts of one sample share its tokens.
    let scores = (capacity.longestEncoder + 1) / 2 * ((capacity.longestEncoder + 1) / 2)
    return Scratch(
      rows: layout.reserve(tokens * width), features: layout.reserve(tokens * 3 * width),
      scores: layout.reserve(max(1, scores)),
      parameter: layout.reserve(training ? shape.width * 3 * width : 0),
      gradient: layout.reserve(training ? tokens * shape.width : 0))
  }

  // MARK: Rows that cross to other layers

  /// The sums over all taps so far, [tokens × r]: where they come in, and where `forward` leaves them.
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
    let texts = shape.pooledTokens(pass.batch)
    for tap in taps {
      let rows = scaledRows(tap, pass)
      align(tap, rows, texts, pass)
      tap.weight.forward(features(tap, rows, pass), into: sums, accumulate: true)
      let closest = pass.arena.base + tap.closest
      for token in 0..<sums.rows {
        addRows(tap.closeness.matrix, into: sums.rowRange(token, count: 1), scale: closest[token])
      }
    }
  }

  /// Finds what every token is aligned with; a token without another text, with nothing.
  private func align(_ tap: Tap, _ rows: Matrix, _ texts: [Range<Int>], _ pass: Pass) {
    let aligned = wide(tap.aligned, pass)
    let closest = pass.arena.base + tap.closest
    for sample in stride(from: 0, to: texts.count, by: 2) {
      for (own, other) in [(texts[sample], texts[sample + 1]), (texts[sample + 1], texts[sample])] {
        let target = aligned.rowRange(own.lowerBound, count: own.count)
        guard !own.isEmpty, !other.isEmpty else {
          target.base.update(repeating: 0, count: target.rows * target.columns)
          for token in own { closest[token] = 0 }
          continue
        }
        let others = rows.rowRange(other.lowerBound, count: other.count)
        let scores = pass.arena.matrix(pass.scratch.scores, rows: own.count, columns: other.count)
        matrixMultiply(
          rows.rowRange(own.lowerBound, count: own.count), .none, others, .transposed, into: scores,
          epilogue: Epilogue(scale: Self.sharpness / Float(shape.backboneWidth)))
        for (row, token) in own.enumerated() {
          var largest = scores[row, 0]
          for column in 1..<other.count { largest = max(largest, scores[row, column]) }
          closest[token] = Self.closeness.scale * (largest / Self.sharpness - Self.closeness.middle)
        }
        softmaxRows(scores)
        matrixMultiply(scores, .none, others, .none, into: target)
      }
    }
  }

  // MARK: Backward

  /// Hands the gradients of the part's matrices to `sink`.
  func backward(_ pass: Pass, sink: any GradientSink) {
    let gradient = gradient(pass.scratch, pass.batch, pass.arena)
    let parameter = pass.arena.base + pass.scratch.parameter
    for tap in taps {
      let rows = scaledRows(tap, pass)
      tap.weight.parameterGradients(gradient, features(tap, rows, pass), scratch: parameter, sink: sink)
      let slopes = Matrix(parameter, rows: 1, columns: shape.width)
      slopes.base.update(repeating: 0, count: slopes.columns)
      let closest = pass.arena.base + tap.closest
      for token in 0..<gradient.rows {
        addRows(gradient.rowRange(token, count: 1), into: slopes, scale: closest[token])
      }
      sink.add(slopes.base, of: tap.closeness)
    }
  }

  // MARK: Rows

  /// The tap's tokens at length √d; a token of no length stays zero.
  private func scaledRows(_ tap: Tap, _ pass: Pass) -> Matrix {
    let rows = wide(pass.scratch.rows, pass)
    decodeRows(pass.taps[tap.slot], into: rows)
    let length = Float(rows.columns).squareRoot()
    for row in 0..<rows.rows {
      let values = rows.base + row * rows.stride
      let own = Float(sumOfSquares(values, count: rows.columns).squareRoot())
      let factor = own > Self.shortest ? length / own : 0
      for column in 0..<rows.columns { values[column] *= factor }
    }
    return rows
  }

  /// Rows no longer than this have no direction.
  private static let shortest: Float = 1e-6

  /// `[|x − y|, x ⊙ y, x]` of every token.
  private func features(_ tap: Tap, _ rows: Matrix, _ pass: Pass) -> Matrix {
    let width = shape.backboneWidth
    let features = pass.arena.matrix(pass.scratch.features, rows: rows.rows, columns: 3 * width)
    let aligned = wide(tap.aligned, pass)
    for row in 0..<rows.rows {
      let (x, y) = (rows.base + row * rows.stride, aligned.base + row * aligned.stride)
      let target = features.base + row * features.stride
      for column in 0..<width {
        target[column] = abs(x[column] - y[column])
        target[width + column] = x[column] * y[column]
        target[2 * width + column] = x[column]
      }
    }
    return features
  }

  private func narrow(_ offset: Int, _ batch: PackedMicroBatch, _ arena: Arena) -> Matrix {
    arena.matrix(offset, rows: batch.encoder.tokens, columns: shape.width)
  }

  private func wide(_ offset: Int, _ pass: Pass) -> Matrix {
    pass.arena.matrix(offset, rows: pass.batch.encoder.tokens, columns: shape.backboneWidth)
  }
}
