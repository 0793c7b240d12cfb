import TensorKernels

/// What crosses between two stages of a pipeline: rows of float32, one matrix after the other, without a header.
///
/// Both sides know the shapes from the micro-batch and the layers, so a length that differs says that they do not agree.
enum StageBoundary {
  /// The bytes of packed matrices.
  static func bytes(_ matrices: [Matrix]) -> [UInt8] {
    let count = byteCount(matrices)
    return [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
      var end = 0
      for matrix in matrices {
        let bytes = byteCount(matrix)
        guard bytes > 0, let base = buffer.baseAddress else { continue }
        UnsafeMutableRawPointer(base + end).copyMemory(from: matrix.base, byteCount: bytes)
        end += bytes
      }
      initialized = end
    }
  }

  /// Copies the bytes that another stage sent into packed matrices.
  ///
  /// - Throws: `malformedBoundary` when they are not as many as the matrices hold.
  static func read(
    _ bytes: [UInt8], into matrices: [Matrix], _ content: String, layers: Range<Int>
  ) throws(TrainingFailure) {
    let expected = byteCount(matrices)
    guard bytes.count == expected else {
      throw .malformedBoundary(
        content: content, firstLayer: layers.lowerBound, lastLayer: layers.upperBound - 1,
        bytes: bytes.count, expected: expected)
    }
    bytes.withUnsafeBytes { source in
      var end = 0
      for matrix in matrices {
        let count = byteCount(matrix)
        guard count > 0, let base = source.baseAddress else { continue }
        UnsafeMutableRawPointer(matrix.base).copyMemory(from: base + end, byteCount: count)
        end += count
      }
    }
  }

  private static func byteCount(_ matrices: [Matrix]) -> Int { matrices.reduce(0) { $0 + byteCount($1) } }

  private static func byteCount(_ matrix: Matrix) -> Int {
    precondition(
      matrix.stride == matrix.columns || matrix.rows <= 1,
      "a boundary of rows \(matrix.stride) floats apart for \(matrix.columns) columns")
    return matrix.rows * matrix.columns * MemoryLayout<Float>.stride
  }
}
