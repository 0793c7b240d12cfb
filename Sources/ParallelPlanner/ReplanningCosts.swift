import PipelineSchedules

/// What it takes to go from the present plan to another one.
struct SwitchCosting {
  private let replanning: Replanning
  private let request: ReplanRequest
  /// Devices of the request by place in the new plan.
  private let order: [Int]
  private let costing: StageCosting
  /// Who holds the activations of each lane; nil for those of devices that are gone.
  let holders: [Int?]
  /// Values of the state for each trained one: the value and two moments.
  private static let stateCopies: Int64 = 3

  init(_ replanning: Replanning, order: [Int]) {
    self.replanning = replanning
    request = replanning.request
    self.order = order
    costing = StageCosting(
      costs: request.costs, household: replanning.household(order), job: request.job)
    costing.prepare(mode: .fill, microBatches: 1)
    holders = request.present.cached.flatMap { member in
      Array(repeating: replanning.devicesByPlace[member.device], count: max(0, member.units))
    }
  }

  /// Mini-batches whose activations were kept.
  private var kept: Int {
    guard request.costs.canCache else { return 0 }
    return request.isCached
      ? request.job.stepsPerEpoch
      : request.present.mode == .hybrid
        ? request.committedStep : request.present.mode == .fill ? request.cachedMiniBatches : 0
  }

  /// Lanes whose activations nobody has any more.
  var missingLanes: Int { kept > 0 ? holders.count { $0 == nil } : 0 }

  /// Mini-batches of missing activations, in whole ones.
  var missingMiniBatches: Int {
    let units = request.job.unitsPerMiniBatch
    return (missingLanes * kept + units - 1) / units
  }

  /// The cost of a plan whose first pass is not over.
  func cost(of plan: Plan) -> SwitchCost {
    var cost = SwitchCost(boundary: Replanning.boundaryTime)
    for stage in plan.stages {
      for member in stage.members {
        let device = order[member.device]
        let old = oldStage(of: device)
        let trained = plan.mode == .fill ? 0 : newBytes(stage.layers, old) { $0.trainableBytes }
        cost.state = max(cost.state, fetching(trained * Self.stateCopies, device))
        cost.weights = max(cost.weights, weights(stage.layers, device))
      }
    }
    if request.committedStep == 0 { cost.state = 0 }
    guard plan.mode != .live else { return cost }
    cost.activations = moving(plan.cached.map { (order[$0.device], $0.units) })
    if missingLanes > 0 {
      // What is missing goes through the stages once more, forward only.
      let pass = plan.stages.map { repeated($0.times.forward, plan.microBatches) }.max() ?? 0
      cost.recomputation = repeated(pass, missingMiniBatches)
    }
    return cost
  }

  /// The cost of going on from the cache with other shares; units by place of `order`.
  ///
  /// `fillTime` is how long what is missing takes through stages of their own; nil where each owner computes its own.
  func cost(cachedUnits units: [Int], fillTime: Int64?) -> SwitchCost {
    var cost = SwitchCost(boundary: Replanning.boundaryTime)
    let state = repeated(request.costs.trainableBytes, Int(Self.stateCopies))
    var members: [(device: Int, units: Int)] = []
    var lane = 0
    for (place, count) in units.enumerated() where count > 0 {
      let device = order[place]
      members.append((device, count))
      let trains = request.present.cached.contains { $0.device == request.devices[device].place }
      if !trains && request.committedStep > 0 { cost.state = max(cost.state, fetching(state, device)) }
      let missing = holders.isEmpty ? 0 : (lane..<lane + count).count { isMissing($0) }
      lane += count
      guard missing > 0, fillTime == nil else { continue }
      let layers = 0..<request.costs.layers.count
      let time = costing.forwardTime(costing.range(0, layers.upperBound), place, missing)
      cost.recomputation = max(cost.recomputation, repeated(time, kept))
      cost.weights = max(cost.weights, weights(layers, device))
    }
    cost.activations = moving(members)
    if missingLanes > 0, let fillTime { cost.recomputation = fillTime }
    return cost
  }

  private func isMissing(_ lane: Int) -> Bool {
    kept > 0 && (holders.indices.contains(lane) ? holders[lane] == nil : true)
  }

  /// Lanes whose activations go to another device; units by place of `order`.
  func movedLanes(_ units: [Int]) -> Int {
    lanesBetween(units.enumerated().map { (order[$0], $1) }).reduce(0, +)
  }

  /// Lanes that go from device `i` to device `j`, at `i · devices + j`.
  private func lanesBetween(_ members: [(device: Int, units: Int)]) -> [Int] {
    let count = request.devices.count
    var lanes = Array(repeating: 0, count: count * count)
    guard kept > 0 else { return lanes }
    var lane = 0
    for (device, units) in members {
      for place in lane..<lane + units {
        guard holders.indices.contains(place), let holder = holders[place], holder != device else { continue }
        lanes[holder * count + device] += 1
      }
      lane += units
    }
    return lanes
  }

  /// How long the activations take that other devices read from now on: every device sends and receives at once, at the
  /// slowest of its links to those that it has to do with.
  private func moving(_ members: [(device: Int, units: Int)]) -> Int64 {
    guard kept > 0 else { return 0 }
    let count = request.devices.count
    let lanes = lanesBetween(members)
    var slowest: Int64 = 0
    for device in 0..<count {
      var (sent, received, rate, latency) = (0, 0, Int64.max, Int64(0))
      for other in 0..<count where other != device {
        let (out, back) = (lanes[device * count + other], lanes[other * count + device])
        guard out + back > 0 else { continue }
        let link = request.links[device * count + other]
        (sent, received) = (sent + out, received + back)
        (rate, latency) = (min(rate, link.bytesPerSecond), max(latency, link.latency))
      }
      guard max(sent, received) > 0 else { continue }
      let bytes = repeated(request.costs.cacheBytes, max(sent, received) * kept)
      slowest = max(slowest, latency + transferTime(bytes: bytes, bytesPerSecond: rate))
    }
    return slowest
  }

  // MARK: State and weights

  /// The layers that a device has computed so far.
  private func oldStage(of device: Int) -> Range<Int>? {
    guard let place = request.devices[device].place else { return nil }
    return request.present.stages.first { stage in stage.members.contains { $0.device == place } }?.layers
  }

  private func newBytes(_ layers: Range<Int>, _ old: Range<Int>?, _ bytes: (LayerCosts) -> Int64) -> Int64 {
    layers.reduce(0) { sum, layer in
      old?.contains(layer) == true ? sum : sum + bytes(request.costs.layers[layer])
    }
  }

  /// How long the frozen weights take that are new to a device.
  private func weights(_ layers: Range<Int>, _ device: Int) -> Int64 {
    guard !request.devices[device].holdsModel else { return 0 }
    let old = oldStage(of: device)
    guard old.map({ !$0.contains(layers.lowerBound) || !$0.contains(layers.upperBound - 1) }) ?? true else {
      return 0
    }
    let shared = request.costs.shared.reduce(Int64(0)) { sum, weights in
      let isNew =
        weights.layers.contains(where: layers.contains)
        && !weights.layers.contains { old?.contains($0) == true }
      return isNew ? sum + weights.bytes : sum
    }
    return fetching(newBytes(layers, old) { $0.frozenBytes } + shared, device)
  }

  /// How long some bytes take to a device, from the one with the best link that has worked before.
  private func fetching(_ bytes: Int64, _ device: Int) -> Int64 {
    guard bytes > 0 else { return 0 }
    let count = request.devices.count
    var best: Int64 = .max / 8
    for other in 0..<count where other != device && request.devices[other].place != nil {
      let link = request.links[device * count + other]
      best = min(best, link.latency + transferTime(bytes: bytes, bytesPerSecond: link.bytesPerSecond))
    }
    return best == .max / 8 ? 0 : best
  }
}
