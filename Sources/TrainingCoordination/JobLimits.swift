/// The bounds and times of a job's coordination; everything that comes from outside has its limit here.
package enum JobLimits {
  /// Devices that can take part in one job: as many as a plan can name.
  package static let roster = 64
  /// Bytes of UTF-8 in a job's name.
  package static let nameBytes = 80
  /// Passes over the samples.
  package static let epochs = 100_000
  /// Bytes of what a device measured of itself for the planner.
  package static let reportBytes = 48 << 10
  /// Bytes of UTF-8 in a reason that people read.
  package static let reasonBytes = 512
  /// Bytes of a run's results: losses and metrics by epoch.
  package static let resultsBytes = 40 << 10
  /// Bytes of a whole message, so that it fits into one frame of a control session.
  package static let messageBytes = 60 << 10
  /// Metrics in one report of progress.
  package static let metrics = 8
  /// Bytes of UTF-8 in a metric's name.
  package static let metricNameBytes = 40
  /// Bytes of one stored record of a job.
  package static let recordBytes = 256 << 10

  /// Devices that a coordinator remembers anything of; a household has fewer.
  package static let known = 256
  /// Notes for people that are kept.
  package static let notes = 64

  /// Time between two reports of progress of one device while a plan is in force.
  package static let beat: Duration = .milliseconds(400)
  /// The same for a device whose run goes on, to those that are not beside it in the plan.
  package static let distantBeat: Duration = .seconds(2)
  /// The same before the first plan, and once the device's part is done.
  package static let idleBeat: Duration = .seconds(1)
  /// The same for a device without a part, to the owner and the leader alone.
  package static let watcherBeat: Duration = .seconds(2)
  /// How long a device without a part may say nothing: one of its beats may be lost.
  package static let watcherSilence: Duration = .seconds(5)
  /// Time after which something that was not answered is sent again.
  package static let resend: Duration = .seconds(2)
  /// The same for the steps of a decree, for which a whole job waits.
  package static let decreeResend: Duration = .milliseconds(500)
  /// How long a leader waits for the devices' reports before it makes the first plan with those that came.
  package static let reportWait: Duration = .seconds(30)
  /// How long a device that the run needs may say nothing.
  package static let silence: Duration = .seconds(2)
  /// The same for one whose run goes on, to those that are not beside it in the plan: they learn of its loss from its neighbours.
  package static let distantSilence: Duration = .seconds(6)
  /// The same for a device that is busy with measuring itself or fetching weights, and still has a session.
  package static let busySilence: Duration = .seconds(30)
  /// How long a leader waits for the devices of a run that was broken off to say how far they are.
  package static let stopWait: Duration = .seconds(2)
  /// The same for a device whose connection in the run ended, whose session stands, and that has said nothing since.
  package static let culpritWait: Duration = .seconds(1)
  /// How long a leader that was itself restarted waits for more devices than the majority that is back.
  package static let gatherWait: Duration = .seconds(5)
  /// How long a device whose run stopped at a boundary waits for the plan for which it did.
  package static let boundaryWait: Duration = .seconds(2)
  /// How long a run of an earlier plan may take to its next boundary, beside the time of some steps.
  package static let drainWait: Duration = .seconds(5)
  /// How long a run may stand still although all its devices are there; doubled each time it did.
  package static let stall: Duration = .seconds(120)
  /// The longest time that it may.
  package static let longestStall: Duration = .seconds(3600)
  /// How many of its slowest device's steps it may stand still.
  package static let stallSteps: Double = 20
  /// How long the devices of a plan wait for those that only hand over.
  package static let donorWait: Duration = .seconds(2)
  /// How long a device that leaves waits for a plan without it before it stops its run.
  package static let leaveWait: Duration = .seconds(10)
  /// After which time without a majority a job is shown as paused.
  package static let quorumWait: Duration = .seconds(10)
  /// After which time a device that could not take part tries again; doubled each time up to `longestRetry`.
  package static let declineRetry: Duration = .seconds(30)
  /// Least time between two looks for a better plan for the same reason; doubled each time up to `longestRetry`.
  package static let replanInterval: Duration = .seconds(30)
  /// The longest of the waits that double.
  package static let longestRetry: Duration = .seconds(600)
  /// How long a survey of links ahead of a plan may take before it counts as lost.
  package static let surveyWait: Duration = .seconds(90)
  /// Least time between two of them; doubled each time one left a link out, up to `longestRetry`.
  package static let surveyInterval: Duration = .seconds(10)
  /// How long a plan that followed a loss fills caches before one for devices that have come may take its place.
  package static let recoveryWait: Duration = .seconds(10)
  /// How long the device that would lead next waits for the leader's word of a link before it measures its own.
  package static let deputyWait: Duration = .seconds(5)
  /// How long a device that broke a run off for the second time is left out; doubled each time.
  package static let cooldown: Duration = .seconds(10)
  /// How much longer than the average the slowest device computes before other shares are looked for.
  package static let stragglerRatio = 1.5
  /// How long a phase of a plan runs before its devices' times count.
  package static let stragglerWait: Duration = .seconds(10)
  /// Least time between two records of the committed step.
  package static let ledgerInterval: Duration = .seconds(5)
  /// How long the owner waits for the other devices' ends once one device holds the result.
  package static let completionWait: Duration = .seconds(5)
  /// How often the owner tries to write the adapter before the job fails.
  package static let deliveries = 3
}
