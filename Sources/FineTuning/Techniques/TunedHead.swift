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

  /// Hands the gradient of the head's words to `sink`, after `share`, with what `words` adds to some of them when they
  /// are the embedding's too.
  func weightGradient(
    _ x: Matrix, labels: [Int32], adding words: WordGradients?, arena: Arena, sink: any GradientSink
  ) {
    for tile in 0..<Self.tiles(head.weight) {
      let range = self.words(tile)
      let gradient = arena.matrix(gradient, rows: range.count, columns: head.weight.columns)
      matrixMultiply(
        scoreGradient(x, labels: labels, tile: tile, arena: arena), .transposed, x, .none, into: gradient)
      words?.add(range, to: gradient)
      sink.add(gradient.base, of: head.weight.rowRange(range))
    }
  }
}

/// The gradients of an embedding's words in one micro-batch: one row for each token that was looked up.
struct WordGradients {
  private struct Token {
    let word: Int
    let row: Matrix
    let scale: Float
  }

  /// In the order of words; tokens of one word in the order of the text, so that their sum is always the same.
  private var tokens: [Token] = []

  /// Adds the rows of one stack's tokens.
  mutating func append(_ ids: [Int32], rows: Matrix, scale: Float) {
    for (index, id) in ids.enumerated() {
      tokens.append(Token(word: Int(id), row: rows.rowRange(index, count: 1), scale: scale))
    }
  }

  /// Brings the tokens into the order that `add` needs.
  mutating func sort() {
    let order = tokens.indices.sorted { (tokens[$0].word, $0) < (tokens[$1].word, $1) }
    tokens = order.map { tokens[$0] }
  }

  /// Adds the tokens of the words `range` to the rows of those words.
  func add(_ range: Range<Int>, to gradient: Matrix) {
    var low = 0
    var high = tokens.count
    while low < high {
      let middle = (low + high) / 2
      if tokens[middle].word < range.lowerBound { low = middle + 1 } else { high = middle }
    }
    while low < tokens.count, tokens[low].word < range.upperBound {
      let token = tokens[low]
      addRows(
        token.row, into: gradient.rowRange(token.word - range.lowerBound, count: 1), scale: token.scale)
      low += 1
    }
  }

  /// Hands the gradient of every word that was looked up to `sink`, a row at a time.
  func add(_ words: Parameter, scratch: UnsafeMutablePointer<Float>, sink: any GradientSink) {
    let sum = Matrix(scratch, rows: 1, columns: words.columns)
    var index = 0
    while index < tokens.count {
      let word = tokens[index].word
      scratch.update(repeating: 0, count: words.columns)
      while index < tokens.count, tokens[index].word == word {
        addRows(tokens[index].row, into: sum, scale: tokens[index].scale)
        index += 1
      }
      sink.add(scratch, of: words.rowRange(word..<word + 1))
    }
  }
}
