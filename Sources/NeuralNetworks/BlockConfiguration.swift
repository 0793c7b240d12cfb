package import TensorKernels

/// Where a block's norms stand.
package enum NormPlacement: Sendable, Equatable {
  /// Before each sub-layer; the residual stream itself is never normalised (T5).
  case pre
  /// After each residual sum (BERT, BART).
  case post
}

/// Everything that decides the shape and the arithmetic of a transformer block.
package struct BlockConfiguration: Sendable, Equatable {
  /// Width of the residual stream.
  package var width: Int
  /// Attention heads.
  package var heads: Int
  /// Width of a head; `heads · headSize` need not equal `width`.
  package var headSize: Int
  /// Width of the feed-forward's hidden layer.
  package var hidden: Int
  /// Kind of all norms.
  package var norm: NormKind
  /// Added to the variance (or mean square) in norms.
  package var epsilon: Float
  /// Where the norms stand.
  package var placement: NormPlacement
  /// Activation of the feed-forward.
  package var activation: Activation
  /// True when the feed-forward is `act(gate(x)) ∘ up(x)` (T5 v1.1).
  package var gated: Bool
  /// True when linear layers have biases and layer norms have shifts.
  package var biases: Bool
  /// Multiplies attention scores before the softmax; 1 in T5.
  package var attentionScale: Float
  /// True when a token attends only to itself and earlier ones.
  package var causal: Bool
  /// True when the block also attends to an encoder's states.
  package var crossAttention: Bool

  /// Describes a block; sizes must be positive.
  package init(
    width: Int, heads: Int, headSize: Int, hidden: Int, norm: NormKind, epsilon: Float,
    placement: NormPlacement, activation: Activation, gated: Bool, biases: Bool, attentionScale: Float,
    causal: Bool, crossAttention: Bool
  ) {
    precondition(
      width > 0 && heads > 0 && headSize > 0 && hidden > 0,
      "a block of width \(width), \(heads) heads of \(headSize), hidden \(hidden)")
    self.width = width
    self.heads = heads
    self.headSize = headSize
    self.hidden = hidden
    self.norm = norm
    self.epsilon = epsilon
    self.placement = placement
    self.activation = activation
    self.gated = gated
    self.biases = biases
    self.attentionScale = attentionScale
    self.causal = causal
    self.crossAttention = crossAttention
  }

  /// Width of all heads together.
  package var inner: Int { heads * headSize }

  /// The block's leaves in their canonical order, under `prefix`.
  ///
  /// The weights of query, key and value follow each other, as do their biases, so that a flat vector
  /// lets the three be one matrix product.
  package func parameterShapes(prefix: String) -> [ParameterShape] {
    var shapes = attentionShapes("\(prefix).selfAttention")
    if crossAttention { shapes += attentionShapes("\(prefix).crossAttention") }
    let feedForward = "\(prefix).feedForward"
    let ups = gated ? ["gate", "up"] : ["up"]
    shapes += ups.map {
      ParameterShape("\(feedForward).\($0).weight", rows: hidden, columns: width, kind: .weight)
    }
    if biases {
      shapes += ups.map { ParameterShape("\(feedForward).\($0).bias", rows: 1, columns: hidden, kind: .bias) }
    }
    shapes.append(ParameterShape("\(feedForward).down.weight", rows: width, columns: hidden, kind: .weight))
    if biases {
      shapes.append(ParameterShape("\(feedForward).down.bias", rows: 1, columns: width, kind: .bias))
    }
    return shapes + norm.parameterShapes(prefix: "\(feedForward).norm", width: width)
  }

  private func attentionShapes(_ prefix: String) -> [ParameterShape] {
    let inputs = ["query", "key", "value"]
    var shapes = inputs.map {
      ParameterShape("\(prefix).\($0).weight", rows: inner, columns: width, kind: .weight)
    }
    if biases {
      shapes += inputs.map { ParameterShape("\(prefix).\($0).bias", rows: 1, columns: inner, kind: .bias) }
    }
    shapes.append(ParameterShape("\(prefix).output.weight", rows: width, columns: inner, kind: .weight))
    if biases { shapes.append(ParameterShape("\(prefix).output.bias", rows: 1, columns: width, kind: .bias)) }
    return shapes + norm.parameterShapes(prefix: "\(prefix).norm", width: width)
  }
}

extension NormKind {
  /// Floats that a norm's forward keeps of each row for its backward.
  package var statisticsPerRow: Int {
    switch self {
    case .rms: 1
    case .layer: 2
    }
  }

  /// The leaves of a norm: a scale, and for a layer norm a shift.
  package func parameterShapes(prefix: String, width: Int) -> [ParameterShape] {
    let scale = ParameterShape("\(prefix).weight", rows: 1, columns: width, kind: .norm)
    switch self {
    case .rms: return [scale]
    case .layer: return [scale, ParameterShape("\(prefix).bias", rows: 1, columns: width, kind: .norm)]
    }
  }
}
