import NeuralNetworks
import TensorKernels

/// Owns the converted matrices of a backbone.
final class FrozenWeightMemory: Sendable {
  private let arenas: [Arena]
  /// What a converted backbone was made from borrows from it still: embeddings, norms, matrices in float32.
  private let source: any Backbone

  init(_ arenas: [Arena], source: any Backbone) {
    self.arenas = arenas
    self.source = source
  }
}

/// The converted matrices of a product, side by side, and their biases.
struct ConvertedProduct {
  /// The layers with their frozen weights.
  let members: [LinearParameters]
  let arena: Arena
  /// For each member, how many of its values the precision cannot hold.
  let misfits: [Int]
  /// Inputs that stay float32 (int8 only), ascending; they are all members', which read the same rows.
  let columns: [Int]

  /// Converts layers that read the same rows.
  init(_ members: [LinearParameters], to precision: WeightPrecision, float32Columns columns: [Int] = []) {
    var layout = ArenaLayout()
    // Members follow each other without a gap, so that they are one matrix.
    let weights = layout.reserve(members.reduce(0) { $0 + Self.floats($1, precision) })
    let biases = layout.reserve(members.reduce(0) { $0 + ($1.bias?.count ?? 0) })
    let outlierWeights = layout.reserve(members.reduce(0) { $0 + $1.outputs } * columns.count)
    let outlierColumns = layout.reserve(columns.count)
    let arena = Arena(floatCount: layout.floatCount)
    let numbers = UnsafeMutableRawPointer(arena.base + outlierColumns).bindMemory(
      to: UInt32.self, capacity: max(1, columns.count))
    for (index, column) in columns.enumerated() { numbers[index] = UInt32(column) }
    var place = arena.base + weights
    var biasPlace = arena.base + biases
    var outlierPlace = arena.base + outlierWeights
    var converted: [LinearParameters] = []
    var misfits: [Int] = []
    for member in members {
      var layer = member
      if let bias = member.bias {
        biasPlace.update(from: bias.values, count: bias.count)
        layer.bias = Parameter(frozen: bias.name, rows: 1, columns: bias.count, values: biasPlace)
        biasPlace += bias.count
      }
      let outliers =
        columns.isEmpty
        ? nil : OutlierColumns(columns: numbers, count: columns.count, weights: outlierPlace)
      let (weight, count) = Self.convert(
        member.weight, to: precision, at: UnsafeMutableRawPointer(place), outliers: outliers,
        outlierWeights: outlierPlace)
      layer.frozenWeight = weight
      place += Self.floats(member, precision)
      outlierPlace += member.outputs * columns.count
      converted.append(layer)
      misfits.append(count)
    }
    self.members = converted
    self.arena = arena
    self.misfits = misfits
    self.columns = columns
  }

  /// Bytes of the matrices as they are stored, in memory of their own or in the checkpoint.
  var byteCount: Int { members.reduce(0) { $0 + ($1.frozenWeight?.byteCount ?? 0) } }

  private static func floats(_ member: LinearParameters, _ precision: WeightPrecision) -> Int {
    switch precision {
    case .float32: 0
    case .float16, .bfloat16:
      isStored(member.weight, as: precision) ? 0 : (member.weight.count + 1) / 2
    case .int8: Int8Matrix.byteCount(outputs: member.outputs, inputs: member.inputs) / 4
    }
  }

  /// The converted matrix in the memory at `place`, and how many values did not fit.
  private static func convert(
    _ weight: Parameter, to precision: WeightPrecision, at place: UnsafeMutableRawPointer,
    outliers: OutlierColumns?, outlierWeights: UnsafeMutablePointer<Float>
  ) -> (FrozenWeight?, misfits: Int) {
    var misfits = 0
    switch precision {
    case .float32: return (nil, 0)
    case .float16, .bfloat16:
      if let half = weight.half, isStored(weight, as: precision) { return (FrozenWeight(half), 0) }
      let format: HalfFormat = precision == .float16 ? .float16 : .bfloat16
      let elements = place.bindMemory(to: UInt16.self, capacity: weight.count)
      forEachPiece(of: weight) { first, rows in
        misfits += encodeHalf(rows, format, into: elements + first * weight.columns)
      }
      return (
        FrozenWeight(HalfMatrix(elements, rows: weight.rows, columns: weight.columns, format: format)),
        misfits
      )
    case .int8:
      forEachPiece(of: weight) { first, rows in
        let values = UnsafeBufferPointer(start: rows.base, count: rows.rows * rows.columns)
        misfits += values.reduce(0) { $0 + ($1.isFinite ? 0 : 1) }
        quantize(
          rows, into: place + Int8Matrix.byteCount(outputs: first, inputs: weight.columns),
          outliers: outliers,
          outlierWeights: outlierWeights + first * (outliers?.count ?? 0))
      }
      let matrix = Int8Matrix(place, outputs: weight.rows, inputs: weight.columns, outliers: outliers)
      return (FrozenWeight(matrix), misfits)
    }
  }

  /// Quantises a panel, its outlier columns as zeros, which leaves the scales to the others.
  private static func quantize(
    _ rows: Matrix, into place: UnsafeMutableRawPointer, outliers: OutlierColumns?,
    outlierWeights: UnsafeMutablePointer<Float>
  ) {
    guard let outliers else {
      Int8Matrix.quantize(rows, into: place)
      return
    }
    let copy = Arena(floatCount: rows.rows * rows.columns)
    let rest = Matrix(copy.base, rows: rows.rows, columns: rows.columns)
    for row in 0..<rows.rows {
      (rest.base + row * rest.stride).update(from: rows.base + row * rows.stride, count: rows.columns)
      for index in 0..<outliers.count {
        let column = Int(outliers.columns[index])
        outlierWeights[row * outliers.count + index] = rows[row, column]
        rest[row, column] = 0
      }
    }
    Int8Matrix.quantize(rest, into: place)
    withExtendedLifetime(copy) {}
  }

  /// True when the checkpoint holds the matrix in this very format, so that it is read where it is.
  private static func isStored(_ weight: Parameter, as precision: WeightPrecision) -> Bool {
    switch weight.half?.format {
    case .float16?: precision == .float16
    case .bfloat16?: precision == .bfloat16
    case nil: false
    }
  }

  /// Calls `body` with whole panels of rows in float32, one after another.
  private static func forEachPiece(of weight: Parameter, _ body: (_ first: Int, _ rows: Matrix) -> Void) {
    for first in stride(from: 0, to: weight.rows, by: Int8Matrix.panelOutputs) {
      weight.withRows(first..<min(first + Int8Matrix.panelOutputs, weight.rows)) { body(first, $0) }
    }
  }
}
