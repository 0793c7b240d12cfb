package import LanguageModels
package import NeuralNetworks
import TensorKernels

/// The weights of a backbone with a Full or LoRA adapter folded in: a model that needs no adapter.
package struct MergedWeights {
  /// The file that they make: the base model's tensors under their own names, in float32.
  package let layout: SafetensorsLayout
  private let base: Checkpoint
  private let changes: [String: Change]

  private enum Change {
    /// The trained leaf takes the tensor's place.
    case replaced(Parameter)
    /// The pair's product is added to the tensor.
    case added(a: Parameter, b: Parameter, scale: Float)
  }

  /// Folds the adapter of a technique into the checkpoint that `backbone` borrows.
  ///
  /// A copy of the embedding under another name is left out: it would hold the old values, and loaders tie it again.
  package init(
    base: Checkpoint, backbone: any Backbone, configuration: TechniqueConfiguration,
    parameters: ParameterTree
  ) throws(MergeFailure) {
    self.base = base
    var changes: [String: Change] = [:]
    switch configuration {
    case .parallel, .houlsby: throw .notMergeable(technique: configuration.name)
    case .full:
      for (tree, checkpoint) in TechniqueConfiguration.checkpointNames(of: backbone) {
        if let leaf = parameters.parameter(named: tree) { changes[checkpoint] = .replaced(leaf) }
      }
    case .lora(let lora):
      for layer in backbone.adaptableLayers {
        guard let a = parameters.parameter(named: "\(layer.name).loraA") else { continue }
        changes[layer.weight.name] = .added(
          a: a, b: parameters["\(layer.name).loraB"], scale: lora.alpha / Float(lora.rank))
      }
    }
    self.changes = changes
    let read = Set(backbone.parameters.map(\.name))
    layout = SafetensorsLayout(
      base.names.compactMap { name in
        guard let entry = base.entry(name), entry.element.isLoadable else { return nil }
        let isAlias =
          !read.contains(name) && Self.aliasSuffixes.contains { name == $0 || name.hasSuffix("." + $0) }
        return isAlias ? nil : (name, entry.shape)
      }, metadata: ["format": "pt"])
  }

  private static let aliasSuffixes = ["embed_tokens.weight", "lm_head.weight"]

  /// Writes the elements `range` of a tensor of `layout`, row-major.
  package func fill(
    _ entry: SafetensorsEntry, _ range: Range<Int>, into values: UnsafeMutableBufferPointer<Float>
  ) throws(CheckpointFailure) {
    guard let target = values.baseAddress else { return }
    if case .replaced(let leaf) = changes[entry.name] {
      target.update(from: leaf.values + range.lowerBound, count: range.count)
      return
    }
    let source = try base.float32(named: entry.name, shape: entry.shape)
    target.update(from: source + range.lowerBound, count: range.count)
    guard case .added(let a, let b, let scale) = changes[entry.name] else { return }
    add(a, b, scale: scale, range, to: target)
  }

  /// Adds the elements `range` of `scale · B·A`.
  private func add(
    _ a: Parameter, _ b: Parameter, scale: Float, _ range: Range<Int>, to target: UnsafeMutablePointer<Float>
  ) {
    let columns = a.columns
    let rows = range.lowerBound / columns..<(range.upperBound + columns - 1) / columns
    let product = Arena(floatCount: rows.count * columns)
    matrixMultiply(
      b.matrix.rowRange(rows.lowerBound, count: rows.count), .none, a.matrix, .none,
      into: product.matrix(0, rows: rows.count, columns: columns), epilogue: Epilogue(scale: scale))
    let first = range.lowerBound - rows.lowerBound * columns
    for index in 0..<range.count { target[index] += product.base[first + index] }
  }
}

/// Why an adapter cannot be folded into a model.
package enum MergeFailure: Error, Equatable, CustomStringConvertible {
  /// The technique adds parts that the model's own layers cannot stand for.
  case notMergeable(technique: String)

  /// One line: what was wrong, where, and the next step.
  package var description: String {
    switch self {
    case .notMergeable(let technique):
      "an adapter of the technique \(technique) is a network of its own beside or between the model's layers and "
        + "cannot be folded into its weights; only full and lora adapters can: use it with --adapter"
    }
  }
}
