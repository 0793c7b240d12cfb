package import TensorKernels

/// A linear layer `y = x·Wᵀ + b`.
package struct LinearParameters: Sendable {
  /// The matrix, [outputs × inputs].
  package var weight: Parameter
  /// The bias, when the layer has one.
  package var bias: Parameter?
  /// A trained product beside the matrix, when the layer has one.
  package var lowRank: LowRankPair? {
    didSet { checkLowRank() }
  }
  /// The matrix in another precision, which the forward reads in the leaf's place; frozen layers only.
  package var frozenWeight: FrozenWeight? {
    didSet { checkFrozenWeight() }
  }

  /// A layer from its leaves.
  package init(weight: Parameter, bias: Parameter?) {
    precondition(
      bias.map { $0.count == weight.rows } ?? true,
      "\(weight.name) has \(weight.rows) outputs, its bias \(bias?.count ?? 0)")
    self.weight = weight
    self.bias = bias
  }

  private func checkLowRank() {
    guard let lowRank else { return }
    precondition(
      lowRank.a.columns == inputs && lowRank.b.rows == outputs,
      "\(weight.name) of \(outputs) x \(inputs) with a pair of \(lowRank.b.rows) x \(lowRank.a.columns)")
  }

  private func checkFrozenWeight() {
    guard let frozenWeight else { return }
    precondition(
      !isTrainable && frozenWeight.outputs == outputs && frozenWeight.inputs == inputs,
      "\(weight.name) of \(outputs) x \(inputs) in another precision, \(frozenWeight.outputs) x \(frozenWeight.inputs)"
    )
  }

  /// The layer at `prefix.weight` and, when asked for, `prefix.bias`.
  package init(_ tree: ParameterTree, _ prefix: String, bias: Bool) {
    self.init(weight: tree["\(prefix).weight"], bias: bias ? tree["\(prefix).bias"] : nil)
  }

  /// Number of outputs.
  package var outputs: Int { weight.rows }
  /// Number of inputs.
  package var inputs: Int { weight.columns }
  /// True when a leaf of the layer is trainable.
  package var isTrainable: Bool {
    weight.isTrainable || (bias?.isTrainable ?? false)
      || (lowRank.map { $0.a.isTrainable || $0.b.isTrainable } ?? false)
  }

  /// `y = activation(x·Wᵀ + b)`, added to `y` when `accumulate`; with a low-rank pair, that of the sum of both.
  ///
  /// - Parameter dropout: of what the low-rank pair reads.
  package func forward(
    _ x: Matrix, into y: Matrix, activation: Activation = .none, accumulate: Bool = false,
    dropout: LowRankDropout? = nil
  ) {
    precondition(
      lowRank == nil || activation == .none || !accumulate,
      "\(weight.name): an activation of a sum that is added")
    let epilogue = Epilogue(
      bias: bias.map { UnsafePointer($0.values) }, activation: lowRank == nil ? activation : .none,
      accumulate: accumulate)
    if let frozenWeight {
      frozenWeight.multiply(x, into: y, epilogue: epilogue)
    } else {
      matrixMultiply(x, .none, weight.matrix, .transposed, into: y, epilogue: epilogue)
    }
    guard let lowRank else { return }
    lowRank.forward(x, into: y, dropout: dropout)
    if activation != .none { applyActivation(activation, y, into: y) }
  }

  /// `dx = dy·W`, added to `dx` when `accumulate`.
  package func inputGradient(
    _ dy: Matrix, into dx: Matrix, accumulate: Bool, dropout: LowRankDropout? = nil
  ) {
    matrixMultiply(dy, .none, weight.matrix, .none, into: dx, epilogue: Epilogue(accumulate: accumulate))
    lowRank?.inputGradient(dy, into: dx, dropout: dropout)
  }

  /// Floats of scratch that `parameterGradients` needs.
  package var gradientScratch: Int { weight.count }

  /// Hands `dyᵀ·x`, the column sums of `dy` and a low-rank pair's gradients to `sink`, for the leaves that are
  /// trainable.
  package func parameterGradients(
    _ dy: Matrix, _ x: Matrix, scratch: UnsafeMutablePointer<Float>, sink: any GradientSink,
    dropout: LowRankDropout? = nil
  ) {
    lowRank?.parameterGradients(dy, x, scratch: scratch, sink: sink, dropout: dropout)
    if weight.isTrainable {
      matrixMultiply(
        dy, .transposed, x, .none, into: Matrix(scratch, rows: weight.rows, columns: weight.columns))
      sink.add(scratch, of: weight)
    }
    biasGradient(dy, scratch: scratch, sink: sink)
  }

  func biasGradient(_ dy: Matrix, scratch: UnsafeMutablePointer<Float>, sink: any GradientSink) {
    guard let bias, bias.isTrainable else { return }
    columnSums(dy, into: scratch, accumulate: false)
    sink.add(scratch, of: bias)
  }
}

/// Linear layers that read the same rows, for instance query, key and value.
///
/// Their outputs stand side by side in one matrix. When their leaves follow each other in memory, the
/// group is one matrix product; else it is one product a member.
struct LinearGroup: Sendable {
  let members: [LinearParameters]
  /// The layer that all members make together, when their leaves are adjacent.
  private let fused: LinearParameters?
  /// The matrix that all members' frozen weights make together, when they are adjacent.
  private let joined: FrozenWeight?
  private let allTrainable: Bool

  init(_ members: [LinearParameters]) {
    precondition(!members.isEmpty, "a group of no layers")
    self.members = members
    allTrainable = members.allSatisfy { $0.weight.isTrainable && $0.lowRank == nil }
    joined = Self.join(members)
    fused = members.contains { $0.frozenWeight != nil } ? nil : Self.fuse(members)
  }

  /// Outputs of all members together.
  var outputs: Int { members.reduce(0) { $0 + $1.outputs } }

  private static func fuse(_ members: [LinearParameters]) -> LinearParameters? {
    guard members.allSatisfy({ $0.weight.half == nil }) else { return nil }
    let adjacent = zip(members, members.dropFirst()).allSatisfy { first, second in
      first.weight.values + first.weight.count == second.weight.values && first.inputs == second.inputs
        && follows(first.bias, second.bias)
    }
    guard adjacent else { return nil }
    let outputs = members.reduce(0) { $0 + $1.outputs }
    let first = members[0]
    return LinearParameters(
      weight: Parameter(
        frozen: first.weight.name, rows: outputs, columns: first.inputs, values: first.weight.values),
      bias: first.bias.map { Parameter(frozen: $0.name, rows: 1, columns: outputs, values: $0.values) })
  }

  private static func join(_ members: [LinearParameters]) -> FrozenWeight? {
    let areAdjacent = zip(members, members.dropFirst()).allSatisfy { follows($0.bias, $1.bias) }
    guard areAdjacent, members.allSatisfy({ $0.lowRank == nil }) else { return nil }
    var joined = members[0].frozenWeight
    for member in members.dropFirst() {
      guard let next = member.frozenWeight else { return nil }
      joined = joined?.joined(next)
    }
    return joined
  }

  private static func follows(_ first: Parameter?, _ second: Parameter?) -> Bool {
    guard let first, let second else { return first == nil && second == nil }
    return first.values + first.count == second.values
  }

  /// True when a leaf of a member is trainable.
  var isTrainable: Bool { members.contains { $0.isTrainable } }

  /// `y = x·[W₁; W₂; …]ᵀ + b`.
  func forward(_ x: Matrix, into y: Matrix, dropout: GroupDropout? = nil) {
    if let joined {
      joined.multiply(
        x, into: y, epilogue: Epilogue(bias: members[0].bias.map { UnsafePointer($0.values) }))
      return
    }
    fused?.forward(x, into: y)
    var column = 0
    for (index, member) in members.enumerated() {
      let part = y.columnRange(column, count: member.outputs)
      if fused != nil {
        member.lowRank?.forward(x, into: part, dropout: dropout?[index])
      } else {
        member.forward(x, into: part, dropout: dropout?[index])
      }
      column += member.outputs
    }
  }

  /// `dx = Σ dyᵢ·Wᵢ`, added to `dx` when `accumulate`.
  func inputGradient(_ dy: Matrix, into dx: Matrix, accumulate: Bool, dropout: GroupDropout? = nil) {
    fused?.inputGradient(dy, into: dx, accumulate: accumulate)
    var column = 0
    for (index, member) in members.enumerated() {
      let part = dy.columnRange(column, count: member.outputs)
      if fused != nil {
        member.lowRank?.inputGradient(part, into: dx, dropout: dropout?[index])
      } else {
        member.inputGradient(
          part, into: dx, accumulate: accumulate || column > 0, dropout: dropout?[index])
      }
      column += member.outputs
    }
  }

  /// Hands the gradients of all trainable leaves to `sink`; `scratch` holds all members' weights and outputs.
  func parameterGradients(
    _ dy: Matrix, _ x: Matrix, scratch: UnsafeMutablePointer<Float>, sink: any GradientSink,
    dropout: GroupDropout? = nil
  ) {
    guard isTrainable else { return }
    let together = allTrainable ? fused?.weight : nil
    if let together {
      matrixMultiply(
        dy, .transposed, x, .none, into: Matrix(scratch, rows: together.rows, columns: together.columns))
    }
    var column = 0
    for (index, member) in members.enumerated() {
      let part = dy.columnRange(column, count: member.outputs)
      if let together {
        sink.add(scratch + column * member.inputs, of: member.weight)
        member.biasGradient(part, scratch: scratch + together.count, sink: sink)
      } else {
        member.parameterGradients(part, x, scratch: scratch, sink: sink, dropout: dropout?[index])
      }
      column += member.outputs
    }
  }
}

/// The dropouts of a group's low-rank pairs, one site a member.
struct GroupDropout: Sendable {
  let dropout: RowDropout
  let sequences: PackedSequences
  let layer: Int
  let sites: [DropoutSite]

  subscript(member: Int) -> LowRankDropout {
    LowRankDropout(dropout: dropout, sequences: sequences, layer: layer, site: sites[member])
  }
}
