package import TensorKernels

/// Two thin trained matrices beside a frozen one: `y += scale · (x·Aᵀ)·Bᵀ` (LoRA, Hu et al., ICLR 2022).
///
/// Rows are handled in pieces, so that what lies between the two products stays in the second-level cache.
package struct LowRankPair: Sendable {
  /// The first matrix, [rank × inputs].
  package var a: Parameter
  /// The second matrix, [outputs × rank].
  package var b: Parameter
  /// Factor of the product: α / rank.
  package var scale: Float

  /// Rows of a piece.
  private static let pieceRows = 512

  /// A pair; the rank is at most the inputs and the outputs.
  package init(a: Parameter, b: Parameter, scale: Float) {
    precondition(
      a.rows == b.columns && a.rows <= a.columns && a.rows <= b.rows,
      "\(a.name) of \(a.rows) x \(a.columns) with \(b.rows) x \(b.columns)")
    self.a = a
    self.b = b
    self.scale = scale
  }

  /// Rank of the pair's product.
  package var rank: Int { a.rows }

  /// Adds the pair's product over `x` to `y`.
  func forward(_ x: Matrix, into y: Matrix, dropout: LowRankDropout?) {
    forEachPiece(x, dropout) { x, range, _ in
      withRows(range.count, rank) { thin in
        matrixMultiply(x, .none, a.matrix, .transposed, into: thin)
        matrixMultiply(
          thin, .none, b.matrix, .transposed, into: y.rowRange(range.lowerBound, count: range.count),
          epilogue: Epilogue(scale: scale, accumulate: true))
      }
    }
  }

  /// Adds `scale · (dy·B)·A` to `dx`.
  func inputGradient(_ dy: Matrix, into dx: Matrix, dropout: LowRankDropout?) {
    forEachRange(dy.rows, dropout) { range, sequence in
      withRows(range.count, rank) { thin in
        let part = dx.rowRange(range.lowerBound, count: range.count)
        matrixMultiply(
          dy.rowRange(range.lowerBound, count: range.count), .none, b.matrix, .none, into: thin,
          epilogue: Epilogue(scale: scale))
        guard let sequence, let dropout else {
          matrixMultiply(thin, .none, a.matrix, .none, into: part, epilogue: Epilogue(accumulate: true))
          return
        }
        withRows(range.count, a.columns) { wide in
          matrixMultiply(thin, .none, a.matrix, .none, into: wide)
          dropout.apply(wide, into: part, sequence: sequence, accumulate: true)
        }
      }
    }
  }

  /// Hands the gradients of both matrices to `sink`.
  ///
  /// - Parameter scratch: floats of the larger matrix of the two, and of both together at most inputs × outputs
  ///   of the layer they stand beside.
  func parameterGradients(
    _ dy: Matrix, _ x: Matrix, scratch: UnsafeMutablePointer<Float>, sink: any GradientSink,
    dropout: LowRankDropout?
  ) {
    guard a.isTrainable || b.isTrainable else { return }
    withRows(a.rows, a.columns) { aGradient in
      let bGradient = Matrix(scratch, rows: b.rows, columns: b.columns)
      forEachPiece(x, dropout) { x, range, isFirst in
        withRows(range.count, rank) { thin in
          let dy = dy.rowRange(range.lowerBound, count: range.count)
          matrixMultiply(x, .none, a.matrix, .transposed, into: thin)
          matrixMultiply(
            dy, .transposed, thin, .none, into: bGradient,
            epilogue: Epilogue(scale: scale, accumulate: !isFirst))
          matrixMultiply(dy, .none, b.matrix, .none, into: thin, epilogue: Epilogue(scale: scale))
          matrixMultiply(
            thin, .transposed, x, .none, into: aGradient, epilogue: Epilogue(accumulate: !isFirst))
        }
      }
      if a.isTrainable { sink.add(aGradient.base, of: a) }
      if b.isTrainable { sink.add(bGradient.base, of: b) }
    }
  }

  /// Adds `scale · B·A` to `weight`, [outputs × inputs]: the layer that the pair and the frozen matrix make.
  package func merge(into weight: Matrix) {
    matrixMultiply(
      b.matrix, .none, a.matrix, .none, into: weight, epilogue: Epilogue(scale: scale, accumulate: true))
  }

  /// Hands on what the gradient of the merged matrix, [outputs × inputs], says of both.
  func parameterGradients(
    ofMerged gradient: Matrix, scratch: UnsafeMutablePointer<Float>, sink: any GradientSink
  ) {
    if a.isTrainable {
      matrixMultiply(
        b.matrix, .transposed, gradient, .none, into: Matrix(scratch, rows: a.rows, columns: a.columns),
        epilogue: Epilogue(scale: scale))
      sink.add(scratch, of: a)
    }
    if b.isTrainable {
      matrixMultiply(
        gradient, .none, a.matrix, .transposed, into: Matrix(scratch, rows: b.rows, columns: b.columns),
        epilogue: Epilogue(scale: scale))
      sink.add(scratch, of: b)
    }
  }

  /// Calls `body` with pieces of `x`, of one sequence each and with dropped values when there is a dropout.
  private func forEachPiece(
    _ x: Matrix, _ dropout: LowRankDropout?,
    _ body: (_ x: Matrix, _ range: Range<Int>, _ isFirst: Bool) -> Void
  ) {
    forEachRange(x.rows, dropout) { range, sequence in
      let part = x.rowRange(range.lowerBound, count: range.count)
      guard let sequence, let dropout else {
        body(part, range, range.lowerBound == 0)
        return
      }
      withRows(range.count, x.columns) { kept in
        dropout.apply(part, into: kept, sequence: sequence, accumulate: false)
        body(kept, range, range.lowerBound == 0)
      }
    }
  }

  private func forEachRange(
    _ rows: Int, _ dropout: LowRankDropout?, _ body: (_ range: Range<Int>, _ sequence: Int?) -> Void
  ) {
    guard let dropout else {
      var first = 0
      while first < rows {
        let end = min(rows, first + Self.pieceRows)
        body(first..<end, nil)
        first = end
      }
      return
    }
    let sequences = dropout.sequences
    precondition(sequences.tokens == rows, "dropout of \(sequences.tokens) tokens in \(rows) rows")
    for index in 0..<sequences.count {
      body(sequences.offsets[index]..<sequences.offsets[index + 1], index)
    }
  }
}

/// Calls `body` with rows whose values are not set.
func withRows(_ rows: Int, _ columns: Int, _ body: (Matrix) -> Void) {
  withUnsafeTemporaryAllocation(
    byteCount: max(64, rows * columns * MemoryLayout<Float>.stride), alignment: 64
  ) {
    bytes in
    guard let base = bytes.baseAddress else { return }
    body(
      Matrix(base.bindMemory(to: Float.self, capacity: rows * columns), rows: rows, columns: columns))
  }
}
