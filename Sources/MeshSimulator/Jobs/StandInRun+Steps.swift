import Collectives
import ParallelPlanner

/// One optimizer step on one device.
struct StepWork: Sendable {
  /// Who takes part, in order; everybody hears everybody's share.
  let audience: [Int]
  /// Whose sums go round; empty where this device has none.
  let ringMembers: [Int]
  /// Which of the flat vector goes round.
  let reduced: Range<Int>
  var sums: [UInt64]
  var ring: RingReduction?
  var isReduced = false
  var hasShared = false
  var shares: [Int: StandInShare] = [:]
}

extension StandInRun {
  mutating func beginStep() {
    round += 1
    let isCached = phase == .cached
    let members = isCached ? division.cachedDevices : stage.map { division.members(stage: $0) } ?? []
    let layers = isCached ? 0..<job.layers : stage.map { division.plan.stages[$0].layers } ?? 0..<0
    step = StepWork(
      audience: isCached ? division.cachedDevices : division.devices, ringMembers: members,
      reduced: job.values(ofLayers: layers), sums: Array(repeating: 0, count: job.valueCount))
    let units = model.units(ofStep: state.step).enumerated().map {
      (key: $0.offset, unit: $0.element, lane: $0.offset)
    }
    pass = makePass(units, trains: true, isCached: isCached)
  }

  mutating func advanceStep(_ cache: inout StandInCache) -> Bool {
    poll(&cache)
    guard phase != .over, let pass, pass.isFinished, step != nil else { return false }
    if step?.hasShared == false { share(pass) }
    reduce()
    hear()
    guard phase != .over, let step, step.isReduced,
      step.shares.count == step.audience.count || misbehaviour == .waitsForNobody
    else { return false }
    commit(step)
    return phase != .over
  }

  // MARK: - Sums

  private mutating func share(_ pass: UnitPass) {
    guard var step else { return }
    step.hasShared = true
    let share = StandInShare(losses: pass.losses, stops: isStopping)
    step.shares[place] = share
    for device in step.audience where device != place {
      send(.share(share), StandInTag(kind: .share, step: state.step), to: device)
    }
    if let own = step.ringMembers.firstIndex(of: place) {
      var ring = RingReduction(
        place: own,
        chunks: RingChunks(count: step.reduced.count, members: step.ringMembers.count, alignment: 1),
        piece: Self.ringPiece, window: 2)
      let begun = ring.start()
      step.ring = ring
      self.step = step
      perform(begun, received: [])
    } else {
      step.isReduced = true
      self.step = step
    }
  }

  private mutating func reduce() {
    while let ring = step?.ring, let piece = ring.awaited, phase != .over {
      guard let members = step?.ringMembers,
        case .words(let words)? = take(tag(of: piece), from: members[ring.predecessor])
      else { return }
      do throws(RingFailure) {
        let effects = try step?.ring?.received(piece, elements: words.count) ?? []
        perform(effects, received: words)
      } catch {
        fail("\(error)")
      }
    }
  }

  private func tag(of piece: RingPiece) -> StandInTag {
    StandInTag(
      kind: piece.phase == .reduceScatter ? .reduceScatter : .allGather, step: state.step, part: piece.part)
  }

  private mutating func perform(_ effects: [RingEffect], received: [UInt64]) {
    guard let members = step?.ringMembers, let base = step?.reduced.lowerBound,
      let successor = step?.ring?.successor
    else { return }
    for effect in effects {
      switch effect {
      case .send(let piece, let range):
        let words = Array(step?.sums[base + range.lowerBound..<base + range.upperBound] ?? [])
        send(.words(words), tag(of: piece), to: members[successor])
      case .add(let range):
        for (index, word) in zip(range, received) { step?.sums[base + index] &+= word }
      case .store(let range):
        for (index, word) in zip(range, received) { step?.sums[base + index] = word }
      case .finished: step?.isReduced = true
      }
    }
  }

  private mutating func hear() {
    guard let audience = step?.audience else { return }
    for device in audience where step?.shares[device] == nil {
      guard case .share(let share)? = take(StandInTag(kind: .share, step: state.step), from: device) else {
        continue
      }
      step?.shares[device] = share
    }
  }

  // MARK: - Commit

  private mutating func commit(_ step: StepWork) {
    var losses = [UInt64?](repeating: nil, count: job.lanes)
    for device in step.audience {
      for (lane, loss) in (step.shares[device]?.losses ?? [:]).sorted(by: { $0.key < $1.key }) {
        guard losses.indices.contains(lane), losses[lane] == nil else {
          return fail("lane \(lane) of step \(state.step) was computed twice")
        }
        losses[lane] = loss
      }
    }
    guard losses.allSatisfy({ $0 != nil }) || misbehaviour != nil else {
      return fail("some lanes of step \(state.step) were not computed")
    }
    if phase == .live, division.isPipeline { undo = state }
    state.apply(step.sums, losses: losses.reduce(0) { $0 &+ ($1 ?? 0) })
    lastCommitted = state
    effects.append(.committed(state.step))
    boundary.begin()
    for device in step.audience { boundary.note(asks: step.shares[device]?.stops == true) }
    if boundary.stops, state.step < job.totalSteps { return end(.stopped(state.step)) }
    beginGathering()
    _ = beginNextStep()
  }
}
