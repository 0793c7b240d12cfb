import Determinism
package import LanguageModels
package import NeuralNetworks
import TensorKernels

/// A trained leaf that a technique adds to a backbone or takes over from it.
struct TrainedLeaf {
  let shape: ParameterShape
  let start: Start

  /// Where its values start.
  enum Start {
    /// As the backbone's leaf.
    case copy(Parameter)
    /// Normal with this deviation.
    case normal(Float)
    /// Uniform between −bound and bound.
    case uniform(Float)
    case zero
  }
}

extension TechniqueConfiguration {
  /// The trained leaves in the order of the flat vector.
  func trainedLeaves(
    head: TaskHead, architecture: BackboneArchitecture, leaves: BackboneLeaves
  ) -> [TrainedLeaf] {
    var trained: [TrainedLeaf] = []
    switch self {
    case .parallel: preconditionFailure("a side network's leaves are SideNetworkShape's")
    case .full: trained = fullLeaves(head: head, architecture: architecture, leaves: leaves)
    case .houlsby(let configuration):
      forEachSubLayer(architecture, leaves) { prefix, _ in
        for shape in BottleneckParameters.parameterShapes(
          prefix: "\(prefix).adapter", width: architecture.width,
          bottleneck: configuration.bottleneck(width: architecture.width))
        {
          // Small enough that the block starts as it was.
          trained.append(TrainedLeaf(shape: shape, start: shape.kind == .bias ? .zero : .normal(0.01)))
        }
      }
    case .lora(let configuration):
      forEachSubLayer(architecture, leaves) { prefix, linears in
        for (target, linear) in linears where configuration.targets.contains(target) {
          let name = "\(prefix).\(target.rawValue)"
          trained.append(
            TrainedLeaf(
              shape: ParameterShape(
                "\(name).loraA", rows: configuration.rank, columns: linear.inputs, kind: .weight),
              // PEFT's: Kaiming's uniform with a = √5.
              start: .uniform(1 / Float(linear.inputs).squareRoot())))
          trained.append(
            TrainedLeaf(
              shape: ParameterShape(
                "\(name).loraB", rows: linear.outputs, columns: configuration.rank, kind: .weight),
              start: .zero))
        }
      }
    }
    guard head.outputs > 0 else { return trained }
    return trained + [
      TrainedLeaf(
        shape: ParameterShape("head.weight", rows: head.outputs, columns: architecture.width, kind: .weight),
        start: .normal(0.02)),
      TrainedLeaf(
        shape: ParameterShape("head.bias", rows: 1, columns: head.outputs, kind: .bias), start: .zero),
    ]
  }

  private func fullLeaves(
    head: TaskHead, architecture: BackboneArchitecture, leaves: BackboneLeaves
  ) -> [TrainedLeaf] {
    var trained: [TrainedLeaf] = []
    func append(_ leaf: Parameter?, _ name: String, _ kind: ParameterKind) {
      guard let leaf else { return }
      trained.append(
        TrainedLeaf(
          shape: ParameterShape(name, rows: leaf.rows, columns: leaf.columns, kind: kind), start: .copy(leaf))
      )
    }
    func append(_ norm: NormParameters?, _ name: String) {
      append(norm?.weight, "\(name).weight", .norm)
      append(norm?.bias, "\(name).bias", .norm)
    }
    append(leaves.stacks[0].embedding.words, "words", .embedding)
    for (stack, shape) in zip(leaves.stacks, architecture.stacks) {
      let name = shape.kind.rawValue
      append(stack.embedding.positions, "\(name).positions", .embedding)
      append(stack.embedding.types, "\(name).types", .embedding)
      append(stack.embedding.norm, "\(name).embeddingNorm")
      for (layer, block) in stack.blocks.enumerated() {
        for (shape, leaf) in zip(shape.block.parameterShapes(prefix: "\(name).\(layer)"), block.leaves) {
          trained.append(TrainedLeaf(shape: shape, start: .copy(leaf)))
        }
      }
      append(stack.relativeBias, "\(name).relativeBias", .embedding)
      append(stack.finalNorm, "\(name).norm")
    }
    if head == .languageModel, !leaves.isTied {
      append(leaves.head?.weight, "languageModelHead.weight", .weight)
    }
    return trained
  }

  private func forEachSubLayer(
    _ architecture: BackboneArchitecture, _ leaves: BackboneLeaves,
    _ body: (_ prefix: String, _ linears: [(LoRATarget, LinearParameters)]) -> Void
  ) {
    for (stack, shape) in zip(leaves.stacks, architecture.stacks) {
      for (layer, block) in stack.blocks.enumerated() {
        let prefix = "\(shape.kind.rawValue).\(layer)"
        func attention(_ attention: AttentionParameters, _ name: String) {
          body(
            "\(prefix).\(name)",
            [
              (.query, attention.query), (.key, attention.key), (.value, attention.value),
              (.output, attention.output),
            ])
        }
        attention(block.selfAttention, "selfAttention")
        if let cross = block.crossAttention { attention(cross, "crossAttention") }
        let feedForward = block.feedForward
        body(
          "\(prefix).feedForward",
          (feedForward.gate.map { [(.gate, $0)] } ?? []) + [(.up, feedForward.up), (.down, feedForward.down)])
      }
    }
  }

  /// Name in the tree and in the backbone's checkpoint of every leaf that full fine-tuning takes over.
  package static func checkpointNames(of backbone: any Backbone) -> [(tree: String, checkpoint: String)] {
    TechniqueConfiguration.full(FullConfiguration()).trainedLeaves(
      head: .languageModel, architecture: backbone.architecture, leaves: backbone.leaves
    ).compactMap { leaf in
      if case .copy(let source) = leaf.start { (leaf.shape.name, source.name) } else { nil }
    }
  }

  // MARK: The transformed tree

  /// The leaves that the tuned model's forward reads: the backbone's own, and those of `parameters`.
  package func tunedLeaves(
    of leaves: BackboneLeaves, architecture: BackboneArchitecture, parameters: ParameterTree
  ) -> BackboneLeaves {
    var tuned = leaves
    switch self {
    case .parallel: preconditionFailure("a side network transforms no leaf")
    case .full:
      for (index, shape) in architecture.stacks.enumerated() {
        tuned.stacks[index] = Self.trained(leaves.stacks[index], shape, parameters)
      }
      tuned.head = leaves.head.map { head in
        let words = tuned.stacks[0].embedding.words
        return LanguageModelHead(
          weight: leaves.isTied
            ? words : parameters.parameter(named: "languageModelHead.weight") ?? head.weight,
          scale: head.scale, bias: head.bias)
      }
    case .houlsby:
      transformBlocks(&tuned, architecture) { block, prefix in
        func bottleneck(_ subLayer: String) -> BottleneckParameters {
          let name = "\(prefix).\(subLayer).adapter"
          return BottleneckParameters(
            down: LinearParameters(parameters, "\(name).down", bias: true),
            up: LinearParameters(parameters, "\(name).up", bias: true))
        }
        block.selfAttention.bottleneck = bottleneck("selfAttention")
        block.crossAttention?.bottleneck = bottleneck("crossAttention")
        block.feedForward.bottleneck = bottleneck("feedForward")
      }
    case .lora(let configuration):
      transformBlocks(&tuned, architecture) { block, prefix in
        func attach(_ linear: inout LinearParameters, _ name: String) {
          guard let a = parameters.parameter(named: "\(prefix).\(name).loraA") else { return }
          linear.lowRank = LowRankPair(
            a: a, b: parameters["\(prefix).\(name).loraB"], scale: configuration.scale)
        }
        func attach(_ attention: inout AttentionParameters, _ name: String) {
          attach(&attention.query, "\(name).query")
          attach(&attention.key, "\(name).key")
          attach(&attention.value, "\(name).value")
          attach(&attention.output, "\(name).output")
        }
        attach(&block.selfAttention, "selfAttention")
        if var cross = block.crossAttention {
          attach(&cross, "crossAttention")
          block.crossAttention = cross
        }
        if var gate = block.feedForward.gate {
          attach(&gate, "feedForward.gate")
          block.feedForward.gate = gate
        }
        attach(&block.feedForward.up, "feedForward.up")
        attach(&block.feedForward.down, "feedForward.down")
      }
    }
    return tuned
  }

  private static func trained(
    _ leaves: StackLeaves, _ shape: StackShape, _ tree: ParameterTree
  ) -> StackLeaves {
    let name = shape.kind.rawValue
    func norm(_ norm: NormParameters?, _ place: String) -> NormParameters? {
      norm.map { NormParameters(tree, "\(name).\(place)", kind: $0.kind, epsilon: $0.epsilon) }
    }
    let embedding = leaves.embedding
    return StackLeaves(
      embedding: StackEmbedding(
        words: tree["words"], scale: embedding.scale,
        positions: embedding.positions.map { _ in tree["\(name).positions"] },
        positionOffset: embedding.positionOffset,
        types: embedding.types.map { _ in tree["\(name).types"] },
        norm: norm(embedding.norm, "embeddingNorm")),
      blocks: (0..<shape.layers).map {
        BlockParameters(tree, prefix: "\(name).\($0)", configuration: shape.block)
      },
      relativeBias: leaves.relativeBias.map { _ in tree["\(name).relativeBias"] },
      finalNorm: norm(leaves.finalNorm, "norm"))
  }

  private func transformBlocks(
    _ leaves: inout BackboneLeaves, _ architecture: BackboneArchitecture,
    _ transform: (_ block: inout BlockParameters, _ prefix: String) -> Void
  ) {
    for (index, shape) in architecture.stacks.enumerated() {
      for layer in leaves.stacks[index].blocks.indices {
        transform(&leaves.stacks[index].blocks[layer], "\(shape.kind.rawValue).\(layer)")
      }
    }
  }

  /// The tuned model as a backbone that is only read.
  package func tunedBackbone<Base: Backbone>(_ base: Base, parameters: ParameterTree) -> Base {
    base.replacing(
      tunedLeaves(of: base.leaves, architecture: base.architecture, parameters: parameters),
      keepingAlive: TreeOwner(tree: parameters))
  }
}

/// Keeps a tree's memory alive.
private final class TreeOwner: Sendable {
  let tree: ParameterTree

  init(tree: ParameterTree) { self.tree = tree }
}

extension BackboneTuning {
  /// Every trainable leaf, in the order of the flat vector.
  package static func parameterShapes(
    configuration: TechniqueConfiguration, head: TaskHead, backbone: any Backbone
  ) -> [ParameterShape] {
    configuration.trainedLeaves(head: head, architecture: backbone.architecture, leaves: backbone.leaves)
      .map(\.shape)
  }

  /// A tree with all trainable leaves at their starting values.
  ///
  /// Random values are drawn per leaf from (seed, index), so that adding a leaf moves no other.
  ///
  /// - Parameter layers: those of the only stage whose values are needed: of the others nothing is read from the
  ///   backbone, which may lack them, and nothing is written.
  package static func initialParameters(
    configuration: TechniqueConfiguration, head: TaskHead, backbone: any Backbone, seed: UInt64,
    layers: Range<Int>? = nil
  ) -> ParameterTree {
    let leaves = configuration.trainedLeaves(
      head: head, architecture: backbone.architecture, leaves: backbone.leaves)
    let needed = layers.map { layers in
      let stage = StageLeaves(
        configuration, head: head, backbone: backbone, layers: layers, names: leaves.map(\.shape.name))
      return Set(stage.own + stage.shared)
    }
    return ParameterTree(trainable: leaves.map(\.shape)) { index, values in
      if let needed, !needed.contains(index) { return }
      guard let base = values.baseAddress else { return }
      var generator = SeededGenerator(seed: seed, 0x7475_6E65, UInt64(index))
      switch leaves[index].start {
      case .copy(let source): base.update(from: source.values, count: values.count)
      case .normal(let deviation):
        for element in 0..<values.count { values[element] = deviation * generator.normalFloat() }
      case .uniform(let bound):
        for element in 0..<values.count { values[element] = bound * (2 * generator.uniformFloat() - 1) }
      case .zero: return
      }
    }
  }

  /// A tree with all trainable leaves, all zero, to be filled from a file.
  package static func emptyParameters(
    configuration: TechniqueConfiguration, head: TaskHead, backbone: any Backbone
  ) -> ParameterTree {
    ParameterTree(
      trainable: parameterShapes(configuration: configuration, head: head, backbone: backbone),
      initialize: { _, _ in })
  }
}
