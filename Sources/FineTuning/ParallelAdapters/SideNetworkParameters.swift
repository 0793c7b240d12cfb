import Determinism
package import LanguageModels
package import NeuralNetworks
import TensorKernels

extension SideNetworkShape {
  /// Every trainable parameter, in the order of the flat vector and of the adapter file.
  package func parameterShapes() -> [ParameterShape] {
    var shapes: [ParameterShape] = []
    for stack in stacks {
      shapes += linear("\(stack.name).down", outputs: width, inputs: backboneWidth)
      for layer in stack.layers {
        let prefix = "\(stack.name).layers.\(layer)"
        shapes += linear("\(prefix).down", outputs: width, inputs: backboneWidth)
        if configuration.gates {
          shapes.append(ParameterShape("\(prefix).mix", rows: 1, columns: 1, kind: .gate))
        }
        shapes += stack.block.parameterShapes(prefix: prefix)
      }
      if let bias = stack.relativeBias {
        shapes.append(
          ParameterShape(
            "\(stack.name).relativeBias", rows: bias.buckets, columns: stack.block.heads, kind: .embedding))
      }
      if stack.hasFinalNorm {
        shapes.append(ParameterShape("\(stack.name).norm.weight", rows: 1, columns: width, kind: .norm))
        if stack.block.norm == .layer {
          shapes.append(ParameterShape("\(stack.name).norm.bias", rows: 1, columns: width, kind: .norm))
        }
      }
    }
    shapes += linear("up", outputs: backboneWidth, inputs: width)
    if configuration.output == .mixed {
      shapes.append(ParameterShape("outputMix", rows: 1, columns: 1, kind: .gate))
    }
    if head.outputs > 0 { shapes += linear("head", outputs: head.outputs, inputs: headInputs) }
    return shapes + poolingShapes() + alignmentShapes()
  }

  /// What pools the taps; last, so that all others start as without it.
  private func poolingShapes() -> [ParameterShape] {
    guard poolsTaps else { return [] }
    var shapes: [ParameterShape] = []
    for stack in stacks {
      for tap in stack.taps {
        let prefix = Self.poolingPrefix(stack.name, tap: tap)
        shapes.append(ParameterShape("\(prefix).query", rows: 1, columns: backboneWidth, kind: .query))
        shapes += linear("\(prefix).down", outputs: width, inputs: backboneWidth)
      }
    }
    return shapes + [ParameterShape("head.taps.weight", rows: head.outputs, columns: width, kind: .weight)]
  }

  /// What compares aligned texts; last as well.
  private func alignmentShapes() -> [ParameterShape] {
    guard alignsTexts else { return [] }
    var shapes: [ParameterShape] = []
    for stack in stacks {
      for tap in stack.alignedTaps {
        let prefix = Self.alignmentPrefix(stack.name, tap: tap)
        shapes.append(
          ParameterShape("\(prefix).weight", rows: width, columns: 3 * backboneWidth, kind: .weight))
        shapes.append(ParameterShape("\(prefix).closeness", rows: 1, columns: width, kind: .weight))
      }
    }
    let (prefix, block) = (Self.alignment, stacks[0].block)
    shapes.append(ParameterShape("\(prefix).bias", rows: 1, columns: width, kind: .bias))
    shapes += block.norm.parameterShapes(prefix: "\(prefix).norm", width: width)
    shapes += block.parameterShapes(prefix: "\(prefix).block")
    shapes += linear("\(prefix).dense", outputs: width, inputs: 4 * width)
    return shapes + [
      ParameterShape("head.\(prefix).weight", rows: head.outputs, columns: width, kind: .weight)
    ]
  }

  /// All trainable parameters.
  package var parameterCount: Int { parameterShapes().reduce(0) { $0 + $1.count } }

  /// Trainable parameters without the task's head, the number that the paper's tables count.
  package var adapterParameterCount: Int {
    parameterShapes().filter { !$0.name.hasPrefix("head.") }.reduce(0) { $0 + $1.count }
  }

  private func linear(_ prefix: String, outputs: Int, inputs: Int) -> [ParameterShape] {
    [
      ParameterShape("\(prefix).weight", rows: outputs, columns: inputs, kind: .weight),
      ParameterShape("\(prefix).bias", rows: 1, columns: outputs, kind: .bias),
    ]
  }

  /// A tree with this shape's parameters at their starting values.
  ///
  /// Random values are drawn per parameter from (seed, index), so that adding a parameter moves no other.
  ///
  /// - Parameter weights: lets each block go again after it was read, for a backbone that does not fit into memory.
  package func initialParameters(
    seed: UInt64, backbone: any Backbone, weights: (any WeightResidency)? = nil
  ) -> ParameterTree {
    let shapes = parameterShapes()
    let visit = BlockVisit(backbone, weights)
    let pruned =
      configuration.initialization == .pruned
      ? PrunedSideBlocks(shape: self, backbone: backbone, visit: visit) : nil
    defer { visit.end() }
    return ParameterTree(
      trainable: shapes,
      initialize: { index, values in
        let shape = shapes[index]
        if let pruned, pruned.fill(shape.name, into: values) { return }
        if fillBias(shape, from: backbone, into: values) { return }
        fillRandom(shape, seed: seed, index: index, into: values)
      })
  }

  /// A tree with this shape's parameters, all zero, to be filled from an adapter file.
  package func emptyParameters() -> ParameterTree {
    ParameterTree(trainable: parameterShapes(), initialize: { _, _ in })
  }

  /// The relative bias starts as the backbone's when the heads are the same (its shape does not shrink).
  private func fillBias(
    _ shape: ParameterShape, from backbone: any Backbone, into values: UnsafeMutableBufferPointer<Float>
  ) -> Bool {
    guard shape.kind == .embedding,
      let stack = stacks.firstIndex(where: { "\($0.name).relativeBias" == shape.name }),
      let source = backbone.relativeBias(stack: stack), source.columns == shape.columns
    else { return false }
    for index in 0..<values.count { values[index] = source.values[index] }
    return true
  }

  private func fillRandom(
    _ shape: ParameterShape, seed: UInt64, index: Int, into values: UnsafeMutableBufferPointer<Float>
  ) {
    switch shape.kind {
    case .bias, .gate, .query: return
    case .norm:
      let start: Float = shape.name.hasSuffix(".bias") ? 0 : 1
      for index in 0..<values.count { values[index] = start }
    case .weight, .embedding:
      let deviation = startingDeviation(shape)
      var generator = SeededGenerator(seed: seed, 0x7061_7261, UInt64(index))
      for index in 0..<values.count { values[index] = deviation * generator.normalFloat() }
    }
  }
}

extension SideNetworkShape {
  /// The standard deviation of a matrix's starting values.
  ///
  /// The paths between the networks start small (Ladder Side-Tuning: 0.01), blocks and head as BERT's (0.02). An average of a
  /// tap has √d as its length and nothing before it to keep small: its projection starts at d^−½, with values of about 1.
  private func startingDeviation(_ shape: ParameterShape) -> Float {
    if shape.name.contains(".pooling.") { return 1 / Float(backboneWidth).squareRoot() }
    if let deviation = alignmentDeviation(shape) { return deviation }
    let isPath =
      shape.name.hasPrefix("up.") || shape.name.contains(".down.weight") && !shape.name.contains("feed")
    return isPath ? 0.01 : 0.02
  }
}

extension SideNetworkShape {
  /// The same of what compares aligned texts, whose inputs are about 1 long in every column; nil of everything else.
  private func alignmentDeviation(_ shape: ParameterShape) -> Float? {
    if shape.name.hasSuffix(".\(Self.alignment).weight"), !shape.name.hasPrefix("head.") {
      return 1 / Float(alignedTaps * backboneWidth).squareRoot()
    }
    if shape.name.hasSuffix(".closeness") { return 0.5 }
    guard shape.name.hasPrefix("\(Self.alignment).") else { return nil }
    return shape.name.contains(".dense.") ? 1 / Float(4 * width).squareRoot() : 0.05
  }
}

/// Looks at one block of a backbone after the other, with one of them in memory when weights may leave it.
final class BlockVisit {
  private let backbone: any Backbone
  private let weights: (any WeightResidency)?
  private var current: (stack: Int, layer: Int)?

  init(_ backbone: any Backbone, _ weights: (any WeightResidency)?) {
    self.backbone = backbone
    self.weights = weights
  }

  func block(stack: Int, layer: Int) -> BlockParameters {
    let block = backbone.block(stack: stack, layer: layer)
    if let weights, current.map({ $0 != (stack, layer) }) ?? true {
      end()
      weights.willNeed(block.leaves)
      current = (stack, layer)
    }
    return block
  }

  /// Lets the last block go.
  func end() {
    if let weights, let current {
      weights.release(backbone.block(stack: current.stack, layer: current.layer).leaves)
    }
    current = nil
  }
}

/// Starting values of side blocks, cut out of the backbone's blocks by weight magnitude.
struct PrunedSideBlocks {
  private let shape: SideNetworkShape
  private let backbone: any Backbone
  private let visit: BlockVisit
  /// Residual coordinates that are kept, one set for every layer of every stack.
  private let residual: [Int]
  /// Heads that are kept in each stack.
  private let heads: [[Int]]

  init(shape: SideNetworkShape, backbone: any Backbone, visit: BlockVisit) {
    self.shape = shape
    self.backbone = backbone
    self.visit = visit
    var importance = [Float](repeating: 0, count: shape.backboneWidth)
    for (stack, description) in backbone.architecture.stacks.enumerated() {
      for layer in 0..<description.layers {
        Self.addResidualImportance(of: visit.block(stack: stack, layer: layer), into: &importance)
      }
    }
    residual = MagnitudePruning.strongest(
      shape.width, in: 0..<shape.backboneWidth, importance: importance)
    heads = shape.stacks.indices.map { stack in
      Self.strongestHeads(of: shape.stacks[stack], stack: stack, backbone: backbone, visit: visit)
    }
  }

  private static func addResidualImportance(of block: BlockParameters, into importance: inout [Float]) {
    func reads(_ linear: LinearParameters?) {
      guard let linear else { return }
      linear.weight.withMatrix { MagnitudePruning.addColumnMagnitudes($0, into: &importance) }
    }
    func writes(_ linear: LinearParameters) {
      linear.weight.withMatrix { MagnitudePruning.addRowMagnitudes($0, into: &importance) }
    }
    for attention in [block.selfAttention, block.crossAttention].compactMap({ $0 }) {
      reads(attention.query)
      reads(attention.key)
      reads(attention.value)
      writes(attention.output)
    }
    reads(block.feedForward.up)
    reads(block.feedForward.gate)
    writes(block.feedForward.down)
  }

  /// One choice of heads for a whole stack, because its layers share one relative bias.
  private static func strongestHeads(
    of side: SideStackShape, stack: Int, backbone: any Backbone, visit: BlockVisit
  ) -> [Int] {
    let description = backbone.architecture.stacks[stack]
    guard side.block.heads < description.block.heads else { return Array(0..<description.block.heads) }
    var importance = [Float](repeating: 0, count: description.block.heads)
    for layer in side.layers {
      let attention = visit.block(stack: stack, layer: layer).selfAttention
      for linear in [attention.query, attention.key, attention.value] {
        var rows = [Float](repeating: 0, count: linear.weight.rows)
        linear.weight.withMatrix { MagnitudePruning.addRowMagnitudes($0, into: &rows) }
        for (row, magnitude) in rows.enumerated() {
          importance[row / description.block.headSize] += magnitude
        }
      }
    }
    return MagnitudePruning.strongest(
      side.block.heads, in: 0..<description.block.heads, importance: importance)
  }

  /// Fills the parameter `name` and returns true, or returns false when it is not cut from the backbone.
  func fill(_ name: String, into values: UnsafeMutableBufferPointer<Float>) -> Bool {
    guard let stack = shape.stacks.firstIndex(where: { name.hasPrefix($0.name + ".") }) else { return false }
    let side = shape.stacks[stack]
    let path = name.dropFirst(side.name.count + 1).split(separator: ".").map(String.init)
    if path[0] == "relativeBias" { return fillRelativeBias(stack: stack, into: values) }
    if path[0] == "norm" { return fillFinalNorm(stack: stack, field: path[1], into: values) }
    if path[0] == "down" { return path[1] == "weight" && fillSelection(into: values) }
    guard path[0] == "layers", path.count >= 4, let layer = Int(path[1]) else { return false }
    if path[2] == "down" { return path[3] == "weight" && fillSelection(into: values) }
    return fillBlock(stack: stack, layer: layer, path: Array(path[2...]), into: values)
  }

  /// A down-projection starts as the choice of the kept coordinates: the side residual stream starts as the
  /// backbone's own, seen through those coordinates.
  private func fillSelection(into values: UnsafeMutableBufferPointer<Float>) -> Bool {
    for (row, column) in residual.enumerated() { values[row * shape.backboneWidth + column] = 1 }
    return true
  }

  private func fillRelativeBias(stack: Int, into values: UnsafeMutableBufferPointer<Float>) -> Bool {
    guard let source = backbone.relativeBias(stack: stack) else { return false }
    copy(
      MagnitudePruning.slice(source.matrix, rows: Array(0..<source.rows), columns: heads[stack]), into: values
    )
    return true
  }

  private func fillFinalNorm(stack: Int, field: String, into values: UnsafeMutableBufferPointer<Float>)
    -> Bool
  {
    guard let norm = backbone.finalNorm(stack: stack) else { return false }
    return fillNorm(norm, field: field, into: values)
  }

  private func fillNorm(_ norm: NormParameters, field: String, into values: UnsafeMutableBufferPointer<Float>)
    -> Bool
  {
    guard let source = field == "weight" ? norm.weight : norm.bias else { return false }
    copy(MagnitudePruning.slice(source.values, residual), into: values)
    return true
  }

  private func fillBlock(
    stack: Int, layer: Int, path: [String], into values: UnsafeMutableBufferPointer<Float>
  )
    -> Bool
  {
    let block = visit.block(stack: stack, layer: layer)
    switch path[0] {
    case "selfAttention":
      return fillAttention(block.selfAttention, stack: stack, path: path, into: values)
    case "crossAttention":
      guard let attention = block.crossAttention else { return false }
      return fillAttention(attention, stack: stack, path: path, into: values)
    case "feedForward":
      return fillFeedForward(block.feedForward, stack: stack, path: path, into: values)
    default: return false
    }
  }

  private func fillAttention(
    _ attention: AttentionParameters, stack: Int, path: [String],
    into values: UnsafeMutableBufferPointer<Float>
  ) -> Bool {
    let side = shape.stacks[stack].block
    let backboneHeadSize = backbone.architecture.stacks[stack].block.headSize
    guard side.headSize <= backboneHeadSize else { return false }
    func kept(_ first: [Float], _ second: [Float]) -> [Int] {
      MagnitudePruning.headRows(
        heads: heads[stack], headSize: side.headSize, backboneHeadSize: backboneHeadSize, first: first,
        second: second)
    }
    switch path[1] {
    case "norm": return fillNorm(attention.norm, field: path[2], into: values)
    case "query", "key":
      let rows = kept(rowMagnitudes(attention.query), rowMagnitudes(attention.key))
      let linear = path[1] == "query" ? attention.query : attention.key
      return fillLinear(linear, field: path[2], rows: rows, columns: residual, into: values)
    case "value", "output":
      let rows = kept(rowMagnitudes(attention.value), columnMagnitudes(attention.output))
      return path[1] == "value"
        ? fillLinear(attention.value, field: path[2], rows: rows, columns: residual, into: values)
        : fillLinear(attention.output, field: path[2], rows: residual, columns: rows, into: values)
    default: return false
    }
  }

  private func fillFeedForward(
    _ feed: FeedForwardParameters, stack: Int, path: [String], into values: UnsafeMutableBufferPointer<Float>
  ) -> Bool {
    if path[1] == "norm" { return fillNorm(feed.norm, field: path[2], into: values) }
    var joint = zip(rowMagnitudes(feed.up), columnMagnitudes(feed.down)).map { $0 * $1 }
    if let gate = feed.gate { joint = zip(joint, rowMagnitudes(gate)).map { $0 * $1 } }
    let hidden = MagnitudePruning.strongest(
      shape.stacks[stack].block.hidden, in: 0..<joint.count, importance: joint)
    switch path[1] {
    case "up": return fillLinear(feed.up, field: path[2], rows: hidden, columns: residual, into: values)
    case "gate":
      guard let gate = feed.gate else { return false }
      return fillLinear(gate, field: path[2], rows: hidden, columns: residual, into: values)
    case "down": return fillLinear(feed.down, field: path[2], rows: residual, columns: hidden, into: values)
    default: return false
    }
  }

  private func fillLinear(
    _ linear: LinearParameters, field: String, rows: [Int], columns: [Int],
    into values: UnsafeMutableBufferPointer<Float>
  ) -> Bool {
    if field == "weight" {
      copy(
        linear.weight.withMatrix { MagnitudePruning.slice($0, rows: rows, columns: columns) }, into: values)
      return true
    }
    guard let bias = linear.bias else { return false }
    copy(MagnitudePruning.slice(bias.values, rows), into: values)
    return true
  }

  private func rowMagnitudes(_ linear: LinearParameters) -> [Float] {
    var importance = [Float](repeating: 0, count: linear.weight.rows)
    linear.weight.withMatrix { MagnitudePruning.addRowMagnitudes($0, into: &importance) }
    return importance
  }

  private func columnMagnitudes(_ linear: LinearParameters) -> [Float] {
    var importance = [Float](repeating: 0, count: linear.weight.columns)
    linear.weight.withMatrix { MagnitudePruning.addColumnMagnitudes($0, into: &importance) }
    return importance
  }

  private func copy(_ source: [Float], into values: UnsafeMutableBufferPointer<Float>) {
    precondition(source.count == values.count, "cut \(source.count) values for \(values.count)")
    for (index, value) in source.enumerated() { values[index] = value }
  }
}
