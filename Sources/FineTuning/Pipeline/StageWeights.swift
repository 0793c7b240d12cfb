package import LanguageModels
package import NeuralNetworks

extension Backbone {
  /// The frozen leaves that a stage reads, whatever the technique; all others may be missing from its memory and disk.
  ///
  /// They are those of its layers, of what precedes a stack's first and follows its last, and the biases that a stack's
  /// layers share. Full fine-tuning takes its starting values from the same leaves.
  package func stageWeights(layers: Range<Int>, head: TaskHead) -> [Parameter] {
    let leaves = self.leaves
    var weights: [Parameter] = []
    for part in StackPart.parts(of: layers, depths: architecture.depths) {
      let stack = leaves.stacks[part.stack]
      if part.startsStack {
        let embedding = stack.embedding
        weights += [embedding.words, embedding.positions, embedding.types].compactMap { $0 }
        weights += Self.leaves(embedding.norm)
      }
      weights += stack.blocks[part.layers].flatMap(\.leaves)
      if let relativeBias = stack.relativeBias { weights.append(relativeBias) }
      guard part.endsStack else { continue }
      weights += Self.leaves(stack.finalNorm)
      if part.stack == leaves.stacks.count - 1 { weights += outputWeights(head: head) }
    }
    return Self.unique(weights)
  }

  /// The frozen leaves that a side network needs behind the last tap: all that cached epochs read of a backbone.
  package func outputWeights(head: TaskHead) -> [Parameter] {
    let norm = Self.leaves(leaves.stacks.last?.finalNorm)
    guard head == .languageModel, let output = leaves.head else { return norm }
    return norm + [output.weight] + (output.bias.map { [$0] } ?? [])
  }

  private static func leaves(_ norm: NormParameters?) -> [Parameter] {
    guard let norm else { return [] }
    return [norm.weight] + (norm.bias.map { [$0] } ?? [])
  }

  private static func unique(_ leaves: [Parameter]) -> [Parameter] {
    var names: Set<String> = []
    return leaves.filter { names.insert($0.name).inserted }
  }
}
