import ParallelPlanner

/// Devices that are alike: the same processor, as many threads and the same share of it, asked for the same job.
///
/// What one short measurement says of a part scatters, most of all where it is the difference of two: eight equal devices
/// on a fifth of a processor said 3 to 11 ms of one side block, and plans that believed each of them left some without
/// work. So whoever is about as fast as the middle one of its kind counts as what the middle of them measured. A device
/// that is much slower or faster than its kind keeps its own times: it is busy with something else.
enum AlikeDevices {
  /// How much longer or shorter than the middle a device's model may take and still count as scatter.
  static let scatter = 1.4

  /// The reports, in their order, with the times of their kind.
  ///
  /// Equal inputs give equal outputs, in whatever order the devices are.
  static func pooled(_ reports: [DeviceReport]) -> [DeviceReport] {
    var pooled = reports
    for kind in Set(reports.map(\.shapeDigest)).sorted() {
      let members = reports.indices.filter { reports[$0].shapeDigest == kind }
      let middle = Double(median(members.map { reports[$0].timings.model }))
      let near = members.filter {
        let time = Double(reports[$0].timings.model)
        return time <= middle * scatter && middle <= time * scatter
      }
      guard near.count > 1, let common = PartTimings(middleOf: near.map { reports[$0].timings }) else {
        continue
      }
      for place in near { pooled[place].timings = common }
    }
    return pooled
  }

  /// The middle number, or what lies between the two middle ones; 0 of none.
  static func median(_ numbers: [Int64]) -> Int64 {
    guard !numbers.isEmpty else { return 0 }
    let sorted = numbers.sorted()
    let upper = sorted[sorted.count / 2]
    guard sorted.count.isMultiple(of: 2) else { return upper }
    let lower = sorted[sorted.count / 2 - 1]
    return lower + (upper - lower) / 2
  }
}

extension PartTimings {
  /// All parts once, on all threads: how fast the device is, in one number.
  fileprivate var model: Int64 {
    let parts = stacks.flatMap { [$0.block, $0.embedding] } + [head]
    return parts.reduce(0) { sum, part in
      sum + part.forward.together + part.backward.together + part.sideForward.together
        + part.sideBackward.together
    }
  }

  /// Of every number the middle one; nil when the parts are not of one model.
  fileprivate init?(middleOf timings: [PartTimings]) {
    guard let first = timings.first,
      timings.allSatisfy({ $0.threads == first.threads && $0.stacks.map(\.kind) == first.stacks.map(\.kind) })
    else { return nil }
    func middle(_ part: (PartTimings) -> UnitDuration) -> UnitDuration {
      UnitDuration(
        alone: AlikeDevices.median(timings.map { part($0).alone }),
        together: AlikeDevices.median(timings.map { part($0).together }))
    }
    func middle(_ part: (PartTimings) -> PartTimes) -> PartTimes {
      var times = PartTimes()
      times.forward = middle { part($0).forward }
      times.backward = middle { part($0).backward }
      times.sideForward = middle { part($0).sideForward }
      times.sideBackward = middle { part($0).sideBackward }
      return times
    }
    func middle(_ number: (PartTimings) -> Int64?) -> Int64? {
      let known = timings.compactMap(number)
      return known.isEmpty ? nil : AlikeDevices.median(known)
    }
    self = first
    for place in stacks.indices {
      stacks[place].block = middle { $0.stacks[place].block }
      stacks[place].embedding = middle { $0.stacks[place].embedding }
    }
    head = middle { $0.head }
    cacheWrite = middle { $0.cacheWrite }
    cacheRead = middle { $0.cacheRead }
    updateOfMillion = AlikeDevices.median(timings.map(\.updateOfMillion))
    exchangeOfMebibyte = middle { $0.exchangeOfMebibyte }
    freshMebibyte = middle { $0.freshMebibyte }
    mappedMebibyte = middle { $0.mappedMebibyte }
  }
}
