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

  /// Time between two reports of progress of one device.
  package static let beat: Duration = .seconds(1)
  /// The same for a device that only watches, to the owner alone.
  package static let watcherBeat: Duration = .seconds(10)
  /// Time after which something that was not answered is sent again.
  package static let resend: Duration = .seconds(2)
  /// How long a leader waits for the devices' reports before it plans with those that came.
  package static let reportWait: Duration = .seconds(30)
  /// How long a device that the job needs may say nothing although gossip holds it for alive.
  package static let silence: Duration = .seconds(30)
  /// How long the news of a broken connection waits for the other side's own, better words.
  package static let blameWait: Duration = .seconds(2)
  /// How long a leader tries to get its plan agreed on while too few devices answer.
  package static let decisionWait: Duration = .seconds(60)
}
