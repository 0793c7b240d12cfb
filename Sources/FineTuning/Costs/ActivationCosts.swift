import LanguageModels
import NeuralNetworks
import TensorKernels

extension BlockConfiguration {
  /// Floats that the engine keeps of one block's forward for its backward.
  func keptFloats(_ kind: StackKind, _ workload: CostWorkload, checkpoints: Bool) -> Int {
    let tokens = workload.tokens(kind)
    if checkpoints { return tokens * width }
    var layout = ArenaLayout()
    _ = BlockActivations(
      self,
      capacity: BlockCapacity(
        tokens: tokens, encoderTokens: crossAttention ? workload.encoderTokens : 0,
        longestEncoder: crossAttention ? workload.encoderLength : 0), training: true, layout: &layout)
    // The block's input is its predecessor's output, or the embedding's.
    return layout.floatCount + tokens * width
  }

  /// Floats that PyTorch's autograd keeps of one block's forward, with dropout as T5 and BART ship it.
  ///
  /// Saved are: a product's operands (the input of a weight only when the weight is trained), a softmax's output, an
  /// activation's output (ReLU) or input and output (GELU), dropout's mask of a byte an element, a norm's input, and
  /// what a trained norm multiplies. This is how the paper's Table 1 counts activations, too.
  func autogradFloats(_ kind: StackKind, _ workload: CostWorkload, _ training: BlockTraining) -> Int {
    guard training.isDifferentiated else { return 0 }
    let rows = workload.tokens(kind)
    let length = workload.length(kind)
    let trains = training.trainsWeights
    func mask(_ elements: Int) -> Int { elements / 4 }
    func adapted(_ targets: [LoRATarget]) -> Bool {
      training.lora.map { lora in targets.contains { lora.targets.contains($0) } } ?? false
    }
    // Input; and the normalised rows twice, before the scale and as the input of trained matrices.
    func normFloats(feeds targets: [LoRATarget]) -> Int {
      rows * width * (1 + (trains ? 1 : 0) + (trains || adapted(targets) ? 1 : 0))
    }
    func pairFloats(_ rows: Int, _ targets: [LoRATarget]) -> Int {
      rows * (training.lora.map { lora in lora.rank * lora.targets.filter(targets.contains).count } ?? 0)
    }
    func attentionFloats(_ probabilities: Int, keys: Int) -> Int {
      var floats = normFloats(feeds: [.query, .key, .value])
      floats += rows * inner + 2 * keys * inner
      floats += 2 * probabilities + mask(probabilities)
      floats += trains || adapted([.output]) ? rows * inner : 0
      floats += mask(rows * width) + bottleneckFloats(rows, training)
      return floats + pairFloats(rows, [.query, .output]) + pairFloats(keys, [.key, .value])
    }
    var floats = attentionFloats(rows * heads * length, keys: rows)
    if crossAttention {
      floats += attentionFloats(rows * heads * workload.encoderLength, keys: workload.encoderTokens)
    }
    floats += normFloats(feeds: [.gate, .up])
    let keepsInputAndOutput = activation != .relu
    floats += rows * hidden * (gated ? 3 : 1) + (keepsInputAndOutput && trains ? rows * hidden : 0)
    floats += mask(rows * hidden) + (trains || adapted([.down]) ? rows * hidden : 0)
    floats += mask(rows * width) + bottleneckFloats(rows, training)
    return floats + pairFloats(rows, [.gate, .up, .down])
  }

  /// A bottleneck's input and its activated rows.
  private func bottleneckFloats(_ rows: Int, _ training: BlockTraining) -> Int {
    training.bottleneck.map { rows * (width + $0) } ?? 0
  }
}
