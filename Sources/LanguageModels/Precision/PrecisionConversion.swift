package import NeuralNetworks
package import TensorKernels

/// A backbone in another precision, and what was found on the way.
package struct ConvertedBackbone: Sendable {
  /// The model; the same shapes, names and taps.
  package let backbone: any Backbone
  /// What was decided.
  package let decision: WeightDecision
  /// Every matrix that could be converted, in the backbone's order.
  package let matrices: [ConvertedMatrix]
  /// Bytes of the converted matrices.
  package let convertedBytes: Int
  /// Bytes of all leaves that the forward reads in float32.
  package let float32Bytes: Int
}

/// What became of one matrix.
package struct ConvertedMatrix: Sendable, Equatable {
  /// The matrix's name in the checkpoint.
  package let name: String
  /// Number of weights.
  package let count: Int
  /// How far its product was from float32 in the calibration; nil where none was made.
  package let relativeError: Double?
  /// True when it stays float32.
  package let isKept: Bool
}

/// Converts the matrices of a frozen backbone's blocks; embeddings, norms, biases and heads stay float32.
package struct PrecisionConversion {
  /// The largest relative error of a matrix's product in the calibration with which it is still kept as int8.
  ///
  /// Normally distributed weights and rows give 0.010. A column of the input whose values are far above the others'
  /// (LLM.int8(), Dettmers et al., NeurIPS 2022) takes the range of its rows for itself, and the error of all other
  /// columns grows with it.
  package static let largestInt8Error = 0.05

  private let backbone: any Backbone
  private let loop: any ParallelLoop
  private let layerDone: () -> Void

  /// A conversion of `backbone`, whose float32 leaves stay in use.
  ///
  /// - Parameter layerDone: called when the matrices read so far are not needed for now: their pages may go.
  package init(_ backbone: any Backbone, loop: any ParallelLoop, layerDone: @escaping () -> Void) {
    self.backbone = backbone
    self.loop = loop
    self.layerDone = layerDone
  }

  /// Converts all matrices but those that a precision does not suit, and says which.
  ///
  /// A product whose layers read the same rows is converted as a whole or not at all. float16 does not suit a matrix
  /// with larger values, int8 one whose product on the rows of `calibration` is too far from float32.
  package func deciding(_ precision: WeightPrecision, calibration: [BackboneBatch]) -> ConvertedBackbone {
    precondition(precision != .float32, "float32 needs no conversion")
    let products = backbone.products
    let suits = products.map { members in
      precision != .int8 || members[0].inputs <= Int8Matrix.maximumInputs
    }
    let converted = convert(products, to: precision, where: suits)
    let errors = precision == .int8 ? measure(products, converted, calibration) : products.map { _ in nil }
    let keeps = products.indices.map { index in
      guard let product = converted[index] else { return true }
      if product.misfits.contains(where: { $0 > 0 }) { return true }
      return (errors[index]?.max() ?? 0) > Self.largestInt8Error
    }
    return finish(products, converted, errors, keeps: keeps, precision: precision)
  }

  /// Converts as was decided before.
  package func following(_ decision: WeightDecision) throws(PrecisionFailure) -> ConvertedBackbone {
    let products = backbone.products
    let kept = Set(decision.float32Matrices)
    let names = Set(products.flatMap { $0.map(\.weight.name) })
    if let unknown = decision.float32Matrices.first(where: { !names.contains($0) }) {
      throw .unknownMatrix(unknown)
    }
    let keeps = products.map { members in members.contains { kept.contains($0.weight.name) } }
    for (members, isKept) in zip(products, keeps) where !isKept && decision.precision == .int8 {
      guard members[0].inputs <= Int8Matrix.maximumInputs else {
        throw .tooManyInputs(
          matrix: members[0].weight.name, inputs: members[0].inputs, limit: Int8Matrix.maximumInputs)
      }
    }
    let converted = convert(products, to: decision.precision, where: keeps.map { !$0 })
    for product in converted.compactMap({ $0 }) {
      for (member, misfits) in zip(product.members, product.misfits) where misfits > 0 {
        throw .misfit(matrix: member.weight.name, precision: decision.precision, values: misfits)
      }
    }
    return finish(
      products, converted, products.map { _ in nil }, keeps: keeps, precision: decision.precision)
  }

  /// The converted products, a block's at a time, so that few float32 pages are resident at once.
  private func convert(
    _ products: [[LinearParameters]], to precision: WeightPrecision, where wanted: [Bool]
  ) -> [ConvertedProduct?] {
    var converted: [ConvertedProduct?] = []
    let pieces = max(loop.width, 4)
    while converted.count < products.count {
      let first = converted.count
      let results = PieceResults<ConvertedProduct>(count: min(pieces, products.count - first))
      loop.forEach(results.count) { piece, _ in
        guard wanted[first + piece] else { return }
        results.set(ConvertedProduct(products[first + piece], to: precision), at: piece)
      }
      converted += results.values
      layerDone()
    }
    return converted
  }

  /// For each product, its members' errors in a float32 forward over `batches`.
  private func measure(
    _ products: [[LinearParameters]], _ converted: [ConvertedProduct?], _ batches: [BackboneBatch]
  ) -> [[Double]?] {
    let observers = products.indices.map { index -> [ProductErrorObserver]? in
      converted[index]?.members.compactMap { member in
        member.frozenWeight.map { ProductErrorObserver(exact: member.weight, candidate: $0) }
      }
    }
    let observed = products.indices.map { index -> [LinearParameters] in
      guard let watching = observers[index] else { return products[index] }
      return zip(products[index], watching).map { member, observer in
        var member = member
        member.frozenWeight = FrozenWeight(
          observer: observer, outputs: member.outputs, inputs: member.inputs)
        return member
      }
    }
    let memory = FrozenWeightMemory(converted.compactMap { $0?.arena }, source: backbone)
    let model: any Backbone = backbone.replacing(products: observed, keepingAlive: memory)
    for batch in batches {
      let workspace = Arena(floatCount: model.workspaceFloats(capacity: BackboneCapacity(of: batch)))
      model.forward(batch, workspace: workspace) { _, _, _ in layerDone() }
    }
    return observers.map { $0?.map(\.relativeError) }
  }

  private func finish(
    _ products: [[LinearParameters]], _ converted: [ConvertedProduct?], _ errors: [[Double]?], keeps: [Bool],
    precision: WeightPrecision
  ) -> ConvertedBackbone {
    var chosen: [[LinearParameters]] = []
    var arenas: [Arena] = []
    var matrices: [ConvertedMatrix] = []
    var float32Bytes = backbone.parameters.reduce(0) { $0 + $1.count } * MemoryLayout<Float>.stride
    for index in products.indices {
      let product = keeps[index] ? nil : converted[index]
      chosen.append(product?.members ?? products[index])
      if let product { arenas.append(product.arena) }
      for (place, member) in products[index].enumerated() {
        matrices.append(
          ConvertedMatrix(
            name: member.weight.name, count: member.weight.count, relativeError: errors[index]?[place],
            isKept: product == nil))
        if product != nil { float32Bytes -= member.weight.count * MemoryLayout<Float>.stride }
      }
    }
    let memory = FrozenWeightMemory(arenas, source: backbone)
    return ConvertedBackbone(
      backbone: backbone.replacing(products: chosen, keepingAlive: memory),
      decision: WeightDecision(
        precision: precision, float32Matrices: matrices.filter(\.isKept).map(\.name)),
      matrices: matrices, convertedBytes: memory.byteCount, float32Bytes: float32Bytes)
  }
}

/// Results of pieces of work, each written once by whoever does the piece.
///
/// - Safety: pieces write different elements, and the reader waits for all of them.
private final class PieceResults<Value>: @unchecked Sendable {
  private let storage: UnsafeMutableBufferPointer<Value?>

  init(count: Int) {
    storage = .allocate(capacity: count)
    storage.initialize(repeating: nil)
  }

  deinit {
    storage.deinitialize()
    storage.deallocate()
  }

  var count: Int { storage.count }
  var values: [Value?] { Array(storage) }
  func set(_ value: Value, at index: Int) { storage[index] = value }
}
