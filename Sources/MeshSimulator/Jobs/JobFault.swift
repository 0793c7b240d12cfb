package import Determinism

/// When a device that leads is struck.
package enum LeaderMoment: Hashable, Sendable, CaseIterable {
  /// It looks for a plan.
  case planning
  /// It has asked for promises, and nobody has answered.
  case preparing
  /// It has asked for votes.
  case voting
  /// It has the certificate and has told nobody.
  case certified
  /// It is in the middle of a ring.
  case ring
  /// It has applied a step.
  case commit
}

/// What goes over a connection when it breaks.
package enum StreamMoment: Hashable, Sendable, CaseIterable {
  /// What a device has when a plan epoch begins.
  case inventory
  /// Values or activations that are handed over or gathered.
  case handover
  /// What goes from one stage of a pipeline to the next, or back.
  case boundary
  /// A piece of sums that grows on its way round.
  case ring
  /// What a device adds to a step beside sums.
  case share

  func contains(_ kind: StandInMessageKind) -> Bool {
    switch kind {
    case .state: self == .inventory
    case .leaves, .activations: self == .handover
    case .forward, .backward: self == .boundary
    case .reduceScatter, .allGather: self == .ring
    case .share: self == .share
    }
  }
}

/// Something that happens to a device, the network or a person's mind.
package enum JobFault: Hashable, Sendable {
  /// The machine is switched on if it was off, and the process starts.
  case start(Int)
  /// The process is killed; its sockets say so.
  case kill(Int)
  /// Power is lost; nobody is told.
  case losePower(Int)
  /// The process is killed at its next write of the record: before it, or after it and before anything is sent.
  case killAtPersist(Int, isWritten: Bool)
  /// The device that leads is killed at the next such moment, and started again after so many milliseconds.
  case killLeader(LeaderMoment, milliseconds: Int)
  /// The process stops to run and its sockets stay.
  case stop(Int)
  /// It runs again.
  case proceed(Int)
  /// The machine sleeps.
  case suspend(Int)
  /// It wakes up.
  case resume(Int)
  /// The device computes so many times slower than it should.
  case slow(Int, times: Int)
  /// Nothing gets from one device to another.
  case cut(from: Int, to: Int)
  /// It does again.
  case uncut(from: Int, to: Int)
  /// Devices reach only those of their own group.
  case partition([Int])
  /// The network is whole.
  case mend
  /// The network treats messages differently from now on.
  case conditions(JobNetworkConditions)
  /// Both ends of the connections of two devices are told that these are gone.
  case reset(Int, Int)
  /// The connection over which the next such message goes breaks, and a buffer keeps the message for a while.
  case tear(StreamMoment)
  /// A device takes another for unreachable for a while although it is not.
  case suspect(by: Int, of: Int, milliseconds: Int)
  /// A person wants the device for something else.
  case leave(Int)
  /// The device may be used again.
  case rejoin(Int)
  /// The daemon is stopped in good order.
  case shutDown(Int)
  /// The disk is full.
  case fillDisk(Int)
  /// It is not any more.
  case freeDisk(Int)
  /// The device's run fails for a reason of its own, if the job can do without it.
  case failRun(Int)
  /// An admin lets the devices that are here go on without a majority.
  case adopt(Int)
  /// All faults are over: from here on the job has to advance.
  case settled
}

/// A fault and its time.
package struct JobStep: Hashable, Sendable {
  /// Since the beginning.
  package var time: MonotonicInstant
  /// What happens.
  package var fault: JobFault

  /// A fault after so many seconds.
  package init(_ seconds: Double, _ fault: JobFault) {
    time = MonotonicInstant(nanoseconds: Int64(seconds * 1_000) * 1_000_000)
    self.fault = fault
  }
}

/// A device that breaks a rule on purpose, so that a check can be seen to fail.
package enum JobMisbehaviour: Hashable, Sendable, CaseIterable {
  /// It leaves out the gradient of a unit.
  case losesUnit
  /// It adds the gradient of a unit twice.
  case doublesUnit
  /// It applies a step before it has heard everybody.
  case waitsForNobody
  /// It takes messages of any plan epoch.
  case ignoresStamps
  /// It says that it has written its record and has not.
  case neverPersists
  /// It goes on from a checkpoint that is torn.
  case trustsTornCheckpoints
  /// It leaves a plan that was agreed on and starts another.
  case startsAnotherPlan
}
