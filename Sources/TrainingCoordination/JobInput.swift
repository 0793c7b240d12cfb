package import CryptoPrimitives
package import MeshModel
package import ParallelPlanner

/// The household as a job sees it.
package struct JobMembership: Hashable, Sendable {
  /// Members that take part in gossip, this device included.
  package var alive: Set<DeviceID>
  /// Those of them to whom a session leads; the others hear nothing of this device.
  package var reachable: Set<DeviceID>
  /// Whom gossip suggests as leader.
  package var leader: DeviceID?
  /// The keys that verify what members sign.
  package var keys: [DeviceID: SigningPublicKey]
  /// The members that may adopt a job.
  package var admins: Set<DeviceID>

  /// A household.
  package init(
    alive: Set<DeviceID>, reachable: Set<DeviceID>, leader: DeviceID?, keys: [DeviceID: SigningPublicKey],
    admins: Set<DeviceID>
  ) {
    self.alive = alive
    self.reachable = reachable
    self.leader = leader
    self.keys = keys
    self.admins = admins
  }
}

/// Whose fault it is that a run failed on this device.
package enum RunCulprit: Hashable, Sendable {
  /// This device's own: it drops out.
  case own
  /// A device of the plan, whose connection ended.
  case device(DeviceID)
  /// Somebody else's, who will say so.
  case elsewhere
  /// The job's: it fails the same on every device, and ends.
  case job
}

/// How a run ended that has not come to its end.
package struct RunStop: Hashable, Sendable {
  /// Optimizer steps whose update this device has applied.
  package var committedStep: UInt64
  /// Who broke the run off; nil when it stopped at a boundary, as it was asked to.
  package var culprit: RunCulprit?
  /// Why, for people.
  package var reason: String

  /// A stop.
  package init(committedStep: UInt64, culprit: RunCulprit? = nil, reason: String = "") {
    self.committedStep = committedStep
    self.culprit = culprit
    self.reason = reason
  }
}

/// What happens to a job on one device; answers about a plan repeat its stamp, and late ones are dropped.
package enum JobInput: Sendable {
  /// Time has passed; due at `nextDeadline`, harmless at any other time.
  case tick
  /// A member said something about this job.
  case message(JobMessage, from: DeviceID)
  /// The household changed.
  case membership(JobMembership)
  /// This device has the package and has measured itself.
  case prepared(report: [UInt8])
  /// This device cannot take part, and why.
  case unprepared(String)
  /// This device, which leads, found a plan; `household` are the devices by place.
  case planned(request: UInt64, household: [DeviceID], plan: Plan, next: Plan?)
  /// The present plan stays, and why.
  case kept(request: UInt64, reason: String)
  /// There is no plan, and why.
  case unplanned(request: UInt64, reason: String)
  /// This device has measured its links, as it was asked to or for a plan; those whose rate is known now.
  case surveyed(request: UInt64?, [DeviceLink])
  /// It could not.
  case unsurveyed(request: UInt64)
  /// This device has all that its part of the plan needs.
  case ready(JobStamp)
  /// How far this device's fetching is, in bytes, and what memory a job may take of it once that is known.
  case fetched(UInt64, of: UInt64, budget: UInt64?)
  /// Where this device's run is.
  case progressed(JobStamp, DeviceProgress)
  /// This device holds all that its part of the next plan needs.
  case learned(JobStamp)
  /// This device's part of the run is done.
  case completed(JobStamp, RunCompletion)
  /// This device's run has ended before the job's end; every `start` is answered with this or `completed`, once.
  case stopped(JobStamp, RunStop)
  /// The adapter is written, on the owner.
  case delivered(ContentDigest)
  /// Work other than the run failed on this device; the plan that it was for, when it was for one.
  case failed(JobStamp?, RunCulprit, String)
  /// This device leaves, and why; it comes back with `rejoin`.
  case leave(reason: String)
  /// This device takes part again.
  case rejoin
  /// A person lets the job go on with the devices that are there; this device is an admin.
  case adopt
  /// A person stops the job here.
  case stop
}

/// What a job wants done on its device, in this order.
package enum JobEffect: Hashable, Sendable {
  /// Write this to disk and sync it before the effects after this one.
  case persist(StoredJob)
  /// Send this on the control session; may be lost.
  case send(JobMessage, to: DeviceID)
  /// Fetch the package, measure this device, and answer with `prepared` or `unprepared`.
  case prepare
  /// Measure the links, plan, and answer with `planned`, `kept` or `unplanned`.
  case plan(PlanRequest)
  /// Measure the links, for a plan that may be wanted at once; answer with `surveyed` or `unsurveyed`.
  case survey(request: UInt64)
  /// Fetch what this device's part of the plan needs, and answer with `ready` or `failed`; replaces an earlier `fetch`.
  case fetch(PlanCertificate)
  /// Run; answer with `progressed`, and then `completed` or `stopped`.
  case start(PlanCertificate)
  /// Let the run stop at the next boundary; it answers with `stopped` without a culprit, or with `completed`.
  case drain
  /// Break the run off at once; it answers with `stopped`, or with `completed` if it was just over.
  case interrupt(reason: String)
  /// Write the adapter from the result that these devices hold, and answer with `delivered` or `failed`.
  case deliver(RunCompletion, from: [DeviceID])
  /// The job has ended: stop what runs, and give back what it holds.
  case end(JobOutcome)
}

/// Where a job is as a whole.
package enum JobState: String, Hashable, Sendable, CaseIterable {
  /// Devices fetch the package and measure themselves.
  case preparing
  /// The leader looks for a plan.
  case planning
  /// The devices vote on it.
  case deciding
  /// Devices fetch the weights of their layers.
  case fetching
  /// The devices train.
  case running
  /// The run was broken off, and the devices agree on how it goes on.
  case recovering
  /// It cannot go on until something changes; `pausedReason` says what.
  case paused
  /// The owner writes the adapter, or is waited for.
  case saving
  /// The owner has the adapter.
  case finished
  /// It could not go on.
  case failed
  /// A person stopped it.
  case stopped
}
