package import LanguageModels
package import NeuralNetworks

/// Which trained leaves a stage has to do with, by place in the tree; every device can tell for every stage.
package struct StageLeaves: Sendable, Equatable {
  /// Leaves whose gradients the stage hands on.
  package let own: [Int]
  /// Leaves that it reads and another stage hands on, alone or as well.
  package let shared: [Int]

  /// The leaves of a side network's stage: those of its layers, of what precedes the first and follows the last.
  ///
  /// A stack's relative position biases are its first stage's, and every stage of the stack reads them.
  package init(_ shape: SideNetworkShape, layers: Range<Int>, in tree: ParameterTree) {
    self.init(
      tree.parameters.filter(\.isTrainable).map(\.name), stacks: shape.stacks.map(\.name),
      depths: shape.depths, layers: layers, scoresWords: false)
  }

  /// The leaves of a tuned backbone's stage.
  ///
  /// The words belong to every stage that looks them up or scores them.
  package init(
    _ configuration: TechniqueConfiguration, head: TaskHead, backbone: any Backbone, layers: Range<Int>,
    in tree: ParameterTree
  ) {
    self.init(
      configuration, head: head, backbone: backbone, layers: layers,
      names: tree.parameters.filter(\.isTrainable).map(\.name))
  }

  /// The same from the names of all trained leaves in order, before there is a tree.
  init(
    _ configuration: TechniqueConfiguration, head: TaskHead, backbone: any Backbone, layers: Range<Int>,
    names: [String]
  ) {
    let architecture = backbone.architecture
    self.init(
      names, stacks: architecture.stacks.map(\.kind.rawValue), depths: architecture.depths, layers: layers,
      scoresWords: head == .languageModel && backbone.leaves.isTied)
  }

  private init(
    _ names: [String], stacks: [String], depths: [Int], layers: Range<Int>, scoresWords: Bool
  ) {
    let parts = StackPart.parts(of: layers, depths: depths)
    let endsNetwork = parts.contains { $0.endsStack && $0.stack == stacks.count - 1 }
    let wordUses = parts.count(where: \.startsStack) + (endsNetwork && scoresWords ? 1 : 0)
    var own: [Int] = []
    var shared: [Int] = []
    for (index, name) in names.enumerated() {
      if name == "words" {
        if wordUses > 0 { own.append(index) }
        if wordUses > 0, wordUses < stacks.count + (scoresWords ? 1 : 0) { shared.append(index) }
        continue
      }
      switch Self.place(name, stacks, parts, endsNetwork: endsNetwork) {
      case .own: own.append(index)
      case .shared: shared.append(index)
      case .foreign: break
      }
    }
    self.own = own
    self.shared = shared
  }

  private enum Place { case own, shared, foreign }

  private static func place(
    _ name: String, _ stacks: [String], _ parts: [StackPart], endsNetwork: Bool
  ) -> Place {
    let path = name.split(separator: ".").map(String.init)
    guard path.count > 1, let stack = stacks.firstIndex(of: path[0]) else {
      return endsNetwork ? .own : .foreign
    }
    guard let part = parts.first(where: { $0.stack == stack }) else { return .foreign }
    if let layer = Int(path[1] == "layers" ? path[2] : path[1]) {
      return part.layers.contains(layer) ? .own : .foreign
    }
    switch path[1] {
    case "norm": return part.endsStack ? .own : .foreign
    case "relativeBias": return part.startsStack ? .own : .shared
    default: return part.startsStack ? .own : .foreign
    }
  }
}
