/// Why a running job is planned again.
package enum ReplanCause: String, Sendable, Codable, CaseIterable {
  /// A device is gone without notice.
  case lost
  /// A device goes, and hands over what others lack.
  case left
  /// A device has come.
  case joined
  /// A device computes slower or faster than it was planned.
  case straggler
}

/// A device that is there as a running job is planned again.
package struct ReplanDevice: Sendable, Hashable {
  /// What was measured of it before it worked.
  package var profile: DeviceProfile
  /// Its place in the present plan's household; nil for one that has come since.
  package var place: Int?
  /// Whether it computes nothing more, and only hands over what others lack.
  package var isLeaving: Bool
  /// What it computes of each step now, its waits excluded, in nanoseconds; nil when that is not known.
  package var measuredStep: Int64?
  /// Whether it has all of the model's weights.
  package var holdsModel: Bool

  /// A device that is there.
  package init(
    profile: DeviceProfile, place: Int?, isLeaving: Bool = false, measuredStep: Int64? = nil,
    holdsModel: Bool = false
  ) {
    self.profile = profile
    self.place = place
    self.isLeaving = isLeaving
    self.measuredStep = measuredStep
    self.holdsModel = holdsModel
  }
}

/// What a running job is planned again with.
package struct ReplanRequest: Sendable, Hashable {
  /// What the model costs.
  package var costs: ModelCosts
  /// The whole job, as it was planned first.
  package var job: PlanningJob
  /// The plan that it runs by.
  package var present: Plan
  /// The devices that are there, whether they have a part in the present plan or not.
  package var devices: [ReplanDevice]
  /// The link between devices `i` and `j` of `devices` at `i · count + j`.
  package var links: [LinkProfile]
  /// Optimizer steps that are done.
  package var committedStep: Int
  /// Mini-batches whose activations are in the cache.
  package var cachedMiniBatches: Int
  /// Why it is planned again.
  package var cause: ReplanCause
  /// Whether a plan may be prepared while the present one runs; not while another one is.
  package var mayLearn: Bool

  /// A request.
  package init(
    costs: ModelCosts, job: PlanningJob, present: Plan, devices: [ReplanDevice], links: [LinkProfile],
    committedStep: Int, cachedMiniBatches: Int, cause: ReplanCause, mayLearn: Bool = true
  ) {
    self.costs = costs
    self.job = job
    self.present = present
    self.devices = devices
    self.links = links
    self.committedStep = committedStep
    self.cachedMiniBatches = cachedMiniBatches
    self.cause = cause
    self.mayLearn = mayLearn
  }
}

/// What it takes to go from one plan to another, in nanoseconds.
package struct SwitchCost: Sendable, Hashable {
  /// Stopping at a boundary, agreeing on the plan, and telling each other who holds what.
  package var boundary: Int64 = 0
  /// Parameters and moments for those that have none.
  package var state: Int64 = 0
  /// Activations that other devices read from now on.
  package var activations: Int64 = 0
  /// Activations that nobody has any more.
  package var recomputation: Int64 = 0
  /// Frozen weights of layers that are new to a device.
  package var weights: Int64 = 0

  /// All of it one after the other.
  package var total: Int64 { boundary + moving }
  /// All but the boundary: what can be done while the job goes on.
  package var moving: Int64 { state + activations + recomputation + weights }
}

/// What a new plan brings, in nanoseconds.
package struct SwitchGain: Sendable, Hashable {
  /// Time left under the present plan; nil when it cannot go on.
  package var before: Int64?
  /// Time left under the new plan once it runs.
  package var after: Int64
  /// What the way there takes.
  package var cost: SwitchCost
  /// Time from now to the end of the job by way of the new plan, the way there included.
  package var toEnd: Int64
  /// A step under the present plan, in the phase at hand; nil when it cannot go on.
  package var stepBefore: Int64?
  /// A step under the new plan, in the phase at hand.
  package var stepAfter: Int64
}

/// Why the present plan stays.
package enum KeepReason: Sendable, Hashable, CustomStringConvertible {
  /// Nothing is left to be done.
  case finished
  /// The best plan for these devices is the present one.
  case isBest
  /// The job ends sooner without the devices that have come.
  case endsSoonerWithout
  /// What the new plan gains is too little against what the switch takes, in nanoseconds.
  case doesNotPay(before: Int64, after: Int64, cost: Int64)
  /// There is no plan that uses the devices that have come.
  case noPlan(String)

  /// A sentence for people.
  package var description: String {
    switch self {
    case .finished: "the job is at its end"
    case .isBest: "the work is divided as well as these devices can"
    case .endsSoonerWithout: "the job ends sooner without it"
    case .doesNotPay(let before, let after, let cost):
      "it would not pay: \(tenths(before)) s are left now, \(tenths(after)) s would be with it, "
        + "and \(tenths(cost)) s are needed for the change"
    case .noPlan(let detail): "there is no better plan with it: \(detail)"
    }
  }
}

/// Seconds with one decimal.
private func tenths(_ nanoseconds: Int64) -> String {
  let tenths = (max(0, nanoseconds) + 50_000_000) / 100_000_000
  return "\(tenths / 10).\(tenths % 10)"
}

/// A plan for what is left of a job.
package struct NewPlan: Sendable, Hashable {
  /// The devices of its household by place, each by its number in the request.
  ///
  /// Devices that stay keep their order. The last ones may have no part in the plan: they only hand over.
  package var household: [Int]
  /// The plan that runs now; the present one with its new places when `next` is not nil.
  package var plan: Plan
  /// The plan that is prepared while `plan` runs.
  package var next: Plan?
  /// What the change brings.
  package var gain: SwitchGain
  /// Devices of the request that the plan gives nothing to do, leaving ones left out.
  package var unused: [Int]
}

/// What becomes of a running job's plan.
package enum ReplanDecision: Sendable, Hashable {
  /// The job goes on as it does.
  case keep(KeepReason)
  /// The job goes on by another plan.
  case `switch`(NewPlan)
}
