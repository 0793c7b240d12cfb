package import NeuralNetworks

/// Which trained leaves a stage has to do with, by place in the tree; every device can tell for every stage.
package struct StageLeaves: Sendable, Equatable {
  /// Leaves whose gradients the stage hands on.
  package let own: [Int]
  /// Leaves that it reads and another stage hands on.
  package let shared: [Int]

  /// The leaves of a side network's stage: those of its layers, of what precedes the first and follows the last.
  ///
  /// A stack's relative position biases are its first stage's, and every stage of the stack reads them.
  package init(_ shape: SideNetworkShape, layers: Range<Int>, in tree: ParameterTree) {
    let parts = StackPart.parts(of: layers, depths: shape.depths)
    var own: [Int] = []
    var shared: [Int] = []
    for (index, leaf) in tree.parameters.enumerated() where leaf.isTrainable {
      switch Self.place(leaf.name, shape, parts) {
      case .own: own.append(index)
      case .shared: shared.append(index)
      case .foreign: break
      }
    }
    self.own = own
    self.shared = shared
  }

  private enum Place { case own, shared, foreign }

  private static func place(_ name: String, _ shape: SideNetworkShape, _ parts: [StackPart]) -> Place {
    let path = name.split(separator: ".").map(String.init)
    guard path.count > 1, let stack = shape.stacks.firstIndex(where: { $0.name == path[0] }) else {
      return SideNetworkPart.endsNetwork(shape, parts) ? .own : .foreign
    }
    guard let part = parts.first(where: { $0.stack == stack }) else { return .foreign }
    switch path[1] {
    case "layers": return Int(path[2]).map(part.layers.contains) ?? false ? .own : .foreign
    case "norm": return part.endsStack ? .own : .foreign
    case "relativeBias": return part.startsStack ? .own : .shared
    default: return part.startsStack ? .own : .foreign
    }
  }
}
