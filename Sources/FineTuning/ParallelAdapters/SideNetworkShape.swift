package import LanguageModels
package import NeuralNetworks
import TensorKernels

/// What a model is asked to produce.
public enum TaskHead: Codable, Sendable, Equatable {
  /// Scores of the given number of classes.
  case classes(Int)
  /// One number.
  case value
  /// Scores of the vocabulary for each decoder token, through the backbone's own frozen head.
  case languageModel

  /// Columns of the trained head; 0 when the head is the backbone's.
  package var outputs: Int {
    switch self {
    case .classes(let count): count
    case .value: 1
    case .languageModel: 0
    }
  }
}

/// One stack of a side network, derived from the backbone's stack.
package struct SideStackShape: Sendable, Equatable {
  /// "encoder" or "decoder"; the prefix of its parameter names.
  package var name: String
  /// Encoder or decoder.
  package var kind: StackKind
  /// Layers of the backbone's stack.
  package var depth: Int
  /// Backbone layers that have a side block, ascending.
  package var layers: [Int]
  /// Backbone taps that are read, ascending: 0, every kept layer + 1, and the last where the output needs it.
  package var taps: [Int]
  /// The side block: every width of the backbone's divided by k.
  package var block: BlockConfiguration
  /// T5's relative position bias of the stack.
  package var relativeBias: RelativeBiasShape?
  /// True when the stack ends in a norm (pre-norm models).
  package var hasFinalNorm: Bool

  /// Taps in which the tokens of two texts can be compared: from a third of the depth to the last but one.
  ///
  /// What a frozen encoder keeps of single words is there until about half of its depth (docs/REPRODUCING-PAC.md), and its last
  /// states are made for one vector a text.
  package var alignedTaps: [Int] {
    let least = max(1, depth / 3)
    let middle = taps.filter { $0 >= least && $0 < depth }
    return middle.isEmpty ? taps.filter { $0 > 0 } : middle
  }

  /// Those of a part of the stack.
  package func layers(of part: StackPart) -> [Int] { layers.filter(part.layers.contains) }

  /// Those that a part of the stack makes: of every layer its output, and of the first also its input.
  package func taps(of part: StackPart) -> [Int] {
    taps.filter { part.layers.contains($0 - 1) || $0 == 0 && part.startsStack }
  }
}

/// Why a side network cannot be made for a backbone.
public enum SideNetworkFailure: Error, Equatable, CustomStringConvertible {
  /// A width of the backbone is not divisible by the reduction, or the heads do not divide the side width.
  case indivisible(quantity: String, value: Int, by: Int)
  /// A chosen layer does not exist.
  case noSuchLayer(Int, layers: Int)
  /// An encoder's tokens are to be pooled where the prediction is a decoder's.
  case predictsWithDecoder(backbone: String, pooling: String)

  /// One line: what is wrong and what to change.
  public var description: String {
    switch self {
    case .indivisible(let quantity, let value, let by):
      "\(quantity) \(value) is not divisible by \(by); choose another --reduction"
    case .noSuchLayer(let layer, let layers):
      "there is no layer \(layer): the backbone has layers 0 to \(layers - 1); change --taps"
    case .predictsWithDecoder(let backbone, let pooling):
      "\(backbone) predicts with its decoder's states, not with a text's: it has no pooling '\(pooling)'; choose "
        + "--pooling tokens"
    }
  }
}

/// All shapes of a side network.
package struct SideNetworkShape: Sendable, Equatable {
  /// The configuration that it was derived from.
  package let configuration: ParallelAdapterConfiguration
  /// What it predicts.
  package let head: TaskHead
  /// Width d of the backbone.
  package let backboneWidth: Int
  /// Width r = d/k of the side network.
  package let width: Int
  /// The stacks, in the backbone's order.
  package let stacks: [SideStackShape]

  /// Temperature of the gates (Ladder Side-Tuning: 0.1).
  package static let gateTemperature: Float = 0.1

  /// Whether the head reads averages of every tap's tokens too.
  package var poolsTaps: Bool { configuration.pooling == .attention }
  /// Whether the head compares the two texts of a sample.
  package var comparesSegments: Bool { configuration.pooling?.readsPairs == true }
  /// Whether the tokens of a sample's two texts are compared before they are pooled.
  package var alignsTexts: Bool { configuration.pooling == .aligned }
  /// Pooled rows of a sample.
  package var pooledRows: Int { comparesSegments ? 2 : 1 }
  /// Values of a sample that the head reads: `u`, `v`, `|u − v|` and `u ⊙ v` where it compares.
  package var headInputs: Int { comparesSegments ? 4 * backboneWidth : backboneWidth }

  /// Taps whose averages are added up.
  package var pooledTaps: Int { poolsTaps ? stacks.reduce(0) { $0 + $1.taps.count } : 0 }

  /// The prefix of the names of what compares aligned texts behind the taps.
  package static let alignment = "alignment"

  /// The prefix of the names of what compares the aligned tokens of a tap, which belongs to the layer that makes it.
  package static func alignmentPrefix(_ stack: String, tap: Int) -> String {
    "\(stack).layers.\(tap - 1).\(alignment)"
  }

  /// Taps whose tokens are compared.
  package var alignedTaps: Int { alignsTexts ? stacks.reduce(0) { $0 + $1.alignedTaps.count } : 0 }

  /// The prefix of the names of what pools a tap: it belongs to the layer that makes the tap, tap 0 to the stack's input.
  package static func poolingPrefix(_ stack: String, tap: Int) -> String {
    tap == 0 ? "\(stack).pooling" : "\(stack).layers.\(tap - 1).pooling"
  }

  /// The encoder tokens of each pooled row, sample by sample; none for a text that is not there.
  ///
  /// The second text of a sample begins at the first token of another segment than 0.
  package func pooledTokens(_ batch: PackedMicroBatch) -> [Range<Int>] {
    (0..<batch.encoder.count).flatMap { sample -> [Range<Int>] in
      let first = batch.encoder.offsets[sample]
      let end = first + batch.encoder.length(sample)
      guard comparesSegments else { return [first..<end] }
      let types = batch.encoderTypes
      let second = types.count < end ? end : types[first..<end].firstIndex { $0 != 0 } ?? end
      return [first..<second, second..<end]
    }
  }

  /// Layers of each of the backbone's stacks.
  package var depths: [Int] { stacks.map(\.depth) }

  /// Derives the shapes from a backbone's.
  package init(
    _ configuration: ParallelAdapterConfiguration, head: TaskHead, backbone: BackboneArchitecture
  ) throws(SideNetworkFailure) {
    self.configuration = configuration
    self.head = head
    backboneWidth = backbone.width
    if let pooling = configuration.pooling, pooling != .tokens,
      head == .languageModel || backbone.stacks.last?.kind == .decoder
    {
      throw .predictsWithDecoder(backbone: backbone.name, pooling: pooling.rawValue)
    }
    width = try Self.reduced("the backbone's width", backbone.width, by: configuration.reduction)
    var stacks: [SideStackShape] = []
    for (index, stack) in backbone.stacks.enumerated() {
      stacks.append(
        try Self.sideStack(
          of: stack, isLast: index == backbone.stacks.count - 1, width: width, configuration: configuration))
    }
    self.stacks = stacks
  }

  private static func reduced(_ quantity: String, _ value: Int, by k: Int) throws(SideNetworkFailure) -> Int {
    guard k > 0, value % k == 0, value / k > 0 else {
      throw .indivisible(quantity: quantity, value: value, by: k)
    }
    return value / k
  }

  private static func sideStack(
    of stack: StackShape, isLast: Bool, width: Int, configuration: ParallelAdapterConfiguration
  ) throws(SideNetworkFailure) -> SideStackShape {
    let layers = (configuration.layers ?? Array(0..<stack.layers)).sorted()
    for layer in layers where layer < 0 || layer >= stack.layers {
      throw .noSuchLayer(layer, layers: stack.layers)
    }
    var block = stack.block
    let heads = configuration.headCount(width: width, backboneHeads: stack.block.heads)
    guard width % heads == 0 else { throw .indivisible(quantity: "the side width", value: width, by: heads) }
    block.width = width
    block.heads = heads
    block.headSize = width / heads
    block.hidden = try reduced("the feed-forward width", stack.block.hidden, by: configuration.reduction)
    // T5 does not scale its scores (its initialisation does); BERT divides by the root of the head size.
    if stack.block.attentionScale != 1 { block.attentionScale = 1 / Float(block.headSize).squareRoot() }
    var taps = [0] + layers.map { $0 + 1 }
    if isLast, configuration.output != .side, taps.last != stack.layers { taps.append(stack.layers) }
    return SideStackShape(
      name: stack.kind == .encoder ? "encoder" : "decoder", kind: stack.kind, depth: stack.layers,
      layers: layers, taps: taps, block: block, relativeBias: stack.relativeBias,
      hasFinalNorm: stack.hasFinalNorm)
  }
}
