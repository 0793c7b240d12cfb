import PipelineSchedules

/// Decides whether what is left of a running job is divided anew, and how.
///
/// After a device is gone the job needs a new plan in any case. Otherwise a plan has to pay for the way to it: time left
/// now against time left then, with the state, activations and weights that have to move. Equal requests have
/// equal answers on every machine.
package struct Replanning {
  /// What a change of plans takes at least: to stop at a boundary, to decide, and to compare what everybody holds.
  package static let boundaryTime: Int64 = 500_000_000
  /// What takes longer than this is moved while the job goes on.
  package static let longestPause: Int64 = 1_000_000_000
  /// The least that a change has to gain.
  package static let leastGain: Int64 = 1_000_000_000
  /// The share of the time left that a change has to gain, in thousandths: predictions are no better than that.
  package static let leastGainThousandths: Int64 = 50

  /// A slow device is left with a smaller share; to leave it out, or to cut the layers anew, the time to the end has to
  /// fall below this share of what other shares alone would take, in thousandths.
  package static let otherMembersThousandths: Int64 = 800

  let request: ReplanRequest
  /// The devices with the speed that they have shown.
  let profiles: [DeviceProfile]
  /// Device of the request by place in the present plan; nil for one that is gone.
  let devicesByPlace: [Int?]
  /// Devices that compute from now on: those that stay in the order of their places, then those that have come.
  let workers: [Int]

  /// What was asked for, checked.
  package init(_ request: ReplanRequest) throws(PlanningFailure) {
    let household = HouseholdProfile(devices: request.devices.map(\.profile), links: request.links)
    try request.costs.validate()
    try household.validate(kinds: request.costs.kinds.count)
    try request.job.validate()
    self.request = request
    let places = PlanningLimits.devices
    var devicesByPlace: [Int?] = Array(repeating: nil, count: places)
    for (device, there) in request.devices.enumerated() {
      guard let place = there.place else { continue }
      try check("a device's place in the present plan", Int64(place), 0...Int64(places - 1))
      guard devicesByPlace[place] == nil else {
        throw .inconsistent(what: "two devices have place \(place) of the present plan")
      }
      devicesByPlace[place] = device
    }
    let present = request.present
    for place in present.stages.flatMap({ $0.members.map(\.device) }) + present.cached.map(\.device) {
      try check("a place that the present plan names", Int64(place), 0...Int64(places - 1))
    }
    let all = Int64(request.job.epochs) * Int64(request.job.stepsPerEpoch)
    try check("the step that is committed", Int64(request.committedStep), 0...all)
    try check(
      "the number of cached mini-batches", Int64(request.cachedMiniBatches),
      0...Int64(request.job.stepsPerEpoch))
    guard present.stages.last?.layers.upperBound == request.costs.layers.count else {
      throw .inconsistent(what: "the present plan has another number of layers than the model")
    }
    self.devicesByPlace = devicesByPlace
    let staying = devicesByPlace.compactMap { $0 }.filter { !request.devices[$0].isLeaving }
    let come = request.devices.indices.filter {
      request.devices[$0].place == nil && !request.devices[$0].isLeaving
    }
    workers = staying + come
    profiles = MeasuredSpeeds(request, household).profiles
  }

  // MARK: What is left

  /// Optimizer steps that are left.
  ///
  /// A job whose last step is done is not over before somebody has all that was trained. When a device is gone before that,
  /// those that stay go on from what they hold, which is planned like one more step.
  var stepsLeft: Int {
    max(request.job.epochs * request.job.stepsPerEpoch - request.committedStep, mustSwitch ? 1 : 0)
  }

  /// Whether everything that is left reads the cache.
  var isCached: Bool { request.isCached }

  /// Whether the present plan cannot go on.
  var mustSwitch: Bool {
    if request.cause == .lost || request.cause == .left { return true }
    return request.present.placesAtWork.contains { place in
      devicesByPlace[place].map { request.devices[$0].isLeaving } ?? true
    }
  }

  /// The decision.
  package func decide() throws(PlanningFailure) -> ReplanDecision {
    guard stepsLeft > 0 else { return .keep(.finished) }
    guard !workers.isEmpty else {
      throw .doesNotFit(planner: request.job.planner, nearest: "every device of the job is gone or leaves")
    }
    let found: FoundPlan
    do throws(PlanningFailure) {
      found = isCached ? try CachedReplanning(self).best() : try backbonePlan()
    } catch {
      if mustSwitch { throw error }
      return .keep(.noPlan("\(error)"))
    }
    guard mustSwitch else { return weighed(found) }
    return .switch(
      newPlan(
        found, present: nil, isLearning: false, toEnd: found.cost.total + found.timeLeft))
  }

  /// The decision when the present plan could go on.
  private func weighed(_ found: FoundPlan) -> ReplanDecision {
    let atWork = Set(found.plan.placesAtWork.map { found.order[$0] })
    let come = request.devices.indices.filter { request.devices[$0].place == nil }
    if request.cause == .joined, !come.isEmpty, !come.contains(where: atWork.contains) {
      return .keep(.endsSoonerWithout)
    }
    // A plan that no longer fits by what was measured goes on as it does: nothing can be said of its end.
    guard let present = presentPlan(order: found.order),
      !present.hasSameDivision(as: found.plan, isCached: isCached)
    else { return .keep(.isBest) }
    let before = present.predicted.total
    let after = found.timeLeft
    let direct = found.cost.total + after
    let learning = learning(found, before: before, after: after)
    let isLearning =
      request.mayLearn && found.cost.moving >= Self.longestPause && learning <= direct
    let toEnd = isLearning ? learning : direct
    let margin = max(Self.leastGain, before / 1000 * Self.leastGainThousandths)
    guard toEnd <= before - margin else {
      return .keep(.doesNotPay(before: before, after: after, cost: max(0, toEnd - after)))
    }
    return .switch(newPlan(found, present: present, isLearning: isLearning, toEnd: toEnd))
  }

  /// Time to the end when everything moves while the present plan goes on: two boundaries, and the rest of the work at
  /// the new plan's speed.
  private func learning(_ found: FoundPlan, before: Int64, after: Int64) -> Int64 {
    let moving = found.cost.moving
    guard moving < before else { return .max / 8 }
    let rest = Int64(Int128(before - moving) * Int128(after) / Int128(max(1, before)))
    return 2 * found.cost.boundary + moving + rest
  }

  /// Gives the household its places.
  private func newPlan(_ found: FoundPlan, present: Plan?, isLearning: Bool, toEnd: Int64) -> NewPlan {
    let atWork = found.plan.placesAtWork.map { found.order[$0] }
    let parts = isLearning ? atWork + (present?.placesAtWork ?? []).map { found.order[$0] } : atWork
    // Whoever has no part any more still has what others need.
    let given = devicesByPlace.indices.filter { request.holds(place: $0) }.compactMap { devicesByPlace[$0] }
    let kept = found.order.filter { parts.contains($0) || given.contains($0) }
    let household = kept + given.filter { !kept.contains($0) }
    func placed(_ plan: Plan) -> Plan {
      plan.moved { place in household.firstIndex(of: found.order[place]) }
    }
    let plan = placed(found.plan)
    func step(_ plan: Plan) -> Int64 { isCached ? plan.predicted.cachedStep : plan.predicted.step }
    let gain = SwitchGain(
      before: present?.predicted.total, after: found.timeLeft, cost: found.cost, toEnd: toEnd,
      stepBefore: present.map(step), stepAfter: step(plan))
    return NewPlan(
      household: household, plan: isLearning ? present.map(placed) ?? plan : plan,
      next: isLearning ? plan : nil,
      gain: gain, unused: workers.filter { !atWork.contains($0) })
  }

  /// The present plan with places in `order` and the times that are left now; nil when it cannot go on.
  private func presentPlan(order: [Int]) -> Plan? {
    if isCached { return CachedReplanning(self).keeping(order: order) }
    return backbonePresent(order: order)
  }
}

/// A plan over devices in some order, and what the way to it takes.
struct FoundPlan {
  /// Devices of the request by place in `plan`.
  var order: [Int]
  var plan: Plan
  var cost: SwitchCost
  /// Time to the end once the plan runs and everything is where it belongs.
  var timeLeft: Int64
}

extension ReplanRequest {
  /// Whether everything that is left reads the cache.
  var isCached: Bool {
    switch present.mode {
    case .live: false
    case .hybrid: committedStep >= job.stepsPerEpoch
    case .fill: committedStep > 0 || cachedMiniBatches >= job.stepsPerEpoch
    }
  }

  /// Whether the device at a place of the present plan has state or activations that others may need.
  func holds(place: Int) -> Bool {
    if present.cached.contains(where: { $0.device == place }) { return true }
    return !isCached && present.stages.contains { $0.members.contains { $0.device == place } }
  }
}

extension Plan {
  /// Places of the devices that compute something, ascending.
  var placesAtWork: [Int] {
    Set(stages.flatMap { $0.members.map(\.device) } + cached.map(\.device)).sorted()
  }

  /// The same plan with other places; `new` keeps their order.
  func moved(to new: (Int) -> Int?) -> Plan {
    func place(_ old: Int) -> Int {
      guard let place = new(old) else { preconditionFailure("device \(old) of a plan has no place") }
      return place
    }
    var plan = self
    for stage in stages.indices {
      for member in stages[stage].members.indices {
        plan.stages[stage].members[member].device = place(stages[stage].members[member].device)
      }
      plan.stages[stage].members.sort { $0.device < $1.device }
    }
    for member in cached.indices { plan.cached[member].device = place(cached[member].device) }
    plan.cached.sort { $0.device < $1.device }
    return plan
  }

  /// Whether both plans give everybody the same to do; once all is cached the stages count no more.
  func hasSameDivision(as other: Plan, isCached: Bool) -> Bool {
    guard cached.map({ [$0.device, $0.units] }) == other.cached.map({ [$0.device, $0.units] }) else {
      return false
    }
    if isCached { return true }
    func division(_ plan: Plan) -> [[Int]] {
      plan.stages.map { stage in
        [stage.layers.lowerBound, stage.layers.upperBound] + stage.members.flatMap { [$0.device, $0.units] }
      }
    }
    return mode == other.mode && microBatches == other.microBatches && division(self) == division(other)
  }
}
