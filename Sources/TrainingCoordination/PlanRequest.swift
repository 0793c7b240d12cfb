package import MeshModel
package import ParallelPlanner

/// One device's report, as the leader's planning wants it.
package struct JobDeviceReport: Hashable, Sendable {
  /// The device.
  package var device: DeviceID
  /// What it measured.
  package var report: [UInt8]

  /// A report.
  package init(device: DeviceID, report: [UInt8]) {
    self.device = device
    self.report = report
  }
}

/// Why a job gets another plan; the raw values are the wire's.
package enum PlanCause: UInt8, Hashable, Sendable, CaseIterable {
  /// It has none.
  case first = 1
  /// The run was broken off; without a plan the job stands still.
  case lost = 2
  /// A device says that it leaves; it is not among the reports.
  case left = 3
  /// A device that has no role could take one, if that pays.
  case joined = 4
  /// A device is slower or faster than the plan expects, and other shares may pay.
  case straggler = 5

  /// Whether the job cannot go on under the present plan: `kept` is no answer.
  package var isNeeded: Bool { self == .first || self == .lost || self == .left }
}

/// What a leader's shell needs to look for a plan.
package struct PlanRequest: Hashable, Sendable {
  /// The request's number, which the answer repeats; an answer to an older request is dropped.
  package var number: UInt64
  /// The devices that can take part, with what they measured, ascending by device.
  package var reports: [JobDeviceReport]
  /// Why a plan is looked for.
  package var cause: PlanCause
  /// The devices of the present plan by place; none before the first.
  package var household: [DeviceID]
  /// The present plan; nil before the first.
  package var plan: Plan?
  /// Committed optimizer steps.
  package var committedStep: UInt64
  /// Seconds that devices themselves computed for a step under the present plan.
  package var secondsPerStep: [DeviceID: Double]
  /// Whether a plan may be prepared for in the background (`next`); not while one is, nor while the job stands still.
  package var learning: Bool

  /// A request.
  package init(
    number: UInt64, reports: [JobDeviceReport], cause: PlanCause, household: [DeviceID] = [],
    plan: Plan? = nil, committedStep: UInt64 = 0, secondsPerStep: [DeviceID: Double] = [:],
    learning: Bool = false
  ) {
    self.number = number
    self.reports = reports
    self.cause = cause
    self.household = household
    self.plan = plan
    self.committedStep = committedStep
    self.secondsPerStep = secondsPerStep
    self.learning = learning
  }
}
