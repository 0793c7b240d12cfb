package import LanguageModels
package import NeuralNetworks

/// A linear layer of a backbone that a low-rank pair can stand beside.
package struct AdaptableLayer: Sendable {
  /// Its path in parameter trees, for instance `encoder.0.selfAttention.query`.
  package let name: String
  /// What it projects.
  package let target: LoRATarget
  /// Its frozen matrix.
  package let weight: Parameter
  /// Its module in the reference implementation, for instance `encoder.block.0.layer.0.SelfAttention.q`.
  package let module: String
}

extension Backbone {
  /// Every linear layer inside the blocks, in the order of the blocks.
  package var adaptableLayers: [AdaptableLayer] {
    architecture.stacks.enumerated().flatMap { index, shape in
      (0..<shape.layers).flatMap { layer in
        layers(of: block(stack: index, layer: layer), prefix: "\(shape.kind.rawValue).\(layer)")
      }
    }
  }

  private func layers(of block: BlockParameters, prefix: String) -> [AdaptableLayer] {
    func layer(_ path: String, _ target: LoRATarget, _ linear: LinearParameters) -> AdaptableLayer {
      AdaptableLayer(
        name: "\(prefix).\(path).\(target.rawValue)", target: target, weight: linear.weight,
        module: module(of: linear.weight))
    }
    func layers(_ path: String, _ attention: AttentionParameters) -> [AdaptableLayer] {
      [
        layer(path, .query, attention.query), layer(path, .key, attention.key),
        layer(path, .value, attention.value), layer(path, .output, attention.output),
      ]
    }
    let feedForward = block.feedForward
    return layers("selfAttention", block.selfAttention)
      + (block.crossAttention.map { layers("crossAttention", $0) } ?? [])
      + (feedForward.gate.map { [layer("feedForward", .gate, $0)] } ?? [])
      + [layer("feedForward", .up, feedForward.up), layer("feedForward", .down, feedForward.down)]
  }

  /// The module that owns a weight in the class that PEFT wraps: `BertModel`, `T5ForConditionalGeneration`,
  /// `BartForConditionalGeneration`.
  private func module(of weight: Parameter) -> String {
    let bare = PEFTAdapter.withoutClassPrefix(weight.name)
    let path = bare.hasSuffix(".weight") ? String(bare.dropLast(".weight".count)) : bare
    return architecture.name == "bart" ? "model." + path : path
  }
}
