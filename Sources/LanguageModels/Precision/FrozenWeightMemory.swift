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

  /// Bytes of the converted matrices.
  var byteCount: Int { arenas.reduce(0) { $0 + $1.floatCount * MemoryLayout<Float>.stride } }
}

/// The converted matrices of a product, side by side, and their biases.
struct ConvertedProduct {
  /// The layers with their frozen weights.
  let members: [LinearParameters]
  let arena: Arena
  /// For each member, how many of its values the precision cannot hold.
  let misfits: [Int]

  /// Converts layers that read the same rows.
  init(_ members: [LinearParameters], to precision: WeightPrecision) {
    let sizes = members.map { Self.floats($0, precision) }
    let biases = members.reduce(0) { $0 + ($1.bias?.count ?? 0) }
    let arena = Arena(floatCount: sizes.reduce(0, +) + biases)
    var place = arena.base
    var biasPlace = arena.base + sizes.reduce(0, +)
    var converted: [LinearParameters] = []
    var misfits: [Int] = []
    for (member, size) in zip(members, sizes) {
      var layer = member
      if let bias = member.bias {
        biasPlace.update(from: bias.values, count: bias.count)
        layer.bias = Parameter(frozen: bias.name, rows: 1, columns: bias.count, values: biasPlace)
        biasPlace += bias.count
      }
      let (weight, count) = Self.convert(member.weight, to: precision, at: UnsafeMutableRawPointer(place))
      layer.frozenWeight = weight
      place += size
      converted.append(layer)
      misfits.append(count)
    }
    self.members = converted
    self.arena = arena
    self.misfits = misfits
  }

  private static func floats(_ member: LinearParameters, _ precision: WeightPrecision) -> Int {
    switch precision {
    case .float32: 0
    case .float16, .bfloat16: (member.weight.count + 1) / 2
    case .int8: Int8Matrix.byteCount(outputs: member.outputs, inputs: member.inputs) / 4
    }
  }

  /// The converted matrix in the memory at `place`, and how many values did not fit.
  private static func convert(
    _ weight: Parameter, to precision: WeightPrecision, at place: UnsafeMutableRawPointer
  ) -> (FrozenWeight?, misfits: Int) {
    switch precision {
    case .float32: return (nil, 0)
    case .float16, .bfloat16:
      let format: HalfFormat = precision == .float16 ? .float16 : .bfloat16
      let elements = place.bindMemory(to: UInt16.self, capacity: weight.count)
      let misfits = encodeHalf(weight.matrix, format, into: elements)
      return (
        FrozenWeight(HalfMatrix(elements, rows: weight.rows, columns: weight.columns, format: format)),
        misfits
      )
    case .int8:
      let values = UnsafeBufferPointer(start: weight.values, count: weight.count)
      let misfits = values.reduce(0) { $0 + ($1.isFinite ? 0 : 1) }
      Int8Matrix.quantize(weight.matrix, into: place)
      return (FrozenWeight(Int8Matrix(place, outputs: weight.rows, inputs: weight.columns)), misfits)
    }
  }
}
