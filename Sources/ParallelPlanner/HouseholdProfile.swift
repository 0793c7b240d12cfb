/// How long a device takes for one layer of a kind, by the number of units computed together.
///
/// Element `n − 1` is the time for `n` units, in nanoseconds; beyond the last one, each further unit takes as
/// long as the last one added. Times never fall with more units.
package struct UnitTimes: Sendable, Hashable {
  /// Forward pass while training.
  package var forward: [Int64]
  /// Backward pass.
  package var backward: [Int64]
  /// Forward pass of the frozen weights alone, as a cache is filled.
  package var fill: [Int64]
  /// Forward and backward pass of the technique from cached activations.
  package var cached: [Int64]

  /// The times of one kind of layer.
  package init(forward: [Int64], backward: [Int64], fill: [Int64], cached: [Int64]) {
    self.forward = forward
    self.backward = backward
    self.fill = fill
    self.cached = cached
  }

  /// Times in proportion to the units: `n` units take `n` times as long as one.
  package init(proportional forward: Int64, backward: Int64, fill: Int64, cached: Int64) {
    self.init(
      forward: [forward, 2 * forward], backward: [backward, 2 * backward], fill: [fill, 2 * fill],
      cached: [cached, 2 * cached])
  }

  /// The time for `units` units in one of the tables.
  package static func time(_ table: [Int64], units: Int) -> Int64 {
    guard units > 0, let last = table.last else { return 0 }
    if units <= table.count { return table[units - 1] }
    let step = table.count > 1 ? last - table[table.count - 2] : last
    return last + Int64(units - table.count) * step
  }
}

/// What was measured of one device.
package struct DeviceProfile: Sendable, Hashable {
  /// What people call the device.
  package var name: String
  /// Bytes that a plan may use.
  package var memoryBudget: Int64
  /// Units that the device computes at once, each on its own thread.
  package var workers: Int
  /// Bytes that the activation cache may use on this device's disk.
  package var cacheBudget: Int64
  /// Rate at which the disk takes the cache, bytes a second.
  package var diskWriteBytesPerSecond: Int64
  /// Rate at which the disk gives the cache, bytes a second.
  package var diskReadBytesPerSecond: Int64
  /// Rate at which an optimizer step goes through trained weights, in bytes of one copy a second.
  package var updateBytesPerSecond: Int64
  /// Rate at which the processor sends sums round a ring while it takes in as many: packing, encryption, TCP, addition.
  ///
  /// Of anything else that is sent or received, two bytes count as one that is sent while one comes in.
  package var exchangeBytesPerSecond: Int64
  /// Rate at which memory is used for the first time: the system clears it page by page.
  package var freshBytesPerSecond: Int64
  /// Rate at which weights in a file are read for the first time, when the file is in memory already.
  package var mappedBytesPerSecond: Int64
  /// Time for which a hop of a ring waits in the mean because the device's quota of the processor is used up, in nanoseconds.
  package var standstill: Int64
  /// Times by kind of layer, in the order of the model's kinds.
  package var times: [UnitTimes]

  /// The profile of one device; what has no rate here takes no time.
  package init(
    name: String, memoryBudget: Int64, workers: Int = 1, cacheBudget: Int64, diskWriteBytesPerSecond: Int64,
    diskReadBytesPerSecond: Int64, updateBytesPerSecond: Int64 = PlanningLimits.bytes,
    exchangeBytesPerSecond: Int64 = PlanningLimits.bytes, freshBytesPerSecond: Int64 = PlanningLimits.bytes,
    mappedBytesPerSecond: Int64 = PlanningLimits.bytes, standstill: Int64 = 0, times: [UnitTimes]
  ) {
    self.name = name
    self.memoryBudget = memoryBudget
    self.workers = workers
    self.cacheBudget = cacheBudget
    self.diskWriteBytesPerSecond = diskWriteBytesPerSecond
    self.diskReadBytesPerSecond = diskReadBytesPerSecond
    self.updateBytesPerSecond = updateBytesPerSecond
    self.exchangeBytesPerSecond = exchangeBytesPerSecond
    self.freshBytesPerSecond = freshBytesPerSecond
    self.mappedBytesPerSecond = mappedBytesPerSecond
    self.standstill = standstill
    self.times = times
  }
}

/// What was measured between two devices.
package struct LinkProfile: Sendable, Hashable {
  /// Payload bytes a second.
  package var bytesPerSecond: Int64
  /// Time of the first byte, one way, in nanoseconds.
  package var latency: Int64

  /// The profile of one link.
  package init(bytesPerSecond: Int64, latency: Int64) {
    self.bytesPerSecond = bytesPerSecond
    self.latency = latency
  }
}

/// The devices of a household and what lies between them.
package struct HouseholdProfile: Sendable, Hashable {
  /// The devices; a plan names them by their place here.
  package var devices: [DeviceProfile]
  /// The link between devices `i` and `j` at `i · devices + j`; the same both ways, unused at `i == j`.
  package var links: [LinkProfile]

  /// A household with measured links.
  package init(devices: [DeviceProfile], links: [LinkProfile]) {
    self.devices = devices
    self.links = links
  }

  /// A household whose links are all alike, as on one switch.
  package init(devices: [DeviceProfile], link: LinkProfile) {
    self.init(devices: devices, links: Array(repeating: link, count: devices.count * devices.count))
  }

  /// The link between two devices.
  package func link(_ first: Int, _ second: Int) -> LinkProfile { links[first * devices.count + second] }

  /// The household without one device.
  package func removing(_ device: Int) -> HouseholdProfile {
    let kept = devices.indices.filter { $0 != device }
    return HouseholdProfile(
      devices: kept.map { devices[$0] }, links: kept.flatMap { row in kept.map { link(row, $0) } })
  }
}
