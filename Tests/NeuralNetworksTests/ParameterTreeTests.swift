import NeuralNetworks
import TensorKernels
import Testing

@Suite("A parameter tree")
struct ParameterTreeTests {
  private static let shapes = [
    ParameterShape("a.weight", rows: 3, columns: 5, kind: .weight),
    ParameterShape("b.weight", rows: 4, columns: 8, kind: .weight),
    ParameterShape("a.bias", rows: 1, columns: 3, kind: .bias),
    ParameterShape("norm.weight", rows: 1, columns: 8, kind: .norm),
    ParameterShape("gate", rows: 1, columns: 1, kind: .gate),
    ParameterShape("c.weight", rows: 1, columns: 8, kind: .weight),
  ]

  private static func tree() -> ParameterTree {
    ParameterTree(trainable: shapes) { index, values in
      for position in values.indices { values[position] = Float(100 * index + position) }
    }
  }

  @Test("lays leaves out in declaration order, each at a cache line, gaps zero")
  func layout() {
    let tree = Self.tree()
    #expect(tree.parameters.map(\.name) == Self.shapes.map(\.name))
    #expect(tree.parameters.map(\.gradientOffset) == [0, 16, 48, 64, 80, 96])
    #expect(tree.vectorCount == 112)
    #expect(tree.trainableCount == 15 + 32 + 3 + 8 + 1 + 8)
    var covered = Set<Int>()
    for (index, leaf) in tree.parameters.enumerated() {
      for position in 0..<leaf.count {
        let offset = (leaf.gradientOffset ?? 0) + position
        #expect(tree.vector[offset] == Float(100 * index + position))
        covered.insert(offset)
      }
    }
    for offset in 0..<tree.vectorCount where !covered.contains(offset) { #expect(tree.vector[offset] == 0) }
  }

  @Test("decays the weights of linear layers and nothing else, whatever their number of rows")
  func decay() {
    let tree = Self.tree()
    #expect(tree.decayRanges.map(\.range) == [0..<48, 48..<96, 96..<112])
    #expect(tree.decayRanges.map(\.decays) == [true, false, true])
  }

  @Test("finds leaves by name and holds frozen ones beside the vector")
  func frozen() {
    let memory = OwnedMatrix(rows: 2, columns: 2) { 7 }
    let leaf = Parameter(frozen: "frozen", rows: 2, columns: 2, values: UnsafePointer(memory.matrix.base))
    let tree = ParameterTree(trainable: [Self.shapes[0]], frozen: [leaf]) { _, _ in }
    #expect(tree["frozen"].gradientOffset == nil)
    #expect(tree["frozen"].matrix[1, 1] == 7)
    #expect(tree["a.weight"].isTrainable)
    #expect(tree.parameter(named: "absent") == nil)
    #expect(tree.vectorCount == 16)
    #expect(tree.trainableCount == 15)
  }

  @Test("puts query, key and value side by side, so that they can be one product")
  func adjacentProjections() {
    let configuration = BlockCase.all[0].configuration
    var wide = configuration
    wide.width = 16
    let shapes = wide.parameterShapes(prefix: "P")
    let tree = ParameterTree(trainable: shapes) { _, _ in }
    let names = ["query", "key", "value"].map { "P.selfAttention.\($0).weight" }
    for (first, second) in zip(names, names.dropFirst()) {
      #expect(tree[first].values + tree[first].count == tree[second].values)
    }
  }
}
