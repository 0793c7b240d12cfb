import LanguageModels
import NeuralNetworks
import TensorKernels

/// What follows the last block of a side network: pooling, up-projection, the mix with the backbone's own states, head
/// and loss.
///
/// A sample has one pooled row, or under `ParallelAdapterConfiguration.Pooling.segments` two: `u` of its first text and
/// `v` of its second, which share the up-projection and the mix; the head then reads `[u, v, |u − v|, u ⊙ v]`
/// (Conneau et al. 2017, "Supervised Learning of Universal Sentence Representations", §3.1); under `aligned` what
/// `AlignmentOutput` says is added to that. Under `attention` what the head says
/// of a sample's one row is added to `V·gelu(s / √n)` for the sum `s` of the n pooled taps (`TapPooling`).
struct SideOutput {
  /// Rows that no micro-batch needs between its forward and its backward.
  struct Scratch {
    let decoded, sideGradient, pooledGradient, comparisonGradient, parameter, tapGradient: Int
    let alignment: AlignmentOutput.Scratch?
  }

  /// What a forward or a backward of one micro-batch works with.
  struct Pass {
    let batch: PackedMicroBatch
    let scratch: Scratch
    let arena: Arena
    /// The sum of the pooled taps, [P × r], or of the aligned ones, [tokens × r], where the network has it.
    let tapSums: Matrix?
    /// Where a backward leaves its gradient.
    let tapSumGradient: Matrix?
  }

  private let shape: SideNetworkShape
  private let frozen: FrozenOutput
  private let up: LinearParameters
  private let outputMix: Parameter?
  private let head: LinearParameters?
  private let tapHead: LinearParameters?
  private let alignment: AlignmentOutput?
  /// Offsets of P rows, one or two a sample or one a decoder token.
  private let pooled, side, final, mixed, gradient: Int
  /// Offsets of a row a sample: what the head reads of two texts, and what it says.
  private let comparison, logits: Int
  /// Offsets of P rows: the sum of the pooled taps over √n, and its activation.
  private let scaledTaps, activeTaps: Int

  /// Reserves what a micro-batch keeps between its forward and its backward.
  init(
    _ shape: SideNetworkShape, tree: ParameterTree, frozen: FrozenOutput, capacity: MicroBatchCapacity,
    training: Bool, layout: inout ArenaLayout
  ) {
    self.shape = shape
    self.frozen = frozen
    up = LinearParameters(tree, "up", bias: true)
    outputMix = tree.parameter(named: "outputMix")
    head = shape.head.outputs > 0 ? LinearParameters(tree, "head", bias: true) : nil
    tapHead =
      shape.poolsTaps ? LinearParameters(weight: tree["head.taps.weight"], bias: nil) : nil
    alignment = AlignmentOutput(
      shape, tree: tree, capacity: capacity, training: training, layout: &layout)
    let rows = Self.rows(shape, capacity)
    let taps = shape.poolsTaps ? rows * shape.width : 0
    scaledTaps = layout.reserve(taps)
    activeTaps = layout.reserve(taps)
    let wide = rows * shape.backboneWidth
    pooled = layout.reserve(rows * shape.width)
    side = layout.reserve(wide)
    final = layout.reserve(wide)
    mixed = layout.reserve(wide)
    comparison = layout.reserve(shape.comparesSegments ? capacity.sequences * shape.headInputs : 0)
    logits = layout.reserve(rows * max(1, shape.head.outputs))
    gradient = layout.reserve(training ? wide : 0)
  }

  /// Reserves the rest, which the micro-batches of one thread share.
  static func scratch(
    _ shape: SideNetworkShape, capacity: MicroBatchCapacity, training: Bool, layout: inout ArenaLayout
  ) -> Scratch {
    let rows = rows(shape, capacity)
    let outputs = max(1, shape.head.outputs)
    let largestWeight =
      max(shape.width * shape.backboneWidth, outputs * shape.headInputs) + max(shape.backboneWidth, outputs)
    return Scratch(
      decoded: layout.reserve(max(capacity.longestEncoder, 1, rows) * shape.backboneWidth),
      sideGradient: layout.reserve(training ? rows * shape.backboneWidth : 0),
      pooledGradient: layout.reserve(training ? rows * shape.width : 0),
      comparisonGradient: layout.reserve(
        training && shape.comparesSegments ? capacity.sequences * shape.headInputs : 0),
      parameter: layout.reserve(training ? largestWeight : 0),
      tapGradient: layout.reserve(training && shape.poolsTaps ? rows * shape.width : 0),
      alignment: AlignmentOutput.scratch(shape, capacity: capacity, training: training, layout: &layout))
  }

  private static func rows(_ shape: SideNetworkShape, _ capacity: MicroBatchCapacity) -> Int {
    shape.head == .languageModel ? capacity.decoderTokens : capacity.sequences * shape.pooledRows
  }

  private func rows(_ batch: PackedMicroBatch) -> Int {
    shape.head == .languageModel
      ? (batch.decoder?.tokens ?? 0) : batch.encoder.count * shape.pooledRows
  }

  // MARK: Forward

  /// The states before the head, [P × d], from the side network's final states and the backbone's last tap.
  func forward(_ states: Matrix, backbone tap: EncodedRows?, _ pass: Pass) -> Matrix {
    let rows = rows(pass.batch)
    let pooled = pass.arena.matrix(self.pooled, rows: rows, columns: shape.width)
    pool(states, pass.batch, into: pooled)
    let side = wide(self.side, rows, pass.arena)
    up.forward(pooled, into: side)
    guard shape.configuration.output != .side else { return side }
    guard let tap else { preconditionFailure("the output needs the last tap") }
    let final = wide(self.final, rows, pass.arena)
    poolBackbone(tap, pass, into: final)
    let mixed = wide(self.mixed, rows, pass.arena)
    if let outputMix {
      blendRows(side, final, weight: SideNetwork.gateValue(outputMix), into: mixed)
    } else {
      let count = rows * shape.backboneWidth
      for index in 0..<count { mixed.base[index] = side.base[index] + final.base[index] }
    }
    return mixed
  }

  /// Scores or values, one row a sample; a language-model head's are never in memory.
  func logits(_ output: Matrix, _ pass: Pass) -> Matrix {
    guard let head else { preconditionFailure("a language-model head has no predictions to return") }
    let read = shape.comparesSegments ? compare(output, pass) : output
    let logits = pass.arena.matrix(self.logits, rows: read.rows, columns: shape.head.outputs)
    head.forward(read, into: logits)
    addTaps(to: logits, pass)
    if let (alignment, alignmentPass) = alignment(pass) {
      alignment.forward(addingTo: logits, alignmentPass)
    }
    return logits
  }

  private func alignment(_ pass: Pass) -> (AlignmentOutput, AlignmentOutput.Pass)? {
    guard let alignment, let scratch = pass.scratch.alignment else { return nil }
    guard let sums = pass.tapSums else { preconditionFailure("the output needs the aligned taps") }
    return (
      alignment,
      AlignmentOutput.Pass(
        batch: pass.batch, scratch: scratch, arena: pass.arena, sums: sums, sumGradient: pass.tapSumGradient)
    )
  }

  /// Adds what the pooled taps say.
  private func addTaps(to logits: Matrix, _ pass: Pass) {
    guard let tapHead else { return }
    guard let sums = pass.tapSums else { preconditionFailure("the output needs the pooled taps") }
    let (scaled, active) = (narrow(scaledTaps, pass), narrow(activeTaps, pass))
    blendRows(sums, sums, weight: 1, into: scaled)
    scale(scaled, by: tapScale)
    applyActivation(.gelu, scaled, into: active)
    tapHead.forward(active, into: logits, accumulate: true)
  }

  /// 1 / √n for n pooled taps: their sum varies as one of them does.
  private var tapScale: Float { 1 / Float(max(1, shape.pooledTaps)).squareRoot() }

  /// `[u, v, |u − v|, u ⊙ v]` of each sample's two rows.
  private func compare(_ output: Matrix, _ pass: Pass) -> Matrix {
    let width = shape.backboneWidth
    let features = pass.arena.matrix(comparison, rows: output.rows / 2, columns: shape.headInputs)
    for sample in 0..<features.rows {
      let (u, v) = (output.base + 2 * sample * output.stride, output.base + (2 * sample + 1) * output.stride)
      let row = features.base + sample * features.stride
      for column in 0..<width {
        row[column] = u[column]
        row[width + column] = v[column]
        row[2 * width + column] = abs(u[column] - v[column])
        row[3 * width + column] = u[column] * v[column]
      }
    }
    return features
  }

  /// The loss sum of the states before the head, keeping what `backward` needs if there is one.
  func loss(_ output: Matrix, _ pass: Pass, keepsGradient: Bool) -> Double {
    guard head != nil else {
      return streamedLoss(
        pass.batch, output: output, gradient: keepsGradient ? wide(gradient, output.rows, pass.arena) : nil)
    }
    let logits = logits(output, pass)
    if case .value = shape.head {
      return squaredError(prediction: logits, target: pass.batch.values, into: logits, gradientScale: 1)
    }
    return softmaxCrossEntropy(
      logits: logits, labels: pass.batch.labels, into: keepsGradient ? logits : nil, gradientScale: 1)
  }

  private func streamedLoss(_ batch: PackedMicroBatch, output: Matrix, gradient: Matrix?) -> Double {
    guard let embedding = frozen.embedding else {
      preconditionFailure("a language-model head needs the backbone's embedding")
    }
    return streamedHeadCrossEntropy(
      output, embedding: embedding, scale: frozen.embeddingScale,
      bias: frozen.embeddingBias.map { UnsafePointer($0.base) }, labels: batch.labels, into: gradient)
  }

  /// Picks the rows that the prediction is made from.
  ///
  /// Encoder-only models: the mean over a sample's tokens, or over each of its texts. Encoder-decoder models: decoder
  /// step 0, or every decoder token under a language-model head.
  private func pool(_ states: Matrix, _ batch: PackedMicroBatch, into pooled: Matrix) {
    guard let decoder = batch.decoder else {
      for (row, tokens) in shape.pooledTokens(batch).enumerated() {
        mean(
          states.rowRange(tokens.lowerBound, count: tokens.count), into: pooled.rowRange(row, count: 1))
      }
      return
    }
    for row in 0..<pooled.rows {
      let source = shape.head == .languageModel ? row : decoder.offsets[row]
      for column in 0..<pooled.columns { pooled[row, column] = states[source, column] }
    }
  }

  /// The backbone's own final state of each output row, from its last tap.
  private func poolBackbone(_ tap: EncodedRows, _ pass: Pass, into final: Matrix) {
    guard let decoder = pass.batch.decoder else {
      for (row, tokens) in shape.pooledTokens(pass.batch).enumerated() {
        let decoded = wide(pass.scratch.decoded, tokens.count, pass.arena)
        decodeRows(tap.rowRange(tokens.lowerBound, count: tokens.count), into: decoded)
        mean(decoded, into: final.rowRange(row, count: 1))
      }
      return
    }
    let decoded = wide(pass.scratch.decoded, final.rows, pass.arena)
    for row in 0..<final.rows {
      let source = shape.head == .languageModel ? row : decoder.offsets[row]
      decodeRows(tap.rowRange(source, count: 1), into: decoded.rowRange(row, count: 1))
    }
    if let norm = frozen.norm {
      norm.forward(decoded, into: final, statistics: nil)
    } else {
      blendRows(decoded, decoded, weight: 1, into: final)
    }
  }

  // MARK: Backward

  /// From what `loss` kept to the gradient of the side network's final states, which must be zero before.
  func backward(into stateGradient: Matrix, _ pass: Pass, sink: any GradientSink) {
    let rows = rows(pass.batch)
    let gradient = wide(self.gradient, rows, pass.arena)
    if let head {
      let output = wide(shape.configuration.output == .side ? side : mixed, rows, pass.arena)
      let samples = rows / shape.pooledRows
      let slopes = pass.arena.matrix(logits, rows: samples, columns: shape.head.outputs)
      let read =
        shape.comparesSegments
        ? pass.arena.matrix(comparison, rows: samples, columns: shape.headInputs) : output
      tapsBackward(slopes, pass, sink: sink)
      if let (alignment, alignmentPass) = alignment(pass) {
        alignment.backward(slopes, alignmentPass, sink: sink)
      }
      head.parameterGradients(slopes, read, scratch: pass.arena.base + pass.scratch.parameter, sink: sink)
      if shape.comparesSegments {
        let readGradient = pass.arena.matrix(
          pass.scratch.comparisonGradient, rows: samples, columns: shape.headInputs)
        head.inputGradient(slopes, into: readGradient, accumulate: false)
        compareBackward(readGradient, of: output, into: gradient)
      } else {
        head.inputGradient(slopes, into: gradient, accumulate: false)
      }
    }
    unpool(mixBackward(gradient, pass, sink: sink), pass.batch, into: stateGradient)
  }

  /// From the gradient of the logits to that of the sum of the pooled taps.
  private func tapsBackward(_ slopes: Matrix, _ pass: Pass, sink: any GradientSink) {
    guard let tapHead else { return }
    guard let sumGradient = pass.tapSumGradient else {
      preconditionFailure("the gradient of the pooled taps has no place")
    }
    let (scaled, active) = (narrow(scaledTaps, pass), narrow(activeTaps, pass))
    tapHead.parameterGradients(slopes, active, scratch: pass.arena.base + pass.scratch.parameter, sink: sink)
    let activeGradient = narrow(pass.scratch.tapGradient, pass)
    tapHead.inputGradient(slopes, into: activeGradient, accumulate: false)
    activationBackward(.gelu, input: scaled, gradient: activeGradient, into: sumGradient)
    scale(sumGradient, by: tapScale)
  }

  /// From the gradient of `[u, v, |u − v|, u ⊙ v]` to that of `u` and `v`; where they are equal, `|u − v|` has none.
  private func compareBackward(_ slopes: Matrix, of output: Matrix, into gradient: Matrix) {
    let width = shape.backboneWidth
    for sample in 0..<slopes.rows {
      let (u, v) = (output.base + 2 * sample * output.stride, output.base + (2 * sample + 1) * output.stride)
      let uGradient = gradient.base + 2 * sample * gradient.stride
      let vGradient = uGradient + gradient.stride
      let slope = slopes.base + sample * slopes.stride
      for column in 0..<width {
        let difference = u[column] - v[column]
        let away =
          difference == 0 ? 0 : difference > 0 ? slope[2 * width + column] : -slope[2 * width + column]
        let joint = slope[3 * width + column]
        uGradient[column] = slope[column] + away + joint * v[column]
        vGradient[column] = slope[width + column] - away + joint * u[column]
      }
    }
  }

  /// From the gradient before the head to the gradient of the pooled side states.
  private func mixBackward(_ gradient: Matrix, _ pass: Pass, sink: any GradientSink) -> Matrix {
    let (rows, arena) = (gradient.rows, pass.arena)
    var sideGradient = gradient
    if let outputMix {
      let weight = SideNetwork.gateValue(outputMix)
      let slope =
        dotProduct(gradient, wide(side, rows, arena)) - dotProduct(gradient, wide(final, rows, arena))
      var mixGradient = slope * weight * (1 - weight) / SideNetworkShape.gateTemperature
      sink.add(&mixGradient, of: outputMix)
      sideGradient = wide(pass.scratch.sideGradient, rows, arena)
      let count = rows * shape.backboneWidth
      for index in 0..<count { sideGradient.base[index] = weight * gradient.base[index] }
    }
    let pooled = arena.matrix(self.pooled, rows: rows, columns: shape.width)
    up.parameterGradients(sideGradient, pooled, scratch: arena.base + pass.scratch.parameter, sink: sink)
    let pooledGradient = arena.matrix(pass.scratch.pooledGradient, rows: rows, columns: shape.width)
    up.inputGradient(sideGradient, into: pooledGradient, accumulate: false)
    return pooledGradient
  }

  private func unpool(_ pooledGradient: Matrix, _ batch: PackedMicroBatch, into gradient: Matrix) {
    guard let decoder = batch.decoder else {
      for (source, tokens) in shape.pooledTokens(batch).enumerated() {
        let share = 1 / Float(max(1, tokens.count))
        let rows = gradient.rowRange(tokens.lowerBound, count: tokens.count)
        for row in 0..<rows.rows {
          for column in 0..<rows.columns { rows[row, column] = share * pooledGradient[source, column] }
        }
      }
      return
    }
    for row in 0..<pooledGradient.rows {
      let target = shape.head == .languageModel ? row : decoder.offsets[row]
      for column in 0..<pooledGradient.columns { gradient[target, column] = pooledGradient[row, column] }
    }
  }

  // MARK: Views

  /// The mean of some rows; zero when there are none.
  private func mean(_ rows: Matrix, into mean: Matrix) {
    guard rows.rows > 0 else { return mean.base.update(repeating: 0, count: mean.columns) }
    columnSums(rows, into: mean.base, accumulate: false)
    scale(mean, by: 1 / Float(rows.rows))
  }

  private func wide(_ offset: Int, _ rows: Int, _ arena: Arena) -> Matrix {
    arena.matrix(offset, rows: rows, columns: shape.backboneWidth)
  }

  private func narrow(_ offset: Int, _ pass: Pass) -> Matrix {
    pass.arena.matrix(offset, rows: rows(pass.batch), columns: shape.width)
  }

  private func scale(_ matrix: Matrix, by factor: Float) {
    for index in 0..<matrix.rows * matrix.columns { matrix.base[index] *= factor }
  }
}
