import Determinism
import MeshModel

/// How the devices that lead, or would lead next, know their links before they have to plan: whoever waits for the plan
/// would wait for them.
struct LinkSurveying: Sendable {
  /// A survey that has not been answered.
  struct Request: Sendable {
    let number: UInt64
    let since: MonotonicInstant
  }

  var number: UInt64 = 0
  var request: Request?
  /// The devices for which a survey was asked for last.
  var wanted: Set<DeviceID> = []
  /// The devices links to which were measured in the last survey that was answered.
  var measured: Set<DeviceID> = []
  /// Surveys in a row that left a link out.
  var failures = 0
  /// Until when none is asked for.
  var restUntil: MonotonicInstant?
}

/// Measuring links ahead.
extension JobCoordinator {
  /// Asks for a survey while this device leads, or would lead next, and there is a link that it does not know.
  mutating func surveyAhead(at now: MonotonicInstant) {
    if let request = surveying.request {
      guard hasPassed(JobLimits.surveyWait, since: request.since, at: now) else { return }
      endSurvey(isWhole: false, at: now)
    }
    // A job that stands still, or has not begun, has other work; its leader measures for itself.
    guard committedStep > 0, state == .running else { return }
    let isLeading = leader(at: now) == own
    guard isLeading || deputy(at: now) == own else { return }
    surveying.measured.formIntersection(membership.reachable)
    let wanted = linkedDevices
    guard !wanted.isSubset(of: surveying.measured) else { return }
    if wanted != surveying.wanted {
      // What could not be measured before says nothing of who has come.
      surveying.failures = 0
      if let rest = surveying.restUntil {
        surveying.restUntil = min(rest, now.advanced(by: JobLimits.surveyInterval))
      }
      surveying.wanted = wanted
      // A device is measured by one other at a time, and the leader waits for it.
      if !isLeading, !surveying.measured.isEmpty {
        let turn = now.advanced(by: JobLimits.deputyWait)
        surveying.restUntil = max(surveying.restUntil ?? turn, turn)
      }
    }
    if let rest = surveying.restUntil, rest > now { return wake(at: rest) }
    surveying.number += 1
    surveying.request = LinkSurveying.Request(number: surveying.number, since: now)
    wake(at: now.advanced(by: JobLimits.surveyWait))
    effects.append(.survey(request: surveying.number))
  }

  /// The devices to which a session leads, and that have not said that they take no part.
  ///
  /// They need not be prepared: the link to a device that has just come is measured while it prepares itself.
  private var linkedDevices: Set<DeviceID> {
    membership.reachable.intersection(membership.alive).filter {
      $0 != own && declines[$0] == nil && !(devices[$0]?.isLeaving ?? false)
    }
  }

  mutating func surveyed(_ number: UInt64?, _ measured: Set<DeviceID>, at now: MonotonicInstant) {
    guard let number else {
      // Measured for a plan.
      surveying.measured = measured
      surveying.restUntil = now.advanced(by: JobLimits.surveyInterval)
      return
    }
    guard surveying.request?.number == number else { return drop() }
    surveying.measured = measured
    endSurvey(isWhole: surveying.wanted.isSubset(of: measured), at: now)
  }

  mutating func unsurveyed(_ number: UInt64, at now: MonotonicInstant) {
    guard surveying.request?.number == number else { return drop() }
    endSurvey(isWhole: false, at: now)
  }

  private mutating func endSurvey(isWhole: Bool, at now: MonotonicInstant) {
    surveying.request = nil
    surveying.failures = isWhole ? 0 : surveying.failures + 1
    let wait = JobLimits.surveyInterval * (1 << max(0, min(surveying.failures - 1, 10)))
    surveying.restUntil = now.advanced(by: min(wait, JobLimits.longestRetry))
  }
}
