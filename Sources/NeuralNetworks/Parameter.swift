package import TensorKernels

/// The values of a frozen leaf that are stored in 16 bits and decoded only when somebody asks for float32.
package protocol DeferredValues: AnyObject, Sendable {
  /// The values as they are stored.
  var half: HalfMatrix { get }
  /// The values in float32: decoded at the first use, and in memory from then on.
  var decoded: UnsafeMutablePointer<Float> { get }
}

/// One leaf of a parameter tree: borrowed values and, when trainable, its place in the flat gradient vector.
///
/// - Safety: the owner (a mapped checkpoint or a parameter tree) keeps `count` floats at `values` alive
///   longer than the leaf. A frozen leaf may point at read-only memory; nothing writes through it.
package struct Parameter: @unchecked Sendable {
  /// Path of the leaf, for instance `encoder.0.selfAttention.query.weight`.
  package let name: String
  /// Rows of a matrix (outputs of a linear layer); 1 for a vector.
  package let rows: Int
  /// Columns of a matrix (inputs of a linear layer); the length of a vector.
  package let columns: Int
  private let storage: UnsafeMutablePointer<Float>?
  private let deferred: (any DeferredValues)?
  /// First index in the flat gradient vector; nil for a frozen leaf, which never gets a gradient.
  package let gradientOffset: Int?
  /// True when weight decay applies (matrices of linear layers only).
  package let decays: Bool

  /// A frozen leaf over memory that is only read.
  package init(frozen name: String, rows: Int, columns: Int, values: UnsafePointer<Float>) {
    self.init(
      name: name, rows: rows, columns: columns, values: UnsafeMutablePointer(mutating: values),
      gradientOffset: nil, decays: false)
  }

  /// A frozen leaf that is stored in 16 bits.
  package init(frozen name: String, deferred: any DeferredValues) {
    precondition(deferred.half.rows > 0 && deferred.half.columns > 0, "parameter \(name) is empty")
    self.name = name
    rows = deferred.half.rows
    columns = deferred.half.columns
    storage = nil
    self.deferred = deferred
    gradientOffset = nil
    decays = false
  }

  init(
    name: String, rows: Int, columns: Int, values: UnsafeMutablePointer<Float>, gradientOffset: Int?,
    decays: Bool
  ) {
    precondition(rows > 0 && columns > 0, "parameter \(name) cannot be \(rows) x \(columns)")
    self.name = name
    self.rows = rows
    self.columns = columns
    storage = values
    deferred = nil
    self.gradientOffset = gradientOffset
    self.decays = decays
  }

  /// The values, row by row; of a leaf that is stored in 16 bits, this decodes them all and keeps them.
  package var values: UnsafeMutablePointer<Float> {
    if let storage { return storage }
    guard let deferred else { preconditionFailure("\(name) has no values") }
    return deferred.decoded
  }
  /// The values as they are stored, when that is in 16 bits.
  package var half: HalfMatrix? { deferred?.half }
  /// True when both leaves are the same values in memory.
  package func isSame(as other: Parameter) -> Bool {
    if let deferred { return deferred === other.deferred }
    return storage == other.storage
  }

  /// Calls `body` with some rows in float32, which stay valid only during the call.
  package func withRows<Result>(_ range: Range<Int>, _ body: (Matrix) -> Result) -> Result {
    guard let half else { return body(matrix.rowRange(range.lowerBound, count: range.count)) }
    let memory = Arena(floatCount: range.count * columns)
    defer { withExtendedLifetime(memory) {} }
    let rows = Matrix(memory.base, rows: range.count, columns: columns)
    half.rowRange(range.lowerBound, count: range.count).decode(into: rows)
    return body(rows)
  }

  /// Calls `body` with all values in float32, which stay valid only during the call.
  package func withMatrix<Result>(_ body: (Matrix) -> Result) -> Result { withRows(0..<rows, body) }

  /// Writes c = epilogue(x·valuesᵀ) without keeping decoded values.
  package func product(_ x: Matrix, into c: Matrix, epilogue: Epilogue = Epilogue()) {
    if let half {
      matrixMultiply(x, transposed: half, into: c, epilogue: epilogue)
    } else {
      matrixMultiply(x, .none, matrix, .transposed, into: c, epilogue: epilogue)
    }
  }

  /// Number of values.
  package var count: Int { rows * columns }
  /// The values as a matrix.
  package var matrix: Matrix { Matrix(values, rows: rows, columns: columns) }
  /// Some rows of the leaf, with their place in the gradient vector.
  package func rowRange(_ range: Range<Int>) -> Parameter {
    precondition(
      range.lowerBound >= 0 && range.upperBound <= rows, "rows \(range) of the \(rows) of \(name)")
    return Parameter(
      name: name, rows: range.count, columns: columns, values: values + range.lowerBound * columns,
      gradientOffset: gradientOffset.map { $0 + range.lowerBound * columns }, decays: decays)
  }

  /// The same values as a leaf that is only read.
  package var frozen: Parameter {
    if deferred != nil { return self }
    return Parameter(frozen: name, rows: rows, columns: columns, values: UnsafePointer(values))
  }

  /// True when the leaf has a place in the gradient vector.
  package var isTrainable: Bool { gradientOffset != nil }
}

/// What a leaf is for; decides weight decay.
package enum ParameterKind: Sendable, Equatable {
  /// The matrix of a linear layer: the only kind that decays.
  case weight
  /// A table that is looked up, such as relative-position biases.
  case embedding
  /// The bias of a linear layer.
  case bias
  /// Scale or shift of a norm.
  case norm
  /// A scalar that mixes two paths.
  case gate
  /// A vector that tokens are weighted by, which starts at zero.
  case query
}

/// Name, shape and kind of a leaf that does not exist yet.
package struct ParameterShape: Sendable, Equatable {
  /// Path of the leaf.
  package var name: String
  /// Rows; 1 for a vector.
  package var rows: Int
  /// Columns, or the length of a vector.
  package var columns: Int
  /// What the leaf is for.
  package var kind: ParameterKind

  /// Describes a leaf of `rows` × `columns` values.
  package init(_ name: String, rows: Int, columns: Int, kind: ParameterKind) {
    self.name = name
    self.rows = rows
    self.columns = columns
    self.kind = kind
  }

  /// Number of values.
  package var count: Int { rows * columns }
}
