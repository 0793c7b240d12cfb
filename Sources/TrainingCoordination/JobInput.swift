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

  /// A household.
  package init(
    alive: Set<DeviceID>, reachable: Set<DeviceID>, leader: DeviceID?, keys: [DeviceID: SigningPublicKey]
  ) {
    self.alive = alive
    self.reachable = reachable
    self.leader = leader
    self.keys = keys
  }
}

/// Whose fault it is that a run failed on this device.
package enum RunCulprit: Hashable, Sendable {
  /// This device's own.
  case own
  /// A device of the plan, whose connection ended.
  case device(DeviceID)
  /// Somebody else's, who will say so.
  case elsewhere
}

/// What happens to a job on one device.
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
  case planned(household: [DeviceID], Plan)
  /// There is no plan, and why.
  case unplanned(String)
  /// This device has all that its part of the plan needs.
  case ready
  /// How far this device's fetching is, in bytes, and what memory a job may take of it once that is known.
  case fetched(UInt64, of: UInt64, budget: UInt64?)
  /// Where this device's run is.
  case progressed(DeviceProgress)
  /// This device's part of the run is done.
  case completed(RunCompletion)
  /// The adapter is written, on the owner.
  case delivered(ContentDigest)
  /// A step failed on this device.
  case failed(RunCulprit, String)
  /// A person stops the job here.
  case stop
}

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

/// What a job wants done on its device, in this order.
package enum JobEffect: Hashable, Sendable {
  /// Write this to disk and sync it before the effects after this one.
  case persist(StoredJob)
  /// Send this on the control session; may be lost.
  case send(JobMessage, to: DeviceID)
  /// Fetch the package, measure this device, and answer with `prepared` or `unprepared`.
  case prepare
  /// Measure the links, plan with these reports, and answer with `planned` or `unplanned`.
  case plan([JobDeviceReport])
  /// Fetch what this device's part of the plan needs, and answer with `ready` or `failed`.
  case fetch(PlanCertificate)
  /// Run; answer with `progressed`, and `completed` or `failed`.
  case start(PlanCertificate)
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
  /// The owner writes the adapter.
  case saving
  /// The owner has the adapter.
  case finished
  /// It could not go on.
  case failed
  /// A person stopped it.
  case stopped
}
