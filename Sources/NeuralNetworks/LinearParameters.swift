package import TensorKernels

/// A linear layer `y = x·Wᵀ + b`.
package struct LinearParameters: Sendable {
  /// The matrix, [outputs × inputs].
  package var weight: Parameter
  /// The bias, when the layer has one.
  package var bias: Parameter?

  /// A layer from its leaves.
  package init(weight: Parameter, bias: Parameter?) {
    precondition(
      bias.map { $0.count == weight.rows } ?? true,
      "\(weight.name) has \(weight.rows) outputs, its bias \(bias?.count ?? 0)")
    self.weight = weight
    self.bias = bias
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
  package var isTrainable: Bool { weight.isTrainable || (bias?.isTrainable ?? false) }

  /// `y = activation(x·Wᵀ + b)`, added to `y` when `accumulate`.
  package func forward(
    _ x: Matrix, into y: Matrix, activation: Activation = .none, accumulate: Bool = false
  ) {
    matrixMultiply(
      x, .none, weight.matrix, .transposed, into: y,
      epilogue: Epilogue(
        bias: bias.map { UnsafePointer($0.values) }, activation: activation, accumulate: accumulate))
  }

  /// `dx = dy·W`, added to `dx` when `accumulate`.
  package func inputGradient(_ dy: Matrix, into dx: Matrix, accumulate: Bool) {
    matrixMultiply(dy, .none, weight.matrix, .none, into: dx, epilogue: Epilogue(accumulate: accumulate))
  }

  /// Floats of scratch that `parameterGradients` needs.
  package var gradientScratch: Int { weight.count }

  /// Hands `dyᵀ·x` and the column sums of `dy` to `sink`, for the leaves that are trainable.
  package func parameterGradients(
    _ dy: Matrix, _ x: Matrix, scratch: UnsafeMutablePointer<Float>, sink: any GradientSink
  ) {
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
  private let allTrainable: Bool

  init(_ members: [LinearParameters]) {
    precondition(!members.isEmpty, "a group of no layers")
    self.members = members
    allTrainable = members.allSatisfy { $0.weight.isTrainable }
    fused = Self.fuse(members)
  }

  /// Outputs of all members together.
  var outputs: Int { members.reduce(0) { $0 + $1.outputs } }

  private static func fuse(_ members: [LinearParameters]) -> LinearParameters? {
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

  private static func follows(_ first: Parameter?, _ second: Parameter?) -> Bool {
    guard let first, let second else { return first == nil && second == nil }
    return first.values + first.count == second.values
  }

  /// `y = x·[W₁; W₂; …]ᵀ + b`.
  func forward(_ x: Matrix, into y: Matrix) {
    if let fused {
      fused.forward(x, into: y)
      return
    }
    var column = 0
    for member in members {
      member.forward(x, into: y.columnRange(column, count: member.outputs))
      column += member.outputs
    }
  }

  /// `dx = Σ dyᵢ·Wᵢ`, added to `dx` when `accumulate`.
  func inputGradient(_ dy: Matrix, into dx: Matrix, accumulate: Bool) {
    if let fused {
      fused.inputGradient(dy, into: dx, accumulate: accumulate)
      return
    }
    var column = 0
    for member in members {
      member.inputGradient(
        dy.columnRange(column, count: member.outputs), into: dx, accumulate: accumulate || column > 0)
      column += member.outputs
    }
  }

  /// Hands the gradients of all trainable leaves to `sink`; `scratch` holds all members' weights and outputs.
  func parameterGradients(
    _ dy: Matrix, _ x: Matrix, scratch: UnsafeMutablePointer<Float>, sink: any GradientSink
  ) {
    let together = allTrainable ? fused?.weight : nil
    if let together {
      matrixMultiply(
        dy, .transposed, x, .none, into: Matrix(scratch, rows: together.rows, columns: together.columns))
    }
    var column = 0
    for member in members {
      let part = dy.columnRange(column, count: member.outputs)
      if let together {
        sink.add(scratch + column * member.inputs, of: member.weight)
        member.biasGradient(part, scratch: scratch + together.count, sink: sink)
      } else {
        member.parameterGradients(part, x, scratch: scratch, sink: sink)
      }
      column += member.outputs
    }
  }
}
