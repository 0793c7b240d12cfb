package import TensorKernels

/// How the matrices of a frozen backbone are kept in memory.
public enum WeightPrecision: String, Codable, Sendable, CaseIterable {
  /// As they are trained: 4 bytes a weight.
  case float32
  /// IEEE 754 half precision, 2 bytes; products in float32.
  case float16
  /// The upper half of a float32, 2 bytes; products in float32.
  case bfloat16
  /// One byte under a scale an output; products of integers, rows quantised on the way.
  case int8
}

/// A product with a frozen matrix that is watched: what decides a matrix's precision.
package protocol FrozenProductObserver: AnyObject, Sendable {
  /// Writes c = epilogue(x·wᵀ).
  func multiply(_ x: Matrix, into c: Matrix, epilogue: Epilogue)
}

/// The matrix of a frozen linear layer in a form that only its forward reads.
///
/// It stands beside the float32 leaf, which keeps the layer's name and shape; with it, a forward does not touch the
/// leaf's values.
package struct FrozenWeight: Sendable {
  /// What a product reads.
  package enum Storage: Sendable {
    /// 16-bit weights.
    case half(HalfMatrix)
    /// Integers with scales.
    case int8(Int8Matrix)
    /// Somebody who watches.
    case observed(any FrozenProductObserver)
  }

  /// What a product reads.
  package let storage: Storage
  /// Number of outputs.
  package let outputs: Int
  /// Number of inputs.
  package let inputs: Int

  /// 16-bit weights.
  package init(_ matrix: HalfMatrix) {
    storage = .half(matrix)
    (outputs, inputs) = (matrix.rows, matrix.columns)
  }

  /// Integers with scales.
  package init(_ matrix: Int8Matrix) {
    storage = .int8(matrix)
    (outputs, inputs) = (matrix.outputs, matrix.inputs)
  }

  /// A watched product of a matrix of this shape.
  package init(observer: any FrozenProductObserver, outputs: Int, inputs: Int) {
    storage = .observed(observer)
    (self.outputs, self.inputs) = (outputs, inputs)
  }

  /// Bytes of the matrix as it is stored; 0 for a watched product.
  package var byteCount: Int {
    switch storage {
    case .half(let matrix): matrix.rows * matrix.columns * MemoryLayout<UInt16>.stride
    case .int8(let matrix):
      matrix.byteCount + matrix.outputs * (matrix.outliers?.count ?? 0) * MemoryLayout<Float>.stride
    case .observed: 0
    }
  }

  /// Writes c = epilogue(x·wᵀ).
  package func multiply(_ x: Matrix, into c: Matrix, epilogue: Epilogue) {
    switch storage {
    case .half(let matrix): matrixMultiply(x, transposed: matrix, into: c, epilogue: epilogue)
    case .int8(let matrix): matrixMultiply(x, transposed: matrix, into: c, epilogue: epilogue)
    case .observed(let observer): observer.multiply(x, into: c, epilogue: epilogue)
    }
  }

  /// The matrix that this one and the next make together, or nil when they do not follow each other in memory.
  func joined(_ next: FrozenWeight) -> FrozenWeight? {
    guard inputs == next.inputs else { return nil }
    switch (storage, next.storage) {
    case (.half(let first), .half(let second)):
      guard first.format == second.format, first.base + first.rows * first.columns == second.base else {
        return nil
      }
      return FrozenWeight(
        HalfMatrix(
          first.base, rows: first.rows + second.rows, columns: first.columns, format: first.format))
    case (.int8(let first), .int8(let second)):
      return first.joined(second).map { FrozenWeight($0) }
    default: return nil
    }
  }
}
