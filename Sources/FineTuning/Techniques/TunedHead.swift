import LanguageModels
import NeuralNetworks
import TensorKernels

/// The weight gradient of a trained language-model head, a tile of words at a time.
///
/// The streamed kernel gives the loss and the states' gradient, but nothing that says a word's probability. Scores of
/// all words never exist here either: a tile's share of a row's probabilities follows from the logarithms of the tiles'
/// sums, whose own softmax says how much of the whole each tile is.
struct TiledHead {
  /// Words of a tile.
  static let tileWords = 1024

  let head: LanguageModelHead
  private let scores: Int
  private let shares: Int
  private let gradient: Int

  /// Reserves the buffers for up to `rows` states.
  init(_ head: LanguageModelHead, rows: Int, training: Bool, layout: inout ArenaLayout) {
    self.head = head
    let trained = training && head.weight.isTrainable
    scores = layout.reserve(trained ? rows * Self.tileWords : 0)
    shares = layout.reserve(trained ? rows * Self.tiles(head.weight) : 0)
    gradient = layout.reserve(trained ? Self.tileWords * head.weight.columns : 0)
  }

  private static func tiles(_ weight: Parameter) -> Int { (weight.rows + tileWords - 1) / tileWords }

  private func words(_ tile: Int) -> Range<Int> {
    tile * Self.tileWords..<min((tile + 1) * Self.tileWords, head.weight.rows)
  }

  private func scores(_ x: Matrix, tile: Int, arena: Arena) -> Matrix {
    let words = words(tile)
    let scores = arena.matrix(self.scores, rows: x.rows, columns: words.count)
    matrixMultiply(
      x, .none, head.weight.matrix.rowRange(words.lowerBound, count: words.count), .transposed, into: scores,
      epilogue: Epilogue(
        bias: head.bias.map { UnsafePointer($0.values + words.lowerBound) }, scale: head.scale))
    return scores
  }

  /// Computes each tile's share of every row's probabilities.
  func share(_ x: Matrix, arena: Arena) {
    let shares = arena.matrix(self.shares, rows: x.rows, columns: Self.tiles(head.weight))
    for tile in 0..<shares.columns {
      let scores = scores(x, tile: tile, arena: arena)
      for row in 0..<x.rows { shares[row, tile] = logSumExp(scores.rowRange(row, count: 1)) }
    }
    softmaxRows(shares)
  }

  /// Scores' gradient of one tile, after `share`: probabilities minus the labels, times the head's scale.
  private func scoreGradient(_ x: Matrix, labels: [Int32], tile: Int, arena: Arena) -> Matrix {
    let words = words(tile)
    let shares = arena.matrix(self.shares, rows: x.rows, columns: Self.tiles(head.weight))
    let gradient = scores(x, tile: tile, arena: arena)
    softmaxRows(gradient)
    for row in 0..<x.rows {
      let label = Int(labels[row])
      let factor = label < 0 ? 0 : head.scale * shares[row, tile]
      let values = gradient.base + row * gradient.stride
      for column in 0..<words.count { values[column] *= factor }
      if words.contains(label) { gradient[row, label - words.lowerBound] -= head.scale }
    }
    return gradient
  }

  /// Hands the gradient of the head's words to `sink`, after `share`.
  func weightGradient(_ x: Matrix, labels: [Int32], arena: Arena, sink: any GradientSink) {
    for tile in 0..<Self.tiles(head.weight) {
      let range = self.words(tile)
      let gradient = arena.matrix(gradient, rows: range.count, columns: head.weight.columns)
      matrixMultiply(
        scoreGradient(x, labels: labels, tile: tile, arena: arena), .transposed, x, .none, into: gradient)
      sink.add(gradient.base, of: head.weight.rowRange(range))
    }
  }
}

/// The gradients of an embedding's words in one micro-batch: one row for each token that was looked up.
///
/// Each stack's are handed on by themselves, and so are those of a head that is tied to the words: in a pipeline they
/// arise in different stages, and integers add up to the same sum wherever they meet.
struct WordGradients {
  private let ids: [Int32]
  private let rows: Matrix
  private let scale: Float
  /// Tokens in the order of words; those of one word in the order of the text, so that their sum is always the same.
  private let order: [Int]

  /// The rows of one stack's tokens.
  init(_ ids: [Int32], rows: Matrix, scale: Float) {
    self.ids = ids
    self.rows = rows
    self.scale = scale
    order = ids.indices.sorted { (ids[$0], $0) < (ids[$1], $1) }
  }

  /// Hands the gradient of every word that was looked up to `sink`, a row at a time.
  func add(_ words: Parameter, scratch: UnsafeMutablePointer<Float>, sink: any GradientSink) {
    let sum = Matrix(scratch, rows: 1, columns: words.columns)
    var index = 0
    while index < order.count {
      let word = ids[order[index]]
      scratch.update(repeating: 0, count: words.columns)
      while index < order.count, ids[order[index]] == word {
        addRows(rows.rowRange(order[index], count: 1), into: sum, scale: scale)
        index += 1
      }
      sink.add(scratch, of: words.rowRange(Int(word)..<Int(word) + 1))
    }
  }
}
