import CryptoPrimitives
import Determinism

/// A job whose training is a stand-in: small vectors of integers in the place of a network, the same shape of work.
///
/// A unit goes through all layers and back as a sample does; each layer has a frozen part, whose activations can be
/// kept, and trained values. Every value enters every later one through a hash, so that a unit that is lost, added
/// twice, or computed with values of another step changes all that follows.
package struct StandInJob: Sendable, Hashable {
  /// Decides all values.
  package var seed: UInt64
  /// Units of a step.
  package var lanes: Int
  /// Steps of a training epoch.
  package var stepsPerEpoch: Int
  /// Training epochs.
  package var epochs: Int
  /// Layers of the network.
  package var layers: Int
  /// Trained values of a layer.
  package var width: Int
  /// Held-out units.
  package var heldOut: Int
  /// Whether later epochs read kept activations.
  package var usesCache: Bool

  /// A job of this shape.
  package init(
    seed: UInt64, lanes: Int, stepsPerEpoch: Int, epochs: Int, layers: Int, width: Int, heldOut: Int,
    usesCache: Bool
  ) {
    precondition(
      lanes > 0 && stepsPerEpoch > 0 && epochs > 0 && layers > 0 && width > 0 && heldOut >= 0,
      "a job of \(lanes) lanes, \(stepsPerEpoch) steps, \(epochs) epochs, \(layers) layers of \(width)")
    self.seed = seed
    self.lanes = lanes
    self.stepsPerEpoch = stepsPerEpoch
    self.epochs = epochs
    self.layers = layers
    self.width = width
    self.heldOut = heldOut
    self.usesCache = usesCache
  }

  /// Trained values.
  package var valueCount: Int { layers * width }
  /// Optimizer steps of the whole job.
  package var totalSteps: Int { stepsPerEpoch * epochs }
  /// Units that are trained, once an epoch.
  package var trainedUnits: Int { lanes * stepsPerEpoch }
  /// All units, the held-out ones last.
  package var unitCount: Int { trainedUnits + heldOut }

  /// Where the trained values of some layers are in the flat vector.
  func values(ofLayers layers: Range<Int>) -> Range<Int> {
    layers.lowerBound * width..<layers.upperBound * width
  }

  /// The lane of a unit; held-out units are divided as the lanes are.
  func lane(of unit: Int) -> Int {
    unit < trainedUnits ? unit / stepsPerEpoch : (unit - trainedUnits) * lanes / max(1, heldOut)
  }
}

/// What a stand-in job computes, with its tables; the same for every device.
struct StandInModel: Sendable {
  let job: StandInJob
  /// The unit of each lane in each step.
  private let schedule: [[Int]]
  /// The frozen part of each layer.
  private let frozen: [UInt64]

  init(_ job: StandInJob) {
    self.job = job
    var weights = SeededGenerator(seed: job.seed, 0x6672_6F7A_656E)
    frozen = (0..<job.layers).map { _ in weights.next() }
    var schedule = [[Int]](repeating: Array(repeating: 0, count: job.lanes), count: job.totalSteps)
    for epoch in 0..<job.epochs {
      for lane in 0..<job.lanes {
        var order = Array(0..<job.stepsPerEpoch)
        var dice = SeededGenerator(seed: job.seed, 0x6F72_6465_72, UInt64(epoch), UInt64(lane))
        dice.shuffle(&order)
        for (index, unit) in order.enumerated() {
          schedule[epoch * job.stepsPerEpoch + index][lane] = lane * job.stepsPerEpoch + unit
        }
      }
    }
    self.schedule = schedule
  }

  /// The units of a step (0-based), by lane.
  func units(ofStep step: Int) -> [Int] { schedule[step] }

  /// The state that every device can make for itself.
  var initial: StandInState {
    var dice = SeededGenerator(seed: job.seed, 0x7661_6C75_6573)
    return StandInState(
      step: 0, layers: Array(repeating: true, count: job.layers),
      values: (0..<job.valueCount).map { _ in dice.next() },
      moments: Array(repeating: 0, count: job.valueCount), width: job.width, lossSum: 0)
  }

  // MARK: - Passes

  /// What the frozen part of layer `layer` makes of what comes from the layer before.
  func activation(layer: Int, after previous: UInt64) -> UInt64 { mixed(previous, frozen[layer]) }

  /// What enters the frozen part of the first layer.
  func input(of unit: Int) -> UInt64 { mixed(job.seed, UInt64(unit)) }

  /// The activations that are kept of a unit, one a layer.
  func activations(of unit: Int) -> [UInt64] {
    var last = input(of: unit)
    return (0..<job.layers).map { layer in
      last = activation(layer: layer, after: last)
      return last
    }
  }

  /// What enters the trained part of the first layer.
  func entry(unit: Int, step: Int) -> UInt64 { mixed(UInt64(unit) &+ 1, UInt64(step) &+ 0x5354_4550) }

  /// The trained part of a layer, forward.
  func forward(_ layer: Int, input: UInt64, activation: UInt64, _ state: StandInState) -> UInt64 {
    mixed(input ^ activation, state.fold(layer))
  }

  /// The loss of a unit from the output of the last layer.
  func loss(of unit: Int, output: UInt64) -> UInt64 { mixed(output, ~UInt64(unit)) }

  /// The trained part of a layer, backward: adds to the layer's gradients and gives what goes to the layer before.
  func backward(
    _ layer: Int, gradient: UInt64, input: UInt64, _ state: StandInState, into sums: inout [UInt64]
  ) -> UInt64 {
    for index in job.values(ofLayers: layer..<layer + 1) {
      sums[index] &+= mixed(gradient ^ input, state.values[index] &+ UInt64(index))
    }
    return mixed(gradient, state.fold(layer))
  }

  /// A whole unit: its loss; its gradients are added.
  func compute(
    unit: Int, step: Int, activations: [UInt64], _ state: StandInState, into sums: inout [UInt64]
  ) -> UInt64 {
    var inputs = [entry(unit: unit, step: step)]
    for layer in 0..<job.layers {
      inputs.append(
        forward(layer, input: inputs[layer], activation: activations[layer], state))
    }
    let loss = loss(of: unit, output: inputs[job.layers])
    var gradient = loss
    for layer in (0..<job.layers).reversed() {
      gradient = backward(layer, gradient: gradient, input: inputs[layer], state, into: &sums)
    }
    return loss
  }
}

/// Trained values and moments after a step, as far as a device has them.
struct StandInState: Sendable, Hashable {
  /// Steps that were applied.
  var step: Int
  /// Which layers are held; the others' values mean nothing.
  var layers: [Bool]
  var values: [UInt64]
  var moments: [UInt64]
  let width: Int
  /// The sum of all losses so far.
  var lossSum: UInt64

  var isWhole: Bool { layers.allSatisfy { $0 } }

  /// One word for the trained values of a layer.
  func fold(_ layer: Int) -> UInt64 {
    var word: UInt64 = UInt64(layer) &+ 0x666F_6C64
    for index in layer * width..<(layer + 1) * width { word = mixed(word, values[index]) }
    return word
  }

  /// One word for all that is held of a layer.
  func digest(_ layer: Int) -> UInt64 {
    var word = fold(layer)
    for index in layer * width..<(layer + 1) * width { word = mixed(word, moments[index]) }
    return word
  }

  /// Applies a step's sums to the layers that are held.
  mutating func apply(_ sums: [UInt64], losses: UInt64) {
    for layer in layers.indices where layers[layer] {
      for index in layer * width..<(layer + 1) * width {
        moments[index] = mixed(moments[index], sums[index])
        values[index] = mixed(values[index] ^ moments[index], UInt64(step) &+ 1)
      }
    }
    lossSum &+= losses
    step += 1
  }

  /// The digest of the trained values, as devices compare it at the end.
  var digest: ContentDigest {
    var hasher = ContentHasher()
    hasher.update("stand-in")
    for value in values { hasher.update(Int(truncatingIfNeeded: value)) }
    return hasher.finalize()
  }
}

/// Two words to one; every bit of the result depends on every bit of both.
func mixed(_ left: UInt64, _ right: UInt64) -> UInt64 {
  let spread = right &* 0xFF51_AFD7_ED55_8CCD
  var z = (left &* 0x9E37_79B9_7F4A_7C15) ^ spread ^ (spread >> 33)
  z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
  z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
  return z ^ (z >> 31)
}

/// What a job comes to when one device computes it without any fault: the truth for all others.
struct StandInReference: Sendable {
  /// The digest of each layer after each step; the first is before any.
  let digests: [[UInt64]]
  let lossSums: [UInt64]
  let final: ContentDigest

  init(_ model: StandInModel) {
    let job = model.job
    let kept = (0..<job.trainedUnits).map { model.activations(of: $0) }
    var state = model.initial
    var digests = [(0..<job.layers).map { state.digest($0) }]
    var losses: [UInt64] = [0]
    for step in 0..<job.totalSteps {
      var sums = [UInt64](repeating: 0, count: job.valueCount)
      var loss: UInt64 = 0
      for unit in model.units(ofStep: step) {
        loss &+= model.compute(unit: unit, step: step, activations: kept[unit], state, into: &sums)
      }
      state.apply(sums, losses: loss)
      digests.append((0..<job.layers).map { state.digest($0) })
      losses.append(state.lossSum)
    }
    self.digests = digests
    lossSums = losses
    final = state.digest
  }
}
