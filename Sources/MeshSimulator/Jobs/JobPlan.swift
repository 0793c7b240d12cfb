import Determinism

/// One run of a simulated job completely, as data: what a seed and a scenario stand for.
package struct JobPlan: Sendable, Hashable {
  /// The most devices.
  package static let deviceLimit = 12

  /// The scenario's name.
  package var scenario: String
  /// The seed.
  package var seed: UInt64
  /// Devices of the household.
  package var deviceCount: Int
  /// The devices that decide on the first plan.
  package var roster: [Int]
  /// The device that submits the job.
  package var owner = 0
  /// What is trained.
  package var job: StandInJob
  /// Seconds that a unit takes on a device of average speed.
  package var unitSeconds: Double
  /// Least time between two checkpoints of a device.
  package var checkpointInterval: Duration
  /// Silence after which a device is taken for unreachable.
  package var suspicion: Duration
  /// How the network is at first.
  package var conditions = JobNetworkConditions()
  /// What happens.
  package var steps: [JobStep] = []
  /// Devices that break rules.
  package var misbehaviours: [Misbehaviour] = []
  /// Roughly what the job takes when nothing happens.
  package var quietSeconds = 0.0
  /// When the run is given up.
  package var duration: Duration
  /// Whether the run ends at the first broken rule.
  package var stopsAtViolation = true

  /// A device that breaks a rule.
  package struct Misbehaviour: Sendable, Hashable {
    /// Which device.
    package var device: Int
    /// Which rule.
    package var kind: JobMisbehaviour

    /// A device that breaks a rule.
    package init(device: Int, kind: JobMisbehaviour) {
      self.device = device
      self.kind = kind
    }
  }
}
