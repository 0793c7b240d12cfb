import LanguageModels
import NeuralNetworks
import TensorKernels

/// Consecutive layers of a side network, with what follows the last if that is among them: leaves, and the places of one
/// micro-batch's rows.
///
/// A device alone runs the part that is the whole network; a pipeline's stage runs the same code on fewer layers, and
/// what comes from other stages is put where the layers between would have left it.
struct SideNetworkPart {
  /// Rows that the micro-batches of one thread share.
  struct Scratch {
    fileprivate let stacks: [SideStack.Scratch]
    fileprivate let pooling: TapPooling.Scratch?
    fileprivate let alignment: TapAlignment.Scratch?
    fileprivate let output: SideOutput.Scratch?
    /// Gradient of the encoder's final states where another stage has the encoder's last layer.
    fileprivate let encoderGradient: Int
  }

  /// What a forward or a backward of one micro-batch works with.
  struct Pass {
    let batch: PackedMicroBatch
    let taps: TapBuffer
    let scratch: Scratch
    let arena: Arena
  }

  let shape: SideNetworkShape
  private let stacks: [SideStack]
  /// Of the encoder alone, which is the only stack where taps are pooled.
  private let pooling: TapPooling?
  /// The same of texts that are aligned.
  private let alignment: TapAlignment?
  /// Nil where the network does not end.
  let output: SideOutput?
  /// The side encoder's final states where another stage has the encoder's last layer.
  private let encoderStates: Int

  /// Reserves what a micro-batch keeps between its forward and its backward.
  init(
    _ shape: SideNetworkShape, parts: [StackPart], tree: ParameterTree, frozen: FrozenOutput,
    capacity: MicroBatchCapacity, training: Bool, layout: inout ArenaLayout
  ) {
    self.shape = shape
    stacks = parts.map {
      SideStack(
        shape.stacks[$0.stack], part: $0, network: shape, tree: tree, capacity: capacity, training: training,
        layout: &layout)
    }
    pooling = parts.first.flatMap {
      TapPooling(shape, part: $0, tree: tree, capacity: capacity, training: training, layout: &layout)
    }
    alignment = parts.first.flatMap {
      TapAlignment(shape, part: $0, tree: tree, capacity: capacity, training: training, layout: &layout)
    }
    output =
      Self.endsNetwork(shape, parts)
      ? SideOutput(
        shape, tree: tree, frozen: frozen, capacity: capacity, training: training, layout: &layout) : nil
    encoderStates = layout.reserve(Self.foreignEncoderFloats(shape, parts, capacity))
  }

  /// Reserves the rest, which the micro-batches of one thread share.
  static func scratch(
    _ shape: SideNetworkShape, parts: [StackPart], tree: ParameterTree, capacity: MicroBatchCapacity,
    training: Bool, layout: inout ArenaLayout
  ) -> Scratch {
    Scratch(
      stacks: parts.map {
        SideStack.scratch(
          shape.stacks[$0.stack], network: shape, tree: tree, capacity: capacity, training: training,
          layout: &layout)
      },
      pooling: TapPooling.scratch(shape, capacity: capacity, training: training, layout: &layout),
      alignment: TapAlignment.scratch(shape, capacity: capacity, training: training, layout: &layout),
      output: endsNetwork(shape, parts)
        ? SideOutput.scratch(shape, capacity: capacity, training: training, layout: &layout) : nil,
      encoderGradient: layout.reserve(training ? foreignEncoderFloats(shape, parts, capacity) : 0))
  }

  /// True when the last layer of the last stack is among `parts`.
  static func endsNetwork(_ shape: SideNetworkShape, _ parts: [StackPart]) -> Bool {
    parts.contains { $0.endsStack && $0.stack == shape.stacks.count - 1 }
  }

  private static func foreignEncoderFloats(
    _ shape: SideNetworkShape, _ parts: [StackPart], _ capacity: MicroBatchCapacity
  ) -> Int {
    let hasForeignEncoder = parts.first.map { shape.stacks[$0.stack].kind == .decoder } ?? false
    return hasForeignEncoder ? capacity.encoderTokens * shape.width : 0
  }

  // MARK: Forward and backward

  /// Runs the layers and returns the states behind the last, [tokens × r].
  func forward(_ pass: Pass) -> Matrix {
    var states: Matrix?
    for index in stacks.indices { states = stacks[index].forward(stackPass(index, pass)) }
    if let (pooling, poolingPass) = pooling(pass) { pooling.forward(poolingPass) }
    if let (alignment, alignmentPass) = alignment(pass) { alignment.forward(alignmentPass) }
    guard let states else { preconditionFailure("a part of a side network has at least one layer") }
    return states
  }

  /// Runs the layers and what follows them; returns the states before the head, [outputs × d].
  func forwardToHead(_ pass: Pass) -> Matrix {
    let (output, outputPass) = output(pass)
    return output.forward(forward(pass), backbone: pass.taps.rows.last?.last, outputPass)
  }

  /// The loss sum behind `forwardToHead`, keeping what `backward` needs if there is one.
  func loss(_ states: Matrix, _ pass: Pass, keepsGradient: Bool) -> Double {
    let (output, outputPass) = output(pass)
    return output.loss(states, outputPass, keepsGradient: keepsGradient)
  }

  /// Predictions behind `forwardToHead`, one row a sample.
  func predictions(_ states: Matrix, _ pass: Pass) -> Matrix {
    let (output, outputPass) = output(pass)
    return output.logits(states, outputPass)
  }

  /// From the loss, or from what `gradientsFromNext` holds, to the gradients of all leaves and of what came in.
  func backward(_ pass: Pass, sink: any GradientSink) {
    if output != nil {
      // The layers add to these: each token's share of the prediction, and what decoders read of the encoder.
      for index in stacks.indices { zero(gradient(index, pass)) }
      if let foreign = foreignEncoderGradient(pass) { zero(foreign) }
      let (output, outputPass) = output(pass)
      output.backward(into: gradient(stacks.count - 1, pass), outputPass, sink: sink)
    }
    for index in stacks.indices.reversed() {
      let isDecoder = stacks[index].shape.kind == .decoder
      stacks[index].backward(
        stackPass(index, pass), encoderGradient: isDecoder ? encoderGradient(pass) : nil, sink: sink)
    }
    if let (pooling, poolingPass) = pooling(pass) { pooling.backward(poolingPass, sink: sink) }
    if let (alignment, alignmentPass) = alignment(pass) { alignment.backward(alignmentPass, sink: sink) }
  }

  // MARK: What crosses to other stages

  /// What the stage before sends: nothing to the first stage, an encoder's state inside it, the encoder's final
  /// states to a decoder, with a state inside it; the sum of the pooled or aligned taps last.
  func statesFromPrevious(_ pass: Pass) -> [Matrix] {
    let first = stacks[0]
    let state = first.part.startsStack ? [] : [first.state(tokens: tokens(0, pass), arena: pass.arena)]
    return (foreignEncoderStates(pass).map { [$0] } ?? []) + state
      + (first.part.startsStack ? [] : tapSums(pass))
  }

  /// What `forward` leaves for the next stage, in the order of its `statesFromPrevious`.
  func statesForNext(_ pass: Pass) -> [Matrix] {
    guard output == nil, let last = stacks.last else { return [] }
    let index = stacks.count - 1
    let states = last.finalStates(tokens: tokens(index, pass), arena: pass.arena)
    return (last.shape.kind == .decoder ? [encoderStates(pass)] : []) + [states] + tapSums(pass)
  }

  /// The gradients that the next stage sends, of what `statesForNext` gave it, with running sums for the biases.
  func gradientsFromNext(_ pass: Pass) -> [Matrix] {
    guard output == nil, let last = stacks.last else { return [] }
    let index = stacks.count - 1
    return (last.shape.kind == .decoder ? [encoderGradient(pass)] : []) + [gradient(index, pass)]
      + (last.part.endsStack ? [] : biasGradient(index, pass)) + tapSumGradient(pass)
  }

  /// What `backward` leaves for the stage before, in the order of its `gradientsFromNext`.
  func gradientsForPrevious(_ pass: Pass) -> [Matrix] {
    let own =
      stacks[0].part.startsStack ? [] : [gradient(0, pass)] + biasGradient(0, pass) + tapSumGradient(pass)
    return (foreignEncoderGradient(pass).map { [$0] } ?? []) + own
  }

  // MARK: Views

  private func sequences(_ index: Int, _ pass: Pass) -> PackedSequences {
    if stacks[index].shape.kind == .encoder { return pass.batch.encoder }
    guard let decoder = pass.batch.decoder else {
      preconditionFailure("a decoder stack needs decoder tokens")
    }
    return decoder
  }

  private func tokens(_ index: Int, _ pass: Pass) -> Int { sequences(index, pass).tokens }

  private func stackPass(_ index: Int, _ pass: Pass) -> SideStack.Pass {
    let stack = stacks[index]
    return SideStack.Pass(
      taps: pass.taps.rows[stack.part.stack], sequences: sequences(index, pass),
      encoder: stack.shape.kind == .encoder
        ? nil : EncoderStates(rows: encoderStates(pass), sequences: pass.batch.encoder),
      scratch: pass.scratch.stacks[index], arena: pass.arena)
  }

  private func output(_ pass: Pass) -> (SideOutput, SideOutput.Pass) {
    guard let output, let scratch = pass.scratch.output else {
      preconditionFailure("the network does not end here")
    }
    return (
      output,
      SideOutput.Pass(
        batch: pass.batch, scratch: scratch, arena: pass.arena, tapSums: tapSums(pass).first,
        tapSumGradient: tapSumGradient(pass).first)
    )
  }

  private func alignment(_ pass: Pass) -> (TapAlignment, TapAlignment.Pass)? {
    guard let alignment, let scratch = pass.scratch.alignment else { return nil }
    return (
      alignment,
      TapAlignment.Pass(
        taps: pass.taps.rows[stacks[0].part.stack], batch: pass.batch, scratch: scratch, arena: pass.arena)
    )
  }

  private func pooling(_ pass: Pass) -> (TapPooling, TapPooling.Pass)? {
    guard let pooling, let scratch = pass.scratch.pooling else { return nil }
    return (
      pooling,
      TapPooling.Pass(
        taps: pass.taps.rows[stacks[0].part.stack], batch: pass.batch, scratch: scratch, arena: pass.arena)
    )
  }

  /// The sum of the pooled or aligned taps, if the network has one.
  private func tapSums(_ pass: Pass) -> [Matrix] {
    if let alignment { return [alignment.sums(pass.batch, pass.arena)] }
    return pooling.map { [$0.sums(pass.batch, pass.arena)] } ?? []
  }

  private func tapSumGradient(_ pass: Pass) -> [Matrix] {
    if let (alignment, alignmentPass) = alignment(pass) {
      return [alignment.gradient(alignmentPass.scratch, pass.batch, pass.arena)]
    }
    guard let (pooling, poolingPass) = pooling(pass) else { return [] }
    return [pooling.gradient(poolingPass.scratch, pass.batch, pass.arena)]
  }

  private func gradient(_ index: Int, _ pass: Pass) -> Matrix {
    stacks[index].gradient(pass.scratch.stacks[index], tokens: tokens(index, pass), arena: pass.arena)
  }

  private func biasGradient(_ index: Int, _ pass: Pass) -> [Matrix] {
    let sums = stacks[index].biasGradient(
      pass.scratch.stacks[index], span: sequences(index, pass).longest, arena: pass.arena)
    return sums.map { [$0] } ?? []
  }

  private var hasForeignEncoder: Bool { stacks[0].shape.kind == .decoder }

  private func foreignEncoderStates(_ pass: Pass) -> Matrix? {
    hasForeignEncoder ? encoderStates(pass) : nil
  }

  private func foreignEncoderGradient(_ pass: Pass) -> Matrix? {
    hasForeignEncoder ? encoderGradient(pass) : nil
  }

  /// The side encoder's final states, from here or from the stage before.
  private func encoderStates(_ pass: Pass) -> Matrix {
    let tokens = pass.batch.encoder.tokens
    return hasForeignEncoder
      ? pass.arena.matrix(encoderStates, rows: tokens, columns: shape.width)
      : stacks[0].finalStates(tokens: tokens, arena: pass.arena)
  }

  private func encoderGradient(_ pass: Pass) -> Matrix {
    hasForeignEncoder
      ? pass.arena.matrix(
        pass.scratch.encoderGradient, rows: pass.batch.encoder.tokens, columns: shape.width)
      : gradient(0, pass)
  }

  private func zero(_ matrix: Matrix) {
    matrix.base.update(repeating: 0, count: matrix.rows * matrix.columns)
  }
}
