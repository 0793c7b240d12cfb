import Collectives
import FineTuning
import NeuralNetworks

/// Leaves of a stage, as it told the others: whose gradients it sums, and which that others sum it reads.
struct HeldLeaves: Equatable, Sendable {
  var own: [Int]
  var shared: [Int]

  /// Leaves that the stage's devices need the sums of.
  var all: Set<Int> { Set(own).union(shared) }
}

/// One device's side of every optimizer step: shares to all, a ring within its group, squares and borrowed sums across
/// the stages.
///
/// - Safety: the driver's thread alone uses it.
final class DeviceReduction: StepReduction {
  /// What failed, when a call threw.
  private(set) var failure: DistributedRunFailure?
  /// The ring after the units; unused when an overlapped one runs during them.
  private let ring: GradientRing
  private let overlapped: OverlappedRing?
  private let links: JobLinks
  /// Devices of each stage; a data-parallel phase is one stage.
  private let groups: [[Int]]
  private let stage: Int
  private let leaves: [HeldLeaves]
  private let tree: ParameterTree
  private let window: ParameterWindow
  /// Number of the exchange; a step that is computed again has a new one.
  private(set) var round: UInt64
  /// What the shares of the step at hand decide.
  private var boundary: StepBoundary
  private let stopRequest: StopRequest
  /// What the driver does while an overlapped ring is under way, as long as it is not over.
  var meanwhile: ((_ isOver: () -> Bool) throws(DistributedRunFailure) -> Void)?

  /// - Parameters:
  ///   - groups: devices by stage; this device's is `stage`.
  ///   - leaves: by stage.
  ///   - stopRequest: whether this device asks all to stop.
  ///   - overlapped: reduces this device's sums while they are computed; nil to reduce them afterwards.
  ///   - firstRound: the same on every device, beyond all that were used before.
  init(
    links: JobLinks, groups: [[Int]], stage: Int, leaves: [HeldLeaves], tree: ParameterTree,
    stopRequest: StopRequest, overlapped: OverlappedRing? = nil, firstRound: UInt64
  ) {
    self.stopRequest = stopRequest
    boundary = StepBoundary(stateBytes: 0)
    self.overlapped = overlapped
    self.links = links
    self.groups = groups
    self.stage = stage
    self.leaves = leaves
    self.tree = tree
    round = firstRound
    let selection = VectorSelection(Self.ranges(tree, leaves[stage].own))
    ring = GradientRing(members: groups[stage], selection: selection, links: links)
    window = ParameterWindow(parameters: tree, selection: selection)
  }

  /// Where leaves are in the flat vector.
  static func ranges(_ tree: ParameterTree, _ leaves: [Int]) -> [Range<Int>] {
    leaves.compactMap { index in
      let leaf = tree.parameters[index]
      return leaf.gradientOffset.map { $0..<$0 + leaf.count }
    }
  }

  /// Nanoseconds in rings so far.
  var ringNanoseconds: UInt64 { overlapped?.nanoseconds ?? ring.nanoseconds }

  /// What this device has sent round rings so far.
  var sumTraffic: SumTraffic { overlapped?.traffic ?? ring.traffic }

  /// Whether all devices stop after the step that was made last.
  var stops: Bool { boundary.stops }

  /// A new step begins; one that is computed again is the same.
  func beginStep() { boundary.begin() }

  private var others: [Int] { groups.joined().filter { $0 != links.place } }

  // MARK: StepReduction

  func exchange(
    _ computation: any MiniBatchComputation, microBatches: Int, sums: any GradientSums
  ) throws(TrainingFailure) -> Double {
    round += 1
    return try noting { () throws(DistributedRunFailure) in
      try exchangeShares(computation, microBatches, sums)
    }
  }

  func reduce(_ sums: any GradientSums) throws(TrainingFailure) {
    try noting { () throws(DistributedRunFailure) in
      if overlapped == nil { try ring.reduce(sums, round: round) }
      try exchangeSharedSums(sums)
    }
  }

  func exchange(squares: inout [Double]) throws(TrainingFailure) {
    guard groups.count > 1 else { return }
    var all = squares
    try noting { () throws(DistributedRunFailure) in try exchangeSquares(&all) }
    squares = all
  }

  private func noting<Value>(
    _ work: () throws(DistributedRunFailure) -> Value
  ) throws(TrainingFailure) -> Value {
    do throws(DistributedRunFailure) {
      return try work()
    } catch {
      failure = error
      throw .exchange(error.description)
    }
  }

  // MARK: Shares

  private func exchangeShares(
    _ computation: any MiniBatchComputation, _ microBatches: Int, _ sums: any GradientSums
  ) throws(DistributedRunFailure) -> Double {
    var losses = [Double?](repeating: nil, count: microBatches)
    for position in 0..<microBatches { losses[position] = computation.loss(at: position) }
    let digest = window.digest(round: round)
    let asksToStop = stopRequest.isRaised
    boundary.note(asks: asksToStop)
    let message = StepShare(
      losses: losses.enumerated().compactMap { position, loss in loss.map { (position, $0) } },
      evidence: sums.evidence, digest: digest, asksToStop: asksToStop
    ).message
    for device in others { try links.send(message, JobTag(.share, step: round), to: device) }
    // Whatever the shares say, nobody touches sums that are still on their way.
    if let overlapped {
      try meanwhile? { overlapped.isOver }
      try overlapped.wait()
    }
    for device in others {
      let share = try StepShare(
        links.receive(JobTag(.share, step: round), from: device, .share), from: device,
        microBatches: microBatches)
      boundary.note(asks: share.asksToStop)
      for loss in share.losses { losses[loss.position] = loss.loss }
      guard sums.include(evidence: share.evidence) else {
        throw .malformed(
          place: device, content: "the share of a step", detail: "\(share.evidence.count) words of evidence")
      }
      guard !groups[stage].contains(device) || share.digest == digest else {
        throw .replicasDiffer(place: device, step: Int(round))
      }
    }
    guard let missing = losses.firstIndex(where: { $0 == nil }) else {
      return losses.reduce(0) { $0 + ($1 ?? 0) }
    }
    throw .unfitPlan("nobody has computed micro-batch \(missing) of a step")
  }

  // MARK: Stages

  /// The device of stage `index` that tells what it has to number `position` of another stage.
  private func speaker(of index: Int, for position: Int) -> Int {
    groups[index][position % groups[index].count]
  }

  /// The devices of stage `other` to which this device speaks for its stage.
  private func listeners(in other: Int) -> [Int] {
    groups[other].indices.filter { speaker(of: stage, for: $0) == links.place }.map { groups[other][$0] }
  }

  /// The device that speaks for another stage to this one.
  private func speaker(of index: Int) -> Int {
    speaker(of: index, for: groups[stage].firstIndex(of: links.place) ?? 0)
  }

  /// Where the leaves are that one stage sums and another one holds.
  private func lent(by index: Int, to other: Int) -> [Range<Int>] {
    let held = leaves[other].all
    return Self.ranges(tree, leaves[index].own.filter(held.contains))
  }

  /// Adds up, in every stage that holds them, the sums of leaves that more than one stage holds.
  private func exchangeSharedSums(_ sums: any GradientSums) throws(DistributedRunFailure) {
    for other in groups.indices where other != stage {
      let ranges = lent(by: stage, to: other)
      guard !ranges.isEmpty else { continue }
      var writer = MessageWriter()
      for range in ranges { sums.withIntegers(range) { writer.raw(UnsafeRawBufferPointer($0)) } }
      for device in listeners(in: other) {
        try links.send(writer.bytes, JobTag(.share, step: round, unit: UInt32(stage), part: 3), to: device)
      }
    }
    for other in groups.indices where other != stage {
      let ranges = lent(by: other, to: stage)
      guard !ranges.isEmpty else { continue }
      let device = speaker(of: other)
      let message = try links.receive(
        JobTag(.share, step: round, unit: UInt32(other), part: 3), from: device, .share)
      var reader = MessageReader(message, from: device, "the sums of shared leaves")
      for range in ranges {
        let bytes = try reader.raw(range.count * sums.bytesPerSum)
        bytes.withUnsafeBytes { sums.add(integers: $0, to: range) }
      }
      try reader.finish()
    }
  }

  private func exchangeSquares(_ squares: inout [Double]) throws(DistributedRunFailure) {
    var writer = MessageWriter()
    for leaf in counted(by: stage) { writer.double(squares[leaf]) }
    let tag = JobTag(.share, step: round, unit: UInt32(stage), part: 1)
    for other in groups.indices where other != stage {
      for device in listeners(in: other) { try links.send(writer.bytes, tag, to: device) }
    }
    for other in groups.indices where other != stage {
      let device = speaker(of: other)
      let message = try links.receive(
        JobTag(.share, step: round, unit: UInt32(other), part: 1), from: device, .share)
      var reader = MessageReader(message, from: device, "the squares of a stage")
      for leaf in counted(by: other) { squares[leaf] = try reader.double() }
      try reader.finish()
    }
  }

  /// The leaves whose squares a stage counts: of those that several sum, the first one does.
  private func counted(by index: Int) -> [Int] { Self.counted(by: index, leaves) }

  static func counted(by index: Int, _ leaves: [HeldLeaves]) -> [Int] {
    let earlier = Set(leaves[..<index].flatMap(\.own))
    return leaves[index].own.filter { !earlier.contains($0) }.sorted()
  }

  // MARK: Replicas

  /// Compares all parameters of the group; called between steps.
  func compareReplicas(step: Int) throws(DistributedRunFailure) {
    round += 1
    var writer = MessageWriter()
    writer.word(window.whole)
    let members = groups[stage].filter { $0 != links.place }
    for device in members { try links.send(writer.bytes, JobTag(.share, step: round, part: 2), to: device) }
    for device in members {
      let digest = try links.receive(JobTag(.share, step: round, part: 2), from: device, .share)
      guard digest == writer.bytes else { throw .replicasDiffer(place: device, step: step) }
    }
  }
}
