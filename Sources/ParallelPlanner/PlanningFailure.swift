/// Why nothing could be planned.
package enum PlanningFailure: Error, Equatable, CustomStringConvertible {
  /// A number from outside is beyond its limit.
  case outOfRange(what: String, value: Int64, allowed: String)
  /// Two parts of the input do not fit together.
  case inconsistent(what: String)
  /// No allowed plan fits into the devices' memory; `nearest` says what the closest one lacks.
  case doesNotFit(planner: PlannerKind, nearest: String)

  /// What was wrong, where, and the next step.
  package var description: String {
    switch self {
    case .outOfRange(let what, let value, let allowed):
      "\(what) is \(value) and must be \(allowed); correct the profile or the option"
    case .inconsistent(let what): "\(what); measure or write the profile again"
    case .doesNotFit(let planner, let nearest):
      "no plan of '\(planner.rawValue)' fits into the memory of these devices: \(nearest); "
        + "add a device, a smaller micro-batch, or another technique"
    }
  }
}

extension ModelCosts {
  /// Checks everything that came from outside.
  func validate() throws(PlanningFailure) {
    try check("the model's number of layers", Int64(layers.count), 1...Int64(PlanningLimits.layers))
    try check("the model's number of layer kinds", Int64(kinds.count), 1...Int64(PlanningLimits.layerKinds))
    try check("copies of trained weights", trainableCopies, 1...16)
    try check("copies of a stage's states", stageStateCopies, 0...16)
    try check("bits of a gradient sum", sumBits, PlanningLimits.sumBits)
    try check("transient bytes", transientBytes, 0...PlanningLimits.bytes)
    try check("bytes of a cached unit", cachedUnitBytes, 0...PlanningLimits.bytes)
    if let tied {
      try check("bytes of tied weights", tied.bytes, 0...PlanningLimits.bytes)
      for layer in [tied.home] + tied.layers {
        try check("layer of tied weights", Int64(layer), 0...Int64(layers.count - 1))
      }
    }
    for (index, layer) in layers.enumerated() {
      try check("the kind of layer \(index)", Int64(layer.kind), 0...Int64(kinds.count - 1))
      for bytes in [
        layer.frozenBytes, layer.trainableBytes, layer.retainedBytes, layer.cacheBytes,
        layer.forwardBoundaryBytes,
        layer.backwardBoundaryBytes, layer.fillBoundaryBytes,
      ] {
        try check("a size of layer \(index)", bytes, 0...PlanningLimits.bytes / Int64(PlanningLimits.layers))
      }
    }
    try check("groups of shared weights", Int64(shared.count), 0...Int64(PlanningLimits.layerKinds))
    for weights in shared {
      try check("bytes of shared weights", weights.bytes, 0...PlanningLimits.bytes)
      for layer in weights.layers {
        try check("a layer of shared weights", Int64(layer), 0...Int64(layers.count - 1))
      }
    }
  }
}

extension HouseholdProfile {
  /// Checks everything that came from outside against the model's kinds of layers.
  func validate(kinds: Int) throws(PlanningFailure) {
    try check("the number of devices", Int64(devices.count), 1...Int64(PlanningLimits.devices))
    guard links.count == devices.count * devices.count else {
      throw .inconsistent(what: "\(links.count) links for \(devices.count) devices")
    }
    let rates = PlanningLimits.slowestBytesPerSecond...PlanningLimits.bytes
    for device in devices {
      try check("the memory of \(device.name)", device.memoryBudget, 0...PlanningLimits.bytes)
      try check("the workers of \(device.name)", Int64(device.workers), 1...4096)
      try check("the cache space of \(device.name)", device.cacheBudget, 0...PlanningLimits.bytes)
      try check("the disk's writing rate of \(device.name)", device.diskWriteBytesPerSecond, rates)
      try check("the disk's reading rate of \(device.name)", device.diskReadBytesPerSecond, rates)
      try check("the update rate of \(device.name)", device.updateBytesPerSecond, rates)
      try check("the exchange rate of \(device.name)", device.exchangeBytesPerSecond, rates)
      try check("the rate of fresh memory of \(device.name)", device.freshBytesPerSecond, rates)
      try check("the rate of mapped weights of \(device.name)", device.mappedBytesPerSecond, rates)
      try check("the standstill of \(device.name)", device.standstill, 0...PlanningLimits.layerNanoseconds)
      guard device.times.count == kinds else {
        throw .inconsistent(
          what: "\(device.name) has times for \(device.times.count) of \(kinds) kinds of layers")
      }
      for times in device.times {
        for table in [times.forward, times.backward, times.fill, times.cached] {
          try check(
            "the length of a time table of \(device.name)", Int64(table.count),
            1...Int64(PlanningLimits.unitsPerMiniBatch))
          for (index, time) in table.enumerated() {
            try check(
              "a layer's time on \(device.name)", time,
              (index > 0 ? table[index - 1] : 0)...PlanningLimits.layerNanoseconds * Int64(index + 1))
          }
        }
      }
    }
    for row in devices.indices {
      for column in devices.indices where row != column {
        let between = "between \(devices[row].name) and \(devices[column].name)"
        try check("the bandwidth \(between)", link(row, column).bytesPerSecond, rates)
        try check("the latency \(between)", link(row, column).latency, 0...PlanningLimits.layerNanoseconds)
        guard link(row, column) == link(column, row) else {
          throw .inconsistent(what: "the link \(between) differs by direction")
        }
      }
    }
  }
}

extension PlanningJob {
  /// Checks everything that came from outside.
  func validate() throws(PlanningFailure) {
    try check("the number of epochs", Int64(epochs), 1...Int64(PlanningLimits.epochs))
    try check("the number of steps", Int64(stepsPerEpoch), 1...Int64(PlanningLimits.stepsPerEpoch))
    try check(
      "the number of micro-batches in a mini-batch", Int64(unitsPerMiniBatch),
      1...Int64(PlanningLimits.unitsPerMiniBatch))
    if let remaining {
      try check(
        "the number of mini-batches left of the first pass", Int64(remaining.firstPass),
        1...Int64(stepsPerEpoch))
      try check(
        "the number of steps left", Int64(remaining.training),
        Int64(firstEpoch == .fill || !usesCache ? 1 : remaining.firstPass)...Int64(epochs)
          * Int64(stepsPerEpoch))
    }
    for count in microBatchCounts where count < 1 || unitsPerMiniBatch % count != 0 {
      throw .inconsistent(what: "\(count) pipeline micro-batches do not divide \(unitsPerMiniBatch) units")
    }
  }
}

func check(_ what: String, _ value: Int64, _ range: ClosedRange<Int64>) throws(PlanningFailure) {
  guard range.contains(value) else {
    throw .outOfRange(what: what, value: value, allowed: "\(range.lowerBound) to \(range.upperBound)")
  }
}
