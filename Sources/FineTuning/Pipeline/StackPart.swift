package import LanguageModels

/// Consecutive layers of one stack: what a pipeline's stage, or a device alone, runs of it.
package struct StackPart: Sendable, Equatable {
  /// Which stack, in the backbone's order.
  package let stack: Int
  /// The layers, counted in the stack.
  package let layers: Range<Int>
  /// True when the stack's last layer is among them.
  package let endsStack: Bool

  /// True when the stack's first layer is among them.
  package var startsStack: Bool { layers.lowerBound == 0 }

  /// The parts of stacks with `depths` layers that `layers` are, counted through all stacks.
  ///
  /// A stack of which there is no layer has no part.
  package static func parts(of layers: Range<Int>, depths: [Int]) -> [StackPart] {
    let total = depths.reduce(0, +)
    precondition(
      !layers.isEmpty && layers.lowerBound >= 0 && layers.upperBound <= total,
      "layers \(layers) of a model with \(total)")
    var parts: [StackPart] = []
    var first = 0
    for (stack, depth) in depths.enumerated() {
      let own = layers.clamped(to: first..<first + depth)
      if !own.isEmpty {
        parts.append(
          StackPart(
            stack: stack, layers: own.lowerBound - first..<own.upperBound - first,
            endsStack: own.upperBound == first + depth))
      }
      first += depth
    }
    return parts
  }

  /// Every stack whole.
  package static func whole(depths: [Int]) -> [StackPart] {
    parts(of: 0..<depths.reduce(0, +), depths: depths)
  }
}

extension BackboneArchitecture {
  /// Layers of each stack.
  package var depths: [Int] { stacks.map(\.layers) }
}
