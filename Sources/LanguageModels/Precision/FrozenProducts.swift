import NeuralNetworks
import TensorKernels

extension BlockParameters {
  /// The block with other linear layers, in groups of those that read the same rows, in a fixed order.
  ///
  /// Cross-attention's keys and values are left out: absorbed, they are read head by head in float32
  /// (`AbsorbedCrossAttention`).
  func mappingProducts(_ transform: ([LinearParameters]) -> [LinearParameters]) -> BlockParameters {
    func one(_ linear: LinearParameters) -> LinearParameters { transform([linear])[0] }
    var block = self
    let inputs = transform([selfAttention.query, selfAttention.key, selfAttention.value])
    block.selfAttention.query = inputs[0]
    block.selfAttention.key = inputs[1]
    block.selfAttention.value = inputs[2]
    block.selfAttention.output = one(selfAttention.output)
    if let cross = crossAttention {
      block.crossAttention?.query = one(cross.query)
      block.crossAttention?.output = one(cross.output)
    }
    let hidden = transform([feedForward.gate, feedForward.up].compactMap { $0 })
    block.feedForward.gate = feedForward.gate.map { _ in hidden[0] }
    block.feedForward.up = hidden[hidden.count - 1]
    block.feedForward.down = one(feedForward.down)
    return block
  }

  /// The groups of linear layers that read the same rows, in the order of `mappingProducts`.
  var products: [[LinearParameters]] {
    var products: [[LinearParameters]] = []
    _ = mappingProducts {
      products.append($0)
      return $0
    }
    return products
  }
}

extension Backbone {
  /// All blocks' products, stack after stack, with how many each block has.
  var products: [[LinearParameters]] {
    leaves.stacks.flatMap { $0.blocks.flatMap(\.products) }
  }

  /// The same model with other products, in the order of `products`.
  func replacing(products: [[LinearParameters]], keepingAlive owner: FrozenWeightMemory) -> Self {
    var leaves = leaves
    var next = 0
    for stack in leaves.stacks.indices {
      leaves.stacks[stack].blocks = leaves.stacks[stack].blocks.map { block in
        block.mappingProducts { _ in
          defer { next += 1 }
          return products[next]
        }
      }
    }
    precondition(next == products.count, "\(products.count) products for \(next) places")
    return replacing(leaves, keepingAlive: owner)
  }
}
