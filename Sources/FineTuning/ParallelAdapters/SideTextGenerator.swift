package import LanguageModels
package import NeuralNetworks
package import TensorKernels

/// Writes texts with a frozen backbone and its side network, one at a time, on the calling thread.
///
/// The backbone's decoder and the side network's go on token by token, each with its own kept keys and values; the
/// side network reads the backbone's taps rounded as in training.
///
/// - Safety: one thread uses a generator at a time; the backbone and the parameters that several share are only read.
package final class SideTextGenerator: @unchecked Sendable {
  private let backbone: any EncoderDecoderBackbone
  private let settings: GenerationSettings
  private let maximumSource: Int
  private let startID: Int32
  private let workspace: Arena
  private let states: Arena
  private let sideArena: Arena
  private let sideEncoder: SideStack
  private let sideScratch: SideStack.Scratch
  private let encoderTaps: TapBuffer
  private let shape: SideNetworkShape
  private let decoder: SideDecoder
  // The leaves borrow its memory.
  private let parameters: ParameterTree

  /// A generator for input texts of at most `maximumSource` tokens; `parameters` are those of a network with a
  /// language-model head.
  package init(
    _ backbone: any EncoderDecoderBackbone, shape: SideNetworkShape, parameters: ParameterTree,
    element: ActivationElement, settings: GenerationSettings, maximumSource: Int
  ) {
    guard let startID = backbone.architecture.decoderStartID, shape.head == .languageModel else {
      preconditionFailure("\(backbone.architecture.name) with a head for \(shape.head) writes no text")
    }
    self.backbone = backbone
    self.shape = shape
    self.parameters = parameters
    self.startID = startID
    self.maximumSource = maximumSource
    self.settings = settings.limited(by: backbone)
    let capacity = Self.encoderCapacity(maximumSource)
    var layout = ArenaLayout()
    (sideEncoder, sideScratch) = Self.planEncoder(
      shape, tree: parameters, capacity: capacity, layout: &layout)
    sideArena = Arena(floatCount: max(16, layout.floatCount))
    encoderTaps = TapBuffer(shape: shape, element: element, capacity: capacity)
    workspace = Arena(floatCount: BackboneTapSource.workspaceFloats(backbone, capacity: capacity))
    states = Arena(floatCount: maximumSource * backbone.architecture.width)
    decoder = SideDecoder(
      backbone, shape: shape, parameters: parameters, element: element,
      capacity: self.settings.capacity(maximumSource: maximumSource))
  }

  /// Bytes of the buffers that a generator with these settings plans.
  package static func byteCount(
    _ backbone: any EncoderDecoderBackbone, shape: SideNetworkShape, element: ActivationElement,
    settings: GenerationSettings, maximumSource: Int
  ) -> Int {
    let capacity = encoderCapacity(maximumSource)
    var layout = ArenaLayout()
    _ = planEncoder(shape, tree: shape.emptyParameters(), capacity: capacity, layout: &layout)
    let floats =
      layout.floatCount + BackboneTapSource.workspaceFloats(backbone, capacity: capacity)
      + maximumSource * backbone.architecture.width
      + SideDecoder.floatCount(
        backbone, shape: shape,
        capacity: settings.limited(by: backbone).capacity(maximumSource: maximumSource))
    return floats * MemoryLayout<Float>.stride
      + TapBuffer.byteCount(shape: shape, element: element, capacity: capacity)
  }

  private static func planEncoder(
    _ shape: SideNetworkShape, tree: ParameterTree, capacity: MicroBatchCapacity, layout: inout ArenaLayout
  ) -> (SideStack, SideStack.Scratch) {
    let encoder = shape.stacks[0]
    let stack = SideStack(
      encoder, part: StackPart.whole(depths: shape.depths)[0], network: shape, tree: tree,
      capacity: capacity, training: false, layout: &layout)
    let scratch = SideStack.scratch(
      encoder, network: shape, tree: tree, capacity: capacity, training: false, layout: &layout)
    return (stack, scratch)
  }

  private static func encoderCapacity(_ tokens: Int) -> MicroBatchCapacity {
    MicroBatchCapacity(sequences: 1, encoderTokens: tokens, longestEncoder: tokens)
  }

  /// What the adapted model writes for an input text.
  package func generate(
    _ encoderIDs: [Int32], types: [Int32] = []
  ) throws(TrainingFailure) -> WrittenIDs {
    precondition(
      !encoderIDs.isEmpty && encoderIDs.count <= maximumSource,
      "\(encoderIDs.count) tokens, planned \(maximumSource)")
    let sequences = PackedSequences(lengths: [encoderIDs.count])
    let encoded = states.matrix(0, rows: encoderIDs.count, columns: backbone.architecture.width)
    try encode(
      BackboneBatch(encoderIDs: encoderIDs, encoderTypes: types, encoder: sequences), into: encoded)
    let side = sideEncoder.forward(
      SideStack.Pass(
        taps: encoderTaps.rows[0], sequences: sequences, encoder: nil, scratch: sideScratch, arena: sideArena)
    )
    decoder.begin(encoded, side: side)
    return try searchText(decoder, settings: settings, startID: startID, endID: backbone.endID)
  }

  /// Runs the backbone's encoder, keeps its rounded taps, and writes its final states.
  private func encode(_ batch: BackboneBatch, into encoded: Matrix) throws(TrainingFailure) {
    encoderTaps.prepare(encoderTokens: batch.encoder.tokens, decoderTokens: 0)
    let taps = shape.stacks[0].taps
    let last = backbone.architecture.stacks[0].layers
    var overflow: (tap: Int, values: Int)?
    backbone.forward(batch, workspace: workspace) { stack, index, rows in
      guard stack == 0 else { return }
      if let slot = taps.firstIndex(of: index) {
        let values = encodeRows(rows, into: encoderTaps.rows[0][slot])
        if values > 0, overflow == nil { overflow = (index, values) }
      }
      guard index == last else { return }
      for row in 0..<rows.rows {
        (encoded.base + row * encoded.stride).update(from: rows.base + row * rows.stride, count: rows.columns)
      }
    }
    if let overflow {
      throw .activationOverflow(
        stack: shape.stacks[0].name, tap: overflow.tap, values: overflow.values,
        element: encoderTaps.rows[0][0].element.rawValue)
    }
    backbone.finalNorm(stack: 0)?.forward(encoded, into: encoded, statistics: nil)
  }
}

/// The decoders of a backbone and its side network, going on together.
private final class SideDecoder: TokenScoring {
  typealias Failure = TrainingFailure

  private let backbone: any EncoderDecoderBackbone
  private let shape: SideNetworkShape
  private let side: SideStackShape
  private let decoder: DecoderState
  private let stack: IncrementalStack
  private let first: LinearParameters
  private let layers: [(down: LinearParameters, mix: Parameter?)]
  private let norm: NormParameters?
  private let up: LinearParameters
  private let outputMix: Parameter?
  private let arena: Arena
  private let places: Places
  private let encoded: UnsafeMutableRawPointer
  private let element: ActivationElement

  init(
    _ backbone: any EncoderDecoderBackbone, shape: SideNetworkShape, parameters: ParameterTree,
    element: ActivationElement, capacity: IncrementalStack.Capacity
  ) {
    self.backbone = backbone
    self.shape = shape
    self.element = element
    let side = shape.stacks[1]
    self.side = side
    decoder = DecoderState(backbone, capacity: capacity)
    stack = IncrementalStack(
      Self.stackShape(side),
      blocks: side.layers.map {
        BlockParameters(parameters, prefix: "\(side.name).layers.\($0)", configuration: side.block)
      },
      relativeBias: side.relativeBias.map { _ in parameters["\(side.name).relativeBias"] },
      capacity: capacity)
    first = LinearParameters(parameters, "\(side.name).down", bias: true)
    layers = side.layers.map { layer in
      let prefix = "\(side.name).layers.\(layer)"
      return (
        LinearParameters(parameters, "\(prefix).down", bias: true),
        parameters.parameter(named: "\(prefix).mix")
      )
    }
    norm =
      side.hasFinalNorm
      ? NormParameters(
        parameters, "\(side.name).norm", kind: side.block.norm, epsilon: side.block.epsilon) : nil
    up = LinearParameters(parameters, "up", bias: true)
    outputMix = parameters.parameter(named: "outputMix")
    places = Places(shape, vocabulary: backbone.architecture.vocabulary, hypotheses: capacity.hypotheses)
    arena = Arena(floatCount: places.floatCount)
    encoded = .allocate(
      byteCount: max(64, capacity.hypotheses * element.rowBytes(width: shape.backboneWidth)), alignment: 64)
  }

  deinit { encoded.deallocate() }

  static func floatCount(
    _ backbone: any EncoderDecoderBackbone, shape: SideNetworkShape, capacity: IncrementalStack.Capacity
  ) -> Int {
    DecoderState.floatCount(backbone, capacity: capacity)
      + IncrementalStack.floatCount(stackShape(shape.stacks[1]), capacity: capacity)
      + Places(shape, vocabulary: backbone.architecture.vocabulary, hypotheses: capacity.hypotheses)
      .floatCount
  }

  private static func stackShape(_ side: SideStackShape) -> StackShape {
    StackShape(
      kind: side.kind, layers: side.layers.count, block: side.block, relativeBias: side.relativeBias,
      hasFinalNorm: side.hasFinalNorm)
  }

  /// Starts over with the final encoder states of another text, the backbone's and the side network's.
  func begin(_ states: Matrix, side sideStates: Matrix) {
    decoder.begin(states)
    stack.begin(sideStates)
  }

  func reorder(_ parents: [Int]) {
    decoder.reorder(parents)
    stack.reorder(parents)
  }

  func step(_ tokens: [Int32]) throws(TrainingFailure) -> Matrix {
    let state = matrix(places.state, tokens.count, shape.width)
    let final = matrix(places.final, tokens.count, shape.backboneWidth)
    let last = side.taps.last ?? 0
    var overflow: (tap: Int, values: Int)?
    _ = decoder.advance(tokens) { index, rows in
      guard side.taps.contains(index) else { return }
      let tap = EncodedRows(encoded, rows: rows.rows, width: rows.columns, element: element)
      let values = encodeRows(rows, into: tap)
      if values > 0, overflow == nil { overflow = (index, values) }
      read(tap, index: index, state)
      if index == last, shape.configuration.output != .side { decodeRows(tap, into: final) }
    }
    if let overflow {
      throw .activationOverflow(
        stack: side.name, tap: overflow.tap, values: overflow.values, element: element.rawValue)
    }
    stack.advance()
    norm?.forward(state, into: state, statistics: nil)
    let logits = matrix(places.logits, tokens.count, backbone.architecture.vocabulary)
    backbone.headLogits(output(state, final: final), into: logits)
    return logits
  }

  /// Takes one tap into the chain: it starts the state, or is mixed into it and run through its layer's block.
  private func read(_ tap: EncodedRows, index: Int, _ state: Matrix) {
    guard index > 0 else { return project(tap, first, into: state) }
    guard let layer = side.layers.firstIndex(of: index - 1) else { return }
    let projected = matrix(places.projected, tap.rows, shape.width)
    project(tap, layers[layer].down, into: projected)
    if let gate = layers[layer].mix {
      blendRows(state, projected, weight: SideNetwork.gateValue(gate), into: state)
    } else {
      for place in 0..<tap.rows * shape.width { state.base[place] += projected.base[place] }
    }
    stack.run(layer, state)
  }

  private func project(_ tap: EncodedRows, _ down: LinearParameters, into output: Matrix) {
    decodeMultiply(
      tap, weight: down.weight.matrix, into: output,
      epilogue: Epilogue(bias: down.bias.map { UnsafePointer($0.values) }))
  }

  /// The states before the head, from the side network's and the backbone's.
  private func output(_ state: Matrix, final: Matrix) -> Matrix {
    let output = matrix(places.output, state.rows, shape.backboneWidth)
    up.forward(state, into: output)
    guard shape.configuration.output != .side else { return output }
    backbone.finalNorm(stack: 1)?.forward(final, into: final, statistics: nil)
    if let outputMix {
      blendRows(output, final, weight: SideNetwork.gateValue(outputMix), into: output)
    } else {
      for place in 0..<state.rows * shape.backboneWidth { output.base[place] += final.base[place] }
    }
    return output
  }

  private func matrix(_ offset: Int, _ rows: Int, _ columns: Int) -> Matrix {
    arena.matrix(offset, rows: rows, columns: columns)
  }

  /// Where everything lies in the arena.
  private struct Places {
    let state, projected, final, output, logits: Int
    let floatCount: Int

    init(_ shape: SideNetworkShape, vocabulary: Int, hypotheses: Int) {
      var layout = ArenaLayout()
      state = layout.reserve(hypotheses * shape.width)
      projected = layout.reserve(hypotheses * shape.width)
      final = layout.reserve(hypotheses * shape.backboneWidth)
      output = layout.reserve(hypotheses * shape.backboneWidth)
      logits = layout.reserve(hypotheses * vocabulary)
      floatCount = layout.floatCount
    }
  }
}
