import LanguageModels
import NeuralNetworks
import TensorKernels

/// Puts the costs of blocks together to those of a model.
struct CostBuilder {
  let architecture: BackboneArchitecture
  let technique: TechniqueConfiguration
  let head: TaskHead
  let workload: CostWorkload
  let counting: TechniqueCosts.Counting
  let side: SideNetworkShape?

  private var width: Int { architecture.width }
  private var trainsBackbone: Bool { if case .full = technique { true } else { false } }

  func parts() -> [PartCosts] {
    var parts: [PartCosts] = []
    var passesEncoder = false
    for (index, stack) in architecture.stacks.enumerated() {
      parts.append(embedding(index, stack))
      var passes = trainsBackbone
      for layer in 0..<stack.layers {
        var training = blockTraining()
        training.passes = passes
        training.passesEncoder = stack.block.crossAttention && passesEncoder
        parts.append(self.layer(index, stack, layer, training))
        passes = training.isDifferentiated
      }
      passesEncoder = passes
    }
    parts.append(headPart(passes: passesEncoder))
    return parts
  }

  private func blockTraining() -> BlockTraining {
    switch technique {
    case .parallel: BlockTraining()
    case .full: BlockTraining(trainsWeights: true)
    case .houlsby(let configuration): BlockTraining(bottleneck: configuration.bottleneck(width: width))
    case .lora(let configuration): BlockTraining(lora: configuration)
    }
  }

  private func count(_ parameters: Int, in part: inout PartCosts) {
    if trainsBackbone {
      part.trainableParameters += parameters
    } else {
      part.frozenParameters += parameters
    }
  }

  // MARK: Embeddings

  private func embedding(_ index: Int, _ stack: StackShape) -> PartCosts {
    var part = PartCosts(part: .embedding(stack.kind))
    // Words are shared by the stacks and the head.
    var parameters = index == 0 ? architecture.vocabulary * width : 0
    if let positions = architecture.maximumLength {
      // BART keeps two rows before the first position; BERT has two segments. Both normalise the sum.
      parameters += (positions + 2) * width + 2 * width
    }
    parameters += stack.relativeBias.map { $0.buckets * stack.block.heads } ?? 0
    count(parameters, in: &part)
    let tokens = workload.tokens(stack.kind)
    addBoundary(&part, index, stack, passes: trainsBackbone)
    addTap(&part, index, stack, tap: 0)
    if let side {
      let shape = side.stacks[index]
      var counter = ProductCounter()
      counter.weight(rows: tokens, inputs: width, outputs: side.width, trains: true, passes: false)
      part.sideForward += counter.forward
      part.sideBackward += counter.backward
      part.trainableParameters += side.width * (width + 1)
      part.trainableParameters += shape.relativeBias.map { $0.buckets * shape.block.heads } ?? 0
    }
    return part
  }

  // MARK: Blocks

  private func layer(_ index: Int, _ stack: StackShape, _ layer: Int, _ training: BlockTraining) -> PartCosts
  {
    var part = PartCosts(part: .layer(stack.kind, layer))
    let products = stack.block.products(
      stack.kind, workload, training, absorbs: counting.absorbsCrossAttention)
    (part.forward, part.backward) = (products.forward, products.backward)
    count(stack.block.parameterCount, in: &part)
    part.trainableParameters += stack.block.addedParameters(training)
    if stack.hasFinalNorm, layer == stack.layers - 1 { count(normParameters(stack.block), in: &part) }
    if training.isDifferentiated {
      part.activationBytes +=
        4 * stack.block.keptFloats(stack.kind, workload, checkpoints: counting.checkpointsActivations)
      part.autogradBytes += 4 * stack.block.autogradFloats(stack.kind, workload, training)
    }
    addBoundary(&part, index, stack, passes: training.isDifferentiated)
    addTap(&part, index, stack, tap: layer + 1)
    addSideBlock(&part, index, stack, layer)
    return part
  }

  private func normParameters(_ block: BlockConfiguration) -> Int {
    block.norm.parameterShapes(prefix: "", width: block.width).reduce(0) { $0 + $1.count }
  }

  private func addSideBlock(_ part: inout PartCosts, _ index: Int, _ stack: StackShape, _ layer: Int) {
    guard let side, side.stacks[index].layers.contains(layer) else { return }
    let block = side.stacks[index].block
    let training = BlockTraining(
      trainsWeights: true, passes: true, passesEncoder: stack.block.crossAttention)
    var counter = block.products(stack.kind, workload, training, absorbs: counting.absorbsCrossAttention)
    counter.weight(
      rows: workload.tokens(stack.kind), inputs: width, outputs: side.width, trains: true, passes: false)
    part.sideForward += counter.forward
    part.sideBackward += counter.backward
    part.trainableParameters += block.parameterCount + side.width * (width + 1)
    part.trainableParameters += side.configuration.gates ? 1 : 0
    if side.stacks[index].hasFinalNorm, layer == side.stacks[index].layers.last {
      part.trainableParameters += normParameters(block)
    }
    part.activationBytes += 4 * block.keptFloats(stack.kind, workload, checkpoints: false)
    part.autogradBytes += 4 * block.autogradFloats(stack.kind, workload, training)
  }

  // MARK: What crosses a boundary, and what is cached

  private func addBoundary(_ part: inout PartCosts, _ index: Int, _ stack: StackShape, passes: Bool) {
    // A decoder's parts also hand on the encoder's states.
    let tokens =
      workload.tokens(stack.kind) + (stack.kind == .decoder ? workload.encoderTokens : 0)
    part.fillBoundaryBytes = 4 * tokens * width
    part.forwardBoundaryBytes = 4 * tokens * (width + (side?.width ?? 0))
    part.backwardBoundaryBytes = 4 * tokens * (side?.width ?? (passes ? width : 0))
    if let side, side.poolsTaps {
      let sums = 4 * workload.samples * side.pooledRows * side.width
      part.forwardBoundaryBytes += sums
      part.backwardBoundaryBytes += sums
    }
    if let side, side.alignsTexts {
      part.forwardBoundaryBytes += 4 * tokens * side.width
      part.backwardBoundaryBytes += 4 * tokens * side.width
    }
  }

  private func addTap(_ part: inout PartCosts, _ index: Int, _ stack: StackShape, tap: Int) {
    guard let side, side.stacks[index].taps.contains(tap) else { return }
    let tokens = workload.tokens(stack.kind)
    addPooling(&part, side, tokens)
    if side.alignsTexts, side.stacks[index].alignedTaps.contains(tap) { addAlignment(&part, side, tokens) }
    part.cacheBytes = tokens * counting.cacheElement.rowBytes(width: width)
    // The engine reads a tap as the cache has it; autograd keeps the input of its projection.
    part.activationBytes += part.cacheBytes
    part.autogradBytes += 4 * tokens * width
  }

  /// What pools a tap: the query's products with the tokens, the weighted sums, and the projection of the averages.
  private func addPooling(_ part: inout PartCosts, _ side: SideNetworkShape, _ tokens: Int) {
    guard side.poolsTaps else { return }
    let rows = workload.samples * side.pooledRows
    var counter = ProductCounter()
    counter.weight(rows: tokens, inputs: width, outputs: 1, trains: true, passes: true)
    counter.weight(rows: tokens, inputs: width, outputs: 1, trains: false, passes: false)
    counter.weight(rows: rows, inputs: width, outputs: side.width, trains: true, passes: true)
    part.sideForward += counter.forward
    part.sideBackward += counter.backward
    part.trainableParameters += width + side.width * (width + 1)
    part.activationBytes += 4 * (tokens + rows * (width + 1))
    part.autogradBytes += 4 * (2 * tokens + 2 * rows * width)
  }

  /// What compares a tap's aligned tokens: cosines and alignments of each text with the other, and the products of the
  /// features.
  private func addAlignment(_ part: inout PartCosts, _ side: SideNetworkShape, _ tokens: Int) {
    // Two texts of half of a sample each.
    let half = workload.encoderLength / 2
    var counter = ProductCounter()
    for _ in 0..<2 {
      counter.weight(rows: tokens / 2, inputs: width, outputs: half, trains: false, passes: false)
      counter.weight(rows: tokens / 2, inputs: half, outputs: width, trains: false, passes: false)
    }
    counter.weight(rows: tokens, inputs: 3 * width, outputs: side.width, trains: true, passes: false)
    part.sideForward += counter.forward
    part.sideBackward += counter.backward
    part.trainableParameters += 3 * width * side.width + side.width
    part.activationBytes += 4 * tokens * (width + 1)
    part.autogradBytes += 4 * tokens * (4 * width + half)
  }

  /// What compares two aligned texts behind the last tap.
  private func addAlignmentOutput(
    _ part: inout PartCosts, _ counter: inout ProductCounter, _ side: SideNetworkShape
  ) {
    guard side.alignsTexts else { return }
    let block = side.stacks[0].block
    let texts = CostWorkload(samples: 2 * workload.samples, encoderLength: max(1, workload.encoderLength / 2))
    let training = BlockTraining(trainsWeights: true, passes: true, passesEncoder: false)
    let products = block.products(.encoder, texts, training, absorbs: counting.absorbsCrossAttention)
    part.sideForward += products.forward
    part.sideBackward += products.backward
    counter.weight(
      rows: workload.samples, inputs: 4 * side.width, outputs: side.width, trains: true, passes: true)
    counter.weight(
      rows: workload.samples, inputs: side.width, outputs: head.outputs, trains: true, passes: true)
    part.trainableParameters +=
      side.width + normParameters(block) + block.parameterCount + side.width * (4 * side.width + 1)
      + head.outputs * side.width
    part.activationBytes += 4 * block.keptFloats(.encoder, texts, checkpoints: false)
    part.activationBytes += 4 * 4 * workload.encoderTokens * side.width
    part.autogradBytes += 4 * block.autogradFloats(.encoder, texts, training)
  }

  // MARK: Head

  private func headPart(passes: Bool) -> PartCosts {
    var part = PartCosts(part: .head)
    var counter = ProductCounter()
    let last = architecture.stacks.last?.kind ?? .encoder
    let outputRows = last == .decoder ? workload.decoderTokens : workload.encoderTokens
    let isLanguageModel = head == .languageModel
    let inputs = side?.headInputs ?? width
    counter.weight(
      rows: isLanguageModel ? workload.decoderTokens : workload.samples, inputs: inputs,
      outputs: isLanguageModel ? architecture.vocabulary : head.outputs,
      trains: !isLanguageModel || trainsBackbone, passes: passes || side != nil)
    part.trainableParameters += head.outputs * (inputs + 1)
    guard let side else {
      (part.forward, part.backward) = (counter.forward, counter.backward)
      return part
    }
    counter.weight(rows: outputRows, inputs: side.width, outputs: width, trains: true, passes: true)
    part.trainableParameters += width * (side.width + 1)
    if side.configuration.output == .mixed { part.trainableParameters += 1 }
    if side.poolsTaps {
      counter.weight(
        rows: workload.samples, inputs: side.width, outputs: head.outputs, trains: true, passes: true)
      part.trainableParameters += head.outputs * side.width
    }
    addAlignmentOutput(&part, &counter, side)
    part.sideForward += counter.forward
    part.sideBackward += counter.backward
    return part
  }
}
