import PipelineSchedules

/// The paper's dynamic program: the split into `s` stages whose slowest stage is fastest, for devices in a
/// given order.
///
/// PAC Eq. 2 and 3, completed: `W(x→y, D_n, s) = min over q and m of max(W of the other stages, T(last stage, m
/// devices))`, with its missing base case `W(…, 1) = T(…)`, shares in proportion to speed in place of equal
/// ones, and the memory of a stage's position. It is built from the model's end, where a stage's number of
/// micro-batches in flight is known. `T` here treats units as divisible; its plans are first guesses, scored
/// and improved like all others.
struct PaperProgram {
  private let costing: StageCosting
  private let order: [Int]
  private let layerCount: Int
  private let most: Int
  /// Sums of the first devices' speeds in the order.
  private var speeds: [Double] = [0]
  /// Sums of the first layers' work on a device of speed 1.
  private var works: [Double] = [0]
  private let deviceSpeeds: [Double]

  /// The slowest stage of the best split, and its first stage's end and devices.
  private struct Cell {
    var slowest = Double.infinity
    var end = 0
    var devices = 0
  }

  /// A program for the costing's present mode and micro-batches.
  ///
  /// `speeds` are by device, `works` by layer; only their ratios count. `most` bounds the number of stages.
  init(_ costing: StageCosting, order: [Int], speeds: [Int64], works: [Int64], most: Int) {
    self.costing = costing
    self.order = order
    self.most = most
    layerCount = costing.layerCount
    deviceSpeeds = order.map { Double(speeds[$0]) }
    // Sums in the order of devices and layers: the same bits on every machine.
    for speed in deviceSpeeds { self.speeds.append(self.speeds[self.speeds.count - 1] + speed) }
    for work in works { self.works.append(self.works[self.works.count - 1] + Double(work)) }
  }

  /// How many steps the program takes, in the order of magnitude.
  static func effort(layers: Int, devices: Int, stages: Int) -> Int {
    let halvings = Int.bitWidth - layers.leadingZeroBitCount
    return layers * devices * devices / 2 * stages * halvings
  }

  /// The best split for each number of stages that fits.
  func candidates(mode: PlanMode, microBatches: Int) -> [CandidatePlan] {
    let devices = order.count
    var tables: [[Cell]] = []
    var found: [CandidatePlan] = []
    for stage in 0..<most {
      tables.append(table(fromEnd: stage, tables))
      if tables[stage][devices].slowest < .infinity {
        found.append(trace(tables, stage, mode: mode, microBatches: microBatches))
      }
    }
    return found
  }

  /// Cells at `first layer · (devices + 1) + devices used`, for `fromEnd + 1` stages over the last of both.
  private func table(fromEnd: Int, _ tables: [[Cell]]) -> [Cell] {
    let devices = order.count
    var cells = Array(repeating: Cell(), count: (layerCount + 1) * (devices + 1))
    for first in 0..<layerCount - fromEnd {
      for used in fromEnd + 1...max(fromEnd + 1, devices) where used <= devices {
        var best = Cell()
        if fromEnd == 0 {
          let time = time(first, layerCount, devices - used, devices, fromEnd)
          best = Cell(slowest: time, end: layerCount, devices: used)
        } else {
          for group in 1...min(used - fromEnd, costing.units) {
            consider(&best, first, used, group, fromEnd, tables[fromEnd - 1])
          }
        }
        cells[first * (devices + 1) + used] = best
      }
    }
    return cells
  }

  /// Looks for the end of the first stage where its time passes that of the rest: the best one is there or just
  /// before.
  private func consider(
    _ best: inout Cell, _ first: Int, _ used: Int, _ group: Int, _ fromEnd: Int, _ rest: [Cell]
  ) {
    let devices = order.count
    let start = devices - used
    func own(_ end: Int) -> Double { time(first, end, start, start + group, fromEnd) }
    func others(_ end: Int) -> Double { rest[end * (devices + 1) + used - group].slowest }
    var low = first + 1
    var high = layerCount - fromEnd
    while low < high {
      let middle = (low + high) / 2
      if own(middle) >= others(middle) { high = middle } else { low = middle + 1 }
    }
    for end in [low, low - 1] where end > first {
      let slowest = max(own(end), others(end))
      if slowest < best.slowest { best = Cell(slowest: slowest, end: end, devices: group) }
    }
  }

  /// The paper's `T` (its third equation) with shares in proportion to speed: infinite when memory does not do.
  private func time(_ lower: Int, _ upper: Int, _ from: Int, _ to: Int, _ fromEnd: Int) -> Double {
    guard to - from <= costing.units else { return .infinity }
    let speed = speeds[to] - speeds[from]
    let range = costing.range(lower, upper)
    for place in from..<to {
      let share = max(1, Int((Double(costing.units) * deviceSpeeds[place] / speed).rounded(.down)))
      let memory = costing.memory(range, device: order[place], units: share, fromEnd: fromEnd)
      if memory > costing.household.devices[order[place]].memoryBudget { return .infinity }
    }
    return (works[upper] - works[lower]) / speed
  }

  private func trace(_ tables: [[Cell]], _ stage: Int, mode: PlanMode, microBatches: Int) -> CandidatePlan {
    let devices = order.count
    var stages: [CandidateStage] = []
    var first = 0
    var used = devices
    for fromEnd in stride(from: stage, through: 0, by: -1) {
      let cell = tables[fromEnd][first * (devices + 1) + used]
      let members = order[devices - used..<devices - used + cell.devices]
      stages.append(
        CandidateStage(
          lower: first, upper: cell.end, group: members.reduce(UInt64(0)) { $0 | .device($1) }))
      first = cell.end
      used -= cell.devices
    }
    return CandidatePlan(mode: mode, microBatches: microBatches, stages: stages)
  }
}
