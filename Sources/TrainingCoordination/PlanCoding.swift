package import MeshModel
package import ParallelPlanner
import PipelineSchedules
package import WireCoding

/// The canonical bytes of a plan: what devices sign, and what a device that was not there verifies later.
///
/// A decoded plan has the same `digest` as the one that was encoded; a plan that no planner makes is refused.
extension Plan: WireCodable {
  /// Reads a plan and checks it against the planner's limits and against itself.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    let code = try reader.integer("plan mode", as: UInt8.self)
    guard let mode = PlanMode(wireCode: code) else {
      throw .invalid(field: "plan mode", value: UInt64(code))
    }
    let microBatches = Int(try reader.integer("micro-batches", as: UInt16.self))
    guard 1...PlanningLimits.unitsPerMiniBatch ~= microBatches else {
      throw .overLimit(
        field: "micro-batches", value: UInt64(microBatches), limit: PlanningLimits.unitsPerMiniBatch)
    }
    let stages = try Self.readStages(&reader)
    var boundaries: [BoundaryTimes] = []
    for _ in 1..<stages.count {
      boundaries.append(
        BoundaryTimes(
          forward: try readTime(&reader, "boundary forward"),
          backward: try readTime(&reader, "boundary backward")))
    }
    let cached = try Self.readCached(&reader)
    guard cached.isEmpty == (mode == .live) else {
      throw .invalid(field: "members of the cached epochs", value: UInt64(cached.count))
    }
    let predicted = PredictedTimes(
      step: try readTime(&reader, "step"), firstEpoch: try readTime(&reader, "first epoch"),
      redistribution: try readTime(&reader, "redistribution"),
      cachedStep: try readTime(&reader, "cached step"), cachedEpoch: try readTime(&reader, "cached epoch"),
      total: try readTime(&reader, "total"))
    self.init(
      mode: mode, microBatches: microBatches, stages: stages, boundaries: boundaries, cached: cached,
      predicted: predicted)
  }

  /// Writes the plan: mode u8, micro-batches u16, stages, boundaries, members of the cached epochs, times.
  package func encode(to writer: inout ByteWriter) {
    writer.integer(mode.wireCode)
    writer.integer(UInt16(microBatches))
    writer.count(stages.count)
    for stage in stages {
      writer.integer(UInt16(stage.layers.upperBound))
      writer.count(stage.members.count)
      for member in stage.members {
        writer.integer(UInt8(member.device))
        writer.integer(UInt16(member.units))
        writer.integer(member.memoryBytes)
      }
      writer.integer(stage.times.forward)
      writer.integer(stage.times.backward)
      writer.integer(stage.times.reduction)
    }
    for boundary in boundaries {
      writer.integer(boundary.forward)
      writer.integer(boundary.backward)
    }
    writer.count(cached.count)
    for member in cached {
      writer.integer(UInt8(member.device))
      writer.integer(UInt16(member.units))
      writer.integer(member.memoryBytes)
      writer.integer(member.cacheBytes)
    }
    for time in [
      predicted.step, predicted.firstEpoch, predicted.redistribution, predicted.cachedStep,
      predicted.cachedEpoch, predicted.total,
    ] {
      writer.integer(time)
    }
  }

  /// Whether every device that the plan names is one of a household of this many.
  package func fits(devices: Int) -> Bool { places.allSatisfy { $0 < devices } }

  /// Places of the devices that compute something, ascending.
  package var places: [Int] {
    var isUsed = Array(repeating: false, count: PlanningLimits.devices)
    for stage in stages { for member in stage.members { isUsed[member.device] = true } }
    for member in cached { isUsed[member.device] = true }
    return isUsed.indices.filter { isUsed[$0] }
  }

  /// Stages follow each other from layer 0 on, so each is told by where it ends; a device is in one stage only.
  private static func readStages(_ reader: inout ByteReader) throws(DecodingFailure) -> [PlanStage] {
    let count = try reader.count("stages", limit: PlanningLimits.devices)
    guard count > 0 else { throw .invalid(field: "stages", value: 0) }
    var stages: [PlanStage] = []
    var used: Set<Int> = []
    for _ in 0..<count {
      let start = stages.last?.layers.upperBound ?? 0
      let end = Int(try reader.integer("last layer of a stage", as: UInt16.self))
      guard end > start, end <= PlanningLimits.layers else {
        throw .invalid(field: "last layer of a stage", value: UInt64(end))
      }
      var members: [StageMember] = []
      for _ in 0..<(try reader.count("members of a stage", limit: PlanningLimits.devices)) {
        let device = try readDevice(&reader, after: members.last?.device)
        guard used.insert(device).inserted else {
          throw .invalid(field: "device in two stages", value: UInt64(device))
        }
        members.append(
          StageMember(
            device: device, units: try readUnits(&reader), memoryBytes: try readBytes(&reader, "memory")))
      }
      let units = members.reduce(0) { $0 + $1.units }
      let expected = stages.first?.members.reduce(0) { $0 + $1.units } ?? max(1, units)
      guard units == expected, units <= PlanningLimits.unitsPerMiniBatch else {
        throw .invalid(field: "units of a stage", value: UInt64(units))
      }
      let times = StageTimes(
        forward: try readTime(&reader, "stage forward"), backward: try readTime(&reader, "stage backward"),
        reduction: try readTime(&reader, "stage reduction"))
      stages.append(PlanStage(layers: start..<end, members: members, times: times))
    }
    return stages
  }

  private static func readCached(_ reader: inout ByteReader) throws(DecodingFailure) -> [CachedMember] {
    var members: [CachedMember] = []
    for _ in 0..<(try reader.count("members of the cached epochs", limit: PlanningLimits.devices)) {
      members.append(
        CachedMember(
          device: try readDevice(&reader, after: members.last?.device), units: try readUnits(&reader),
          memoryBytes: try readBytes(&reader, "memory"), cacheBytes: try readBytes(&reader, "cache")))
    }
    return members
  }
}

private func readDevice(
  _ reader: inout ByteReader, after last: Int?
) throws(DecodingFailure) -> Int {
  let device = Int(try reader.integer("device of a plan", as: UInt8.self))
  guard device < PlanningLimits.devices else {
    throw .overLimit(field: "device of a plan", value: UInt64(device), limit: PlanningLimits.devices - 1)
  }
  if let last, device <= last { throw .notAscending(field: "devices of a plan") }
  return device
}

private func readUnits(_ reader: inout ByteReader) throws(DecodingFailure) -> Int {
  let units = Int(try reader.integer("units", as: UInt16.self))
  guard units <= PlanningLimits.unitsPerMiniBatch else {
    throw .overLimit(field: "units", value: UInt64(units), limit: PlanningLimits.unitsPerMiniBatch)
  }
  return units
}

private func readBytes(
  _ reader: inout ByteReader, _ field: StaticString
) throws(DecodingFailure) -> Int64 {
  let value = try reader.integer(field, as: Int64.self)
  guard 0...PlanningLimits.bytes ~= value else {
    throw .invalid(field: "\(field)", value: UInt64(bitPattern: value))
  }
  return value
}

private func readTime(
  _ reader: inout ByteReader, _ field: StaticString
) throws(DecodingFailure) -> Int64 {
  let value = try reader.integer(field, as: Int64.self)
  guard value >= 0 else { throw .invalid(field: "\(field)", value: UInt64(bitPattern: value)) }
  return value
}

extension PlanMode {
  /// The number that travels.
  var wireCode: UInt8 {
    switch self {
    case .live: 1
    case .hybrid: 2
    case .fill: 3
    }
  }

  /// The mode of a number that travels.
  init?(wireCode: UInt8) {
    guard let mode = Self.allCases.first(where: { $0.wireCode == wireCode }) else { return nil }
    self = mode
  }
}

extension Plan {
  /// The plan for the devices alone that compute something, and these devices by their new places.
  package func withoutIdleDevices(of household: [DeviceID]) -> (household: [DeviceID], plan: Plan) {
    let kept = places
    func place(_ device: Int) -> Int {
      guard let new = kept.firstIndex(of: device) else { preconditionFailure("device \(device) is idle") }
      return new
    }
    var plan = self
    for stage in plan.stages.indices {
      for member in plan.stages[stage].members.indices {
        plan.stages[stage].members[member].device = place(stages[stage].members[member].device)
      }
    }
    for member in plan.cached.indices { plan.cached[member].device = place(cached[member].device) }
    return (kept.map { household[$0] }, plan)
  }
}
