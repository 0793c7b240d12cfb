import LanguageModels
import NeuralNetworks
import TensorKernels

/// Consecutive layers of a tuned backbone, with what follows the last if that is among them: leaves, and the places of
/// one micro-batch's rows.
///
/// A device alone runs the part that is the whole model; a pipeline's stage runs the same code on fewer layers, and what
/// comes from other stages is put where the layers between would have left it.
struct TunedPart {
  /// What is run: a model's leaves under a technique, and the layers of it.
  struct Model {
    let head: TaskHead
    let architecture: BackboneArchitecture
    let leaves: BackboneLeaves
    let tree: ParameterTree
    let parts: [StackPart]

    /// True when the last layer of the last stack is among them.
    var endsNetwork: Bool {
      parts.contains { $0.endsStack && $0.stack == architecture.stacks.count - 1 }
    }

    /// True when another stage has the last layer of the encoder that a decoder here reads.
    var hasForeignEncoder: Bool {
      parts.first.map { architecture.stacks[$0.stack].kind == .decoder } ?? false
    }

    /// True when what a decoder reads of its encoder has a gradient that somebody needs.
    var trainsEncoder: Bool { leaves.stacks[0].isTrained }
  }

  /// Rows that the micro-batches of one thread share.
  struct Scratch {
    fileprivate let stacks: [TunedStack.Scratch]
    fileprivate let output: TunedOutput.Scratch?
    /// Gradient of the encoder's final states where another stage has the encoder's last layer.
    fileprivate let encoderGradient: Int
  }

  /// What a forward or a backward of one micro-batch works with.
  struct Pass {
    let batch: PackedMicroBatch
    let dropout: BatchDropout?
    let scratch: Scratch
    let arena: Arena
  }

  private let width: Int
  private let hasForeignEncoder: Bool
  private let trainsEncoder: Bool
  private let stacks: [TunedStack]
  /// Nil where the model does not end.
  let output: TunedOutput?
  /// The encoder's final states where another stage has the encoder's last layer.
  private let encoderStates: Int

  /// Reserves what a micro-batch keeps between its forward and its backward.
  init(
    _ model: Model, capacity: MicroBatchCapacity, training: Bool, checkpoints: Bool,
    layout: inout ArenaLayout
  ) {
    let architecture = model.architecture
    width = architecture.width
    hasForeignEncoder = model.hasForeignEncoder
    trainsEncoder = model.trainsEncoder
    var stacks: [TunedStack] = []
    for part in model.parts {
      let shape = architecture.stacks[part.stack]
      stacks.append(
        TunedStack(
          shape, part: part, model.leaves.stacks[part.stack],
          // One number more a stack, for what follows its last layer.
          firstLayer: architecture.depths.prefix(part.stack).reduce(0) { $0 + $1 + 1 },
          carriesEncoderGradient: shape.kind == .decoder && model.trainsEncoder, capacity: capacity,
          training: training, checkpoints: checkpoints, layout: &layout))
    }
    self.stacks = stacks
    output =
      model.endsNetwork
      ? TunedOutput(
        model.head, model.leaves, width: architecture.width, tree: model.tree, capacity: capacity,
        training: training, layout: &layout) : nil
    encoderStates = layout.reserve(hasForeignEncoder ? capacity.encoderTokens * width : 0)
  }

  /// Reserves the rest, which the micro-batches of one thread share.
  static func scratch(
    _ model: Model, capacity: MicroBatchCapacity, training: Bool, layout: inout ArenaLayout
  ) -> Scratch {
    let architecture = model.architecture
    let start = layout.mark()
    var end = start
    let blocks = model.parts.map { part in
      layout.rewind(to: start)
      let block = TunedStack.blockScratch(
        architecture.stacks[part.stack], capacity: capacity, training: training, layout: &layout)
      end = max(end, layout.mark())
      return block
    }
    layout.rewind(to: start)
    _ = layout.reserve(end - start)
    return Scratch(
      stacks: zip(model.parts, blocks).map { part, block in
        TunedStack.scratch(
          architecture.stacks[part.stack], model.leaves.stacks[part.stack], block: block, capacity: capacity,
          training: training, layout: &layout)
      },
      output: model.endsNetwork
        ? TunedOutput.scratch(
          model.head, model.leaves, width: architecture.width, capacity: capacity, training: training,
          layout: &layout) : nil,
      encoderGradient: layout.reserve(
        training && model.hasForeignEncoder ? capacity.encoderTokens * architecture.width : 0))
  }

  // MARK: Forward and backward

  /// Runs the layers and returns the states behind the last, [tokens × d].
  @discardableResult
  func forward(_ pass: Pass) -> Matrix {
    var states: Matrix?
    for (index, stack) in stacks.enumerated() {
      states = stack.forward(ids(stack, pass.batch), types: types(stack, pass.batch), stackPass(index, pass))
    }
    guard let states else { preconditionFailure("a part of a backbone has at least one layer") }
    return states
  }

  /// Predictions from the final states, one row a sample.
  func scores(_ states: Matrix, _ pass: Pass) -> Matrix {
    let (output, outputPass) = output(pass)
    return output.scores(states, outputPass)
  }

  /// The loss sum of the final states, keeping what `backward` needs if there is one.
  func loss(_ states: Matrix, _ pass: Pass, keepsGradient: Bool) -> Double {
    let (output, outputPass) = output(pass)
    return output.loss(states, outputPass, keepsGradient: keepsGradient)
  }

  /// From the loss, or from what `gradientsFromNext` holds, to the gradients of all trained leaves and of what came in.
  func backward(_ pass: Pass, sink: any GradientSink) {
    if output != nil {
      if trainsEncoder, stacks.contains(where: { $0.shape.kind == .decoder }) {
        // The decoder's layers add to it.
        let encoder = encoderGradient(pass)
        encoder.base.update(repeating: 0, count: encoder.rows * encoder.columns)
      }
      let (output, outputPass) = output(pass)
      let last = stacks.count - 1
      let states = stacks[last].finalStates(tokens: tokens(last, pass), arena: pass.arena)
      output.backward(states, into: gradient(last, pass), outputPass, sink: sink)
    }
    for index in stacks.indices.reversed() {
      let stack = stacks[index]
      let isDecoder = stack.shape.kind == .decoder
      let stackPass = stackPass(index, pass)
      stack.backward(
        stackPass, encoderGradient: isDecoder && trainsEncoder ? encoderGradient(pass) : nil, sink: sink)
      stack.backwardEmbedding(
        ids(stack, pass.batch), types: types(stack, pass.batch), stackPass, sink: sink)
    }
  }

  // MARK: What crosses to other stages

  /// What the stage before sends: nothing to the first stage, the rows before a layer inside a stack, and to a decoder
  /// the encoder's final states before them.
  func statesFromPrevious(_ pass: Pass) -> [Matrix] {
    let first = stacks[0]
    return (hasForeignEncoder ? [encoderStates(pass)] : [])
      + (first.part.startsStack ? [] : [first.state(tokens: tokens(0, pass), arena: pass.arena)])
  }

  /// What `forward` leaves for the next stage, in the order of its `statesFromPrevious`.
  func statesForNext(_ pass: Pass) -> [Matrix] {
    guard output == nil, let last = stacks.last else { return [] }
    let states = last.finalStates(tokens: tokens(stacks.count - 1, pass), arena: pass.arena)
    return (last.shape.kind == .decoder ? [encoderStates(pass)] : []) + [states]
  }

  /// The gradients that the next stage sends, of what `statesForNext` gave it, with running sums for the biases; of those
  /// alone that something from here on needs.
  func gradientsFromNext(_ pass: Pass) -> [Matrix] {
    guard output == nil, let last = stacks.last else { return [] }
    let index = stacks.count - 1
    guard !last.part.endsStack else { return trainsEncoder ? [gradient(index, pass)] : [] }
    return (last.shape.kind == .decoder && trainsEncoder ? [encoderGradient(pass)] : [])
      + (last.needsGradient(below: last.part.layers.upperBound)
        ? [gradient(index, pass)] + biasGradient(index, pass) : [])
  }

  /// What `backward` leaves for the stage before, in the order of its `gradientsFromNext`.
  func gradientsForPrevious(_ pass: Pass) -> [Matrix] {
    let first = stacks[0]
    let isNeeded =
      !first.part.startsStack && first.needsGradient(below: first.part.layers.lowerBound)
    return (hasForeignEncoder && trainsEncoder ? [encoderGradient(pass)] : [])
      + (isNeeded ? [gradient(0, pass)] + biasGradient(0, pass) : [])
  }

  // MARK: Views

  private func ids(_ stack: TunedStack, _ batch: PackedMicroBatch) -> [Int32] {
    stack.shape.kind == .encoder ? batch.encoderIDs : batch.decoderIDs
  }

  private func types(_ stack: TunedStack, _ batch: PackedMicroBatch) -> [Int32] {
    stack.shape.kind == .encoder && stack.embedding.types != nil ? batch.encoderTypes : []
  }

  private func sequences(_ index: Int, _ pass: Pass) -> PackedSequences {
    if stacks[index].shape.kind == .encoder { return pass.batch.encoder }
    guard let decoder = pass.batch.decoder else { preconditionFailure("a decoder needs tokens of its own") }
    return decoder
  }

  private func tokens(_ index: Int, _ pass: Pass) -> Int { sequences(index, pass).tokens }

  private func stackPass(_ index: Int, _ pass: Pass) -> TunedStack.Pass {
    TunedStack.Pass(
      sequences: sequences(index, pass),
      encoder: stacks[index].shape.kind == .encoder
        ? nil : EncoderStates(rows: encoderStates(pass), sequences: pass.batch.encoder),
      dropout: pass.dropout, scratch: pass.scratch.stacks[index], arena: pass.arena)
  }

  private func output(_ pass: Pass) -> (TunedOutput, TunedOutput.Pass) {
    guard let output, let scratch = pass.scratch.output else {
      preconditionFailure("the model does not end here")
    }
    return (output, TunedOutput.Pass(batch: pass.batch, scratch: scratch, arena: pass.arena))
  }

  private func gradient(_ index: Int, _ pass: Pass) -> Matrix {
    stacks[index].gradient(pass.scratch.stacks[index], tokens: tokens(index, pass), arena: pass.arena)
  }

  private func biasGradient(_ index: Int, _ pass: Pass) -> [Matrix] {
    let sums = stacks[index].biasGradient(
      pass.scratch.stacks[index], span: sequences(index, pass).longest, arena: pass.arena)
    return sums.map { [$0] } ?? []
  }

  /// The encoder's final states, from here or from the stage before.
  private func encoderStates(_ pass: Pass) -> Matrix {
    let tokens = pass.batch.encoder.tokens
    return hasForeignEncoder
      ? pass.arena.matrix(encoderStates, rows: tokens, columns: width)
      : stacks[0].finalStates(tokens: tokens, arena: pass.arena)
  }

  private func encoderGradient(_ pass: Pass) -> Matrix {
    hasForeignEncoder
      ? pass.arena.matrix(pass.scratch.encoderGradient, rows: pass.batch.encoder.tokens, columns: width)
      : gradient(0, pass)
  }
}
