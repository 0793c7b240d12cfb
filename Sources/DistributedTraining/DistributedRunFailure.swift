package import Collectives
package import FineTuning

/// Why a device's part of a job ended before its end.
package enum DistributedRunFailure: Error, Equatable, Sendable, CustomStringConvertible {
  /// The channel to the other devices gave up, during this work.
  case channel(JobChannelFailure, during: String)
  /// Somebody stopped the job on this device.
  case cancelled(step: Int)
  /// This device's computation failed.
  case training(TrainingFailure)
  /// Two devices that must hold the same parameters do not.
  case replicasDiffer(place: Int, step: Int)
  /// A message from a device is not what the plan says it must be.
  case malformed(place: Int, content: String, detail: String)
  /// A message from the device before this one broke the rules of the ring.
  case ring(place: Int, RingFailure)
  /// What the devices bring along does not fit the job.
  case handover(HandoverFailure)
  /// The plan does not fit the job or this device.
  case unfitPlan(String)

  /// What was wrong, where, and the next step.
  package var description: String {
    switch self {
    case .channel(let failure, let work): "\(failure) (\(work)); start the job again"
    case .cancelled(let step): "the job was stopped at step \(step)"
    case .training(let failure): failure.description
    case .replicasDiffer(let place, let step):
      "device \(place) of the plan has other parameters than this one after step \(step); the devices' programs or "
        + "processors compute different bits: run hearth doctor on both, then start the job again"
    case .malformed(let place, let content, let detail):
      "\(content) from device \(place) of the plan: \(detail); bring all devices to one version of hearth"
    case .ring(let place, let failure): "device \(place) of the plan: \(failure)"
    case .handover(let failure): failure.description
    case .unfitPlan(let detail): "the plan does not fit the job: \(detail); let the job be planned anew"
    }
  }
}
