import Collectives
import FineTuning
import NeuralNetworks

/// Leaves of a stage, as it told the others: whose gradients it sums, and which of other stages it reads.
struct StageLeaves: Equatable {
  var own: [Int]
  var borrowed: [Int]
}

/// One device's side of every optimizer step: shares to all, a ring within its group, squares and borrowed sums across
/// the stages.
///
/// - Safety: the driver's thread alone uses it.
final class DeviceReduction: StepReduction {
  /// What failed, when a call threw.
  private(set) var failure: DistributedRunFailure?
  let ring: GradientRing
  private let links: JobLinks
  /// Devices of each stage; a data-parallel phase is one stage.
  private let groups: [[Int]]
  private let stage: Int
  private let leaves: [StageLeaves]
  private let tree: ParameterTree
  private let window: ParameterWindow
  /// Number of the exchange; a step that is computed again has a new one.
  private(set) var round: UInt64

  /// - Parameters:
  ///   - groups: devices by stage; this device's is `stage`.
  ///   - leaves: by stage.
  ///   - firstRound: the same on every device, beyond all that were used before.
  init(
    links: JobLinks, groups: [[Int]], stage: Int, leaves: [StageLeaves], tree: ParameterTree,
    firstRound: UInt64
  ) {
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
    try noting { () throws(DistributedRunFailure) in try ring.reduce(sums, round: round) }
  }

  func exchange(squares: inout [Double], sums: any GradientSums) throws(TrainingFailure) {
    guard groups.count > 1 else { return }
    var all = squares
    try noting { () throws(DistributedRunFailure) in
      for (index, group) in groups.enumerated() where index != stage {
        for (position, device) in group.enumerated() where speaker(of: stage, for: position) == links.place {
          try links.send(
            squaresMessage(all, for: index, sums),
            JobTag(.share, step: round, unit: UInt32(stage), part: 1), to: device)
        }
      }
      for index in groups.indices where index != stage {
        try takeSquares(of: index, into: &all, sums)
      }
    }
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
    let message = StepShare(
      losses: losses.enumerated().compactMap { position, loss in loss.map { (position, $0) } },
      evidence: sums.evidence, digest: digest
    ).message
    for device in others { try links.send(message, JobTag(.share, step: round), to: device) }
    for device in others {
      let share = try StepShare(
        links.receive(JobTag(.share, step: round), from: device, .share), from: device,
        microBatches: microBatches)
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

  // MARK: Squares

  /// The device of stage `index` that tells what it has to number `position` of another stage.
  private func speaker(of index: Int, for position: Int) -> Int {
    groups[index][position % groups[index].count]
  }

  private func squaresMessage(
    _ squares: [Double], for other: Int, _ sums: any GradientSums
  ) -> [UInt8] {
    var writer = MessageWriter()
    for leaf in leaves[stage].own { writer.double(squares[leaf]) }
    for range in lent(by: stage, to: other) {
      sums.withIntegers(range) { writer.raw(UnsafeRawBufferPointer($0)) }
    }
    return writer.bytes
  }

  private func takeSquares(
    of index: Int, into squares: inout [Double], _ sums: any GradientSums
  ) throws(DistributedRunFailure) {
    let own = groups[stage].firstIndex(of: links.place) ?? 0
    let device = speaker(of: index, for: own)
    var reader = MessageReader(
      try links.receive(JobTag(.share, step: round, unit: UInt32(index), part: 1), from: device, .share),
      from: device, "the squares of a stage")
    for leaf in leaves[index].own { squares[leaf] = try reader.double() }
    for range in lent(by: index, to: stage) {
      let bytes = try reader.raw(range.count * sums.bytesPerSum)
      bytes.withUnsafeBytes { sums.store(integers: $0, to: range) }
    }
    try reader.finish()
  }

  /// Where the leaves are that one stage sums and another one reads.
  private func lent(by index: Int, to other: Int) -> [Range<Int>] {
    let own = Set(leaves[index].own)
    return Self.ranges(tree, leaves[other].borrowed.filter { own.contains($0) })
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
