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
  /// Bytes of all other leaves, as they are stored.
  package let otherBytes: Int
}

/// What became of one matrix.
package struct ConvertedMatrix: Sendable, Equatable {
  /// The matrix's name in the checkpoint.
  package let name: String
  /// Number of weights.
  package let count: Int
  /// How far its product was from float32 in the calibration, outlier columns apart; nil where none was made.
  package let relativeError: Double?
  /// Inputs that stay float32.
  package let float32Columns: [Int]
  /// True when it stays float32 as a whole.
  package let isKept: Bool
}

/// Converts the matrices of a frozen backbone's blocks; embeddings, norms, biases and heads stay float32.
package struct PrecisionConversion {
  /// The largest relative error of an int8 product in the calibration; above it, the matrix stays float32.
  ///
  /// Normally distributed weights and rows give 0.010.
  package static let largestInt8Error = 0.05
  /// From this error on, input columns far above the others are looked for: such a column takes the range of its rows
  /// for itself, and the error of all others grows with it (LLM.int8(), Dettmers et al., NeurIPS 2022).
  package static let errorOfOutliers = 0.015
  /// An outlier column's largest value is this many times the median column's.
  package static let outlierFactor: Float = 4
  /// Outlier columns are at most this share of a matrix's inputs: they cost as much as four times as many in int8.
  package static let largestOutlierShare = 1.0 / 16

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
  /// with larger values. int8 keeps outlier columns in float32, and does not suit a matrix whose product on the rows
  /// of `calibration` is too far from float32 all the same.
  package func deciding(_ precision: WeightPrecision, calibration: [BackboneBatch]) -> ConvertedBackbone {
    precondition(precision != .float32, "float32 needs no conversion")
    let products = backbone.products
    let plans = products.map { members -> [Int]? in
      precision == .int8 && members[0].inputs > Int8Matrix.maximumInputs ? nil : []
    }
    var converted = convert(products, to: precision, columns: plans)
    var errors = [[Double]?](repeating: nil, count: products.count)
    if precision == .int8 {
      let first = measure(products, converted, calibration)
      errors = first.map { $0?.map(\.relativeError) }
      let outliers = first.map { $0.flatMap(outlierColumns) }
      for (index, product) in convert(products, to: precision, columns: outliers).enumerated() {
        if let product { converted[index] = product }
      }
      let again = outliers.indices.map { outliers[$0] == nil ? nil : converted[$0] }
      for (index, observers) in measure(products, again, calibration).enumerated() {
        if let observers { errors[index] = observers.map(\.relativeError) }
      }
    }
    let keeps = products.indices.map { index in
      guard let product = converted[index], product.misfits.allSatisfy({ $0 == 0 }) else { return true }
      return (errors[index]?.max() ?? 0) > Self.largestInt8Error
    }
    return finish(products, converted, errors, keeps: keeps, precision: precision)
  }

  /// Converts as was decided before.
  package func following(_ decision: WeightDecision) throws(PrecisionFailure) -> ConvertedBackbone {
    let products = backbone.products
    let matrices = Dictionary(
      products.flatMap { $0.map { ($0.weight.name, $0) } }, uniquingKeysWith: { first, _ in first })
    let named = decision.float32Matrices + decision.float32Columns.map(\.matrix)
    if let unknown = named.first(where: { matrices[$0] == nil }) { throw .unknownMatrix(unknown) }
    for part in decision.float32Columns {
      let inputs = matrices[part.matrix]?.inputs ?? 0
      guard part.columns.allSatisfy({ (0..<inputs).contains($0) }),
        zip(part.columns, part.columns.dropFirst()).allSatisfy({ $0 < $1 })
      else { throw .unknownColumns(part, inputs: inputs) }
    }
    let kept = Set(decision.float32Matrices)
    let columns = Dictionary(
      decision.float32Columns.map { ($0.matrix, $0.columns) }, uniquingKeysWith: { first, _ in first })
    var plans: [[Int]?] = []
    for members in products {
      let isKept = members.contains { kept.contains($0.weight.name) }
      if !isKept, decision.precision == .int8, members[0].inputs > Int8Matrix.maximumInputs {
        throw .tooManyInputs(
          matrix: members[0].weight.name, inputs: members[0].inputs, limit: Int8Matrix.maximumInputs)
      }
      plans.append(isKept ? nil : columns[members[0].weight.name] ?? [])
    }
    let converted = convert(products, to: decision.precision, columns: plans)
    for product in converted.compactMap({ $0 }) {
      for (member, misfits) in zip(product.members, product.misfits) where misfits > 0 {
        throw .misfit(matrix: member.weight.name, precision: decision.precision, values: misfits)
      }
    }
    return finish(
      products, converted, products.map { _ in nil }, keeps: plans.map { $0 == nil },
      precision: decision.precision)
  }

  /// The outlier columns of a product's input, when its error asks for them and there are some.
  private func outlierColumns(_ observers: [ProductErrorObserver]) -> [Int]? {
    guard observers.contains(where: { $0.relativeError > Self.errorOfOutliers }) else { return nil }
    // All members read the same rows.
    let columns = observers[0].outlierColumns(factor: Self.outlierFactor, share: Self.largestOutlierShare)
    return columns.isEmpty ? nil : columns
  }

  /// Converts the products that have a plan, some at a time, so that few float32 pages are resident at once.
  ///
  /// - Parameter plans: for each product, the inputs that stay float32; nil leaves the product out.
  private func convert(
    _ products: [[LinearParameters]], to precision: WeightPrecision, columns plans: [[Int]?]
  ) -> [ConvertedProduct?] {
    var converted: [ConvertedProduct?] = []
    let pieces = max(loop.width, 4)
    while converted.count < products.count {
      let first = converted.count
      let results = PieceResults<ConvertedProduct>(count: min(pieces, products.count - first))
      loop.forEach(results.count) { piece, _ in
        guard let columns = plans[first + piece] else { return }
        results.set(
          ConvertedProduct(products[first + piece], to: precision, float32Columns: columns), at: piece)
      }
      converted += results.values
      layerDone()
    }
    return converted
  }

  /// For each converted product, what its members' observers saw in a float32 forward over `batches`.
  private func measure(
    _ products: [[LinearParameters]], _ converted: [ConvertedProduct?], _ batches: [BackboneBatch]
  ) -> [[ProductErrorObserver]?] {
    let observers = converted.map { product -> [ProductErrorObserver]? in
      product?.members.compactMap { member in
        member.frozenWeight.map { ProductErrorObserver(exact: member.weight, candidate: $0) }
      }
    }
    guard observers.contains(where: { $0 != nil }) else { return observers }
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
      withExtendedLifetime(workspace) {}
    }
    return observers
  }

  private func finish(
    _ products: [[LinearParameters]], _ converted: [ConvertedProduct?], _ errors: [[Double]?], keeps: [Bool],
    precision: WeightPrecision
  ) -> ConvertedBackbone {
    var chosen: [[LinearParameters]] = []
    var used: [ConvertedProduct] = []
    var matrices: [ConvertedMatrix] = []
    var replaced = 0
    for index in products.indices {
      let product = keeps[index] ? nil : converted[index]
      chosen.append(product?.members ?? products[index])
      if let product { used.append(product) }
      for (place, member) in products[index].enumerated() {
        matrices.append(
          ConvertedMatrix(
            name: member.weight.name, count: member.weight.count, relativeError: errors[index]?[place],
            float32Columns: product?.columns ?? [], isKept: product == nil))
        if product != nil { replaced += member.weight.storedBytes }
      }
    }
    let all = backbone.parameters.reduce(0) { $0 + $1.storedBytes }
    let memory = FrozenWeightMemory(used.map(\.arena), source: backbone)
    return ConvertedBackbone(
      backbone: backbone.replacing(products: chosen, keepingAlive: memory),
      decision: WeightDecision(
        precision: precision, float32Matrices: matrices.filter(\.isKept).map(\.name),
        float32Columns: matrices.filter { !$0.float32Columns.isEmpty }.map {
          WeightColumns(matrix: $0.name, columns: $0.float32Columns)
        }),
      matrices: matrices, convertedBytes: used.reduce(0) { $0 + $1.byteCount }, otherBytes: all - replaced)
  }
}

extension Parameter {
  /// Bytes of the values as they are stored.
  fileprivate var storedBytes: Int {
    count * (half == nil ? MemoryLayout<Float>.stride : MemoryLayout<UInt16>.stride)
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
