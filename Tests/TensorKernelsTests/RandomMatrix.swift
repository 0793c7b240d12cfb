import Determinism
import TensorKernels

/// A matrix that owns its memory, wider than its columns so that strides are exercised.
final class OwnedMatrix {
  let view: Matrix
  private let storage: UnsafeMutablePointer<Float>

  /// `rows` × `columns` inside rows of `columns + gap` floats that hold `filler`, `shift` floats into
  /// the allocation.
  init(rows: Int, columns: Int, gap: Int = 3, shift: Int = 0, filler: Float = 7) {
    let count = rows * (columns + gap) + shift + 1
    storage = .allocate(capacity: count)
    storage.initialize(repeating: filler, count: count)
    view = Matrix(storage + shift, rows: rows, columns: columns, stride: columns + gap)
  }

  /// Standard normal elements.
  convenience init(
    rows: Int, columns: Int, gap: Int = 3, shift: Int = 0, random generator: inout SeededGenerator,
    scale: Float = 1
  ) {
    self.init(rows: rows, columns: columns, gap: gap, shift: shift)
    for row in 0..<rows {
      for column in 0..<columns { view[row, column] = generator.normalFloat() * scale }
    }
  }

  deinit { storage.deallocate() }

  /// The elements of a block in double.
  func doubles(rows: Range<Int>, columns: Range<Int>) -> [[Double]] {
    rows.map { row in columns.map { Double(view[row, $0]) } }
  }

  /// Every element, row by row.
  var elements: [Float] {
    (0..<view.rows).flatMap { row in (0..<view.columns).map { view[row, $0] } }
  }

  /// True when the floats between the rows still hold the filler.
  func gapIsUntouched(filler: Float = 7) -> Bool {
    (0..<view.rows).allSatisfy { row in
      (view.columns..<view.stride).allSatisfy { view.base[row * view.stride + $0] == filler }
    }
  }
}

/// The kernel sets that this CPU runs.
let supportedSets = KernelSet.available
