package import LanguageModels
package import NeuralNetworks
package import TensorKernels

/// The frozen parts of a backbone that a side network needs after the backbone has left memory.
package struct FrozenOutput: Sendable {
  /// Final norm of the output stack; nil when its last tap is already normalised.
  package var norm: NormParameters?
  /// Vocabulary embedding of the language-model head, [vocabulary × width]; nil for other heads.
  package var embedding: Matrix?
  /// Factor on the states before the language-model head (T5: width^−½ when tied).
  package var embeddingScale: Float
  /// Added to the scores of the language-model head, [1 × vocabulary] (BART).
  package var embeddingBias: Matrix?
  /// Keeps copied values alive.
  private var storage: Arena?

  /// The parts that the given head needs; the memory behind them is the caller's.
  package init(
    norm: NormParameters?, embedding: Matrix? = nil, embeddingScale: Float = 1, embeddingBias: Matrix? = nil
  ) {
    self.norm = norm
    self.embedding = embedding
    self.embeddingScale = embeddingScale
    self.embeddingBias = embeddingBias
  }

  /// A copy of what `head` needs of a backbone's last stack, which outlives the backbone.
  package init(copying backbone: any Backbone, head: TaskHead) {
    self.init(norm: nil)
    let norm = backbone.finalNorm(stack: backbone.architecture.stacks.count - 1)
    let output = Self.outputHead(of: backbone, head: head)
    let arena = Arena(floatCount: max(16, Self.floatCount(copying: backbone, head: head)))
    var end = 0
    func copy(_ parameter: Parameter) -> Parameter {
      let place = arena.base + end
      place.update(from: parameter.values, count: parameter.count)
      end += parameter.count
      return Parameter(
        frozen: parameter.name, rows: parameter.rows, columns: parameter.columns,
        values: UnsafePointer(place))
    }
    if let norm {
      self.norm = NormParameters(
        kind: norm.kind, epsilon: norm.epsilon, weight: copy(norm.weight), bias: norm.bias.map(copy))
    }
    if let output {
      embedding = copy(output.weight).matrix
      embeddingScale = output.scale
      embeddingBias = output.bias.map { copy($0).matrix }
    }
    storage = arena
  }

  /// Floats of such a copy.
  package static func floatCount(copying backbone: any Backbone, head: TaskHead) -> Int {
    let norm = backbone.finalNorm(stack: backbone.architecture.stacks.count - 1)
    let output = outputHead(of: backbone, head: head)
    return [norm?.weight, norm?.bias, output?.weight, output?.bias].reduce(0) { $0 + ($1?.count ?? 0) }
  }

  private static func outputHead(of backbone: any Backbone, head: TaskHead) -> LanguageModelHead? {
    guard head == .languageModel else { return nil }
    guard let output = backbone.leaves.head else {
      preconditionFailure("\(backbone.architecture.name) writes no text")
    }
    return output
  }
}
