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
  /// The links that are known: measured in the last survey that was answered, or taken from what the leader has told.
  var links: [DeviceID: DeviceLink] = [:]
  /// The devices links to which this device has measured.
  var measured: Set<DeviceID> = []
  /// The devices that have been told of the links as they are.
  var told: Set<DeviceID> = []
  /// Surveys in a row that left a link out.
  var failures = 0
  /// Until when none is asked for.
  var restUntil: MonotonicInstant?
  /// Whether this device would lead next, and waits or has waited for the leader's word of what it does not know.
  var isDeputy = false
}

/// Knowing links ahead.
///
/// The leader has measured its own for the plan, mostly before anybody computed. It tells all that may lead after it, and
/// they take each link of their own to be as the way by the leader: so do plans with links between two others. A survey
/// of the deputy's own takes every device's time in the first steps, and measures links under load.
extension JobCoordinator {
  /// The links that are known, in the order of the devices: what a plan is made with for which nobody has time to measure.
  package var knownLinks: [DeviceLink] { surveying.links.values.sorted { $0.device < $1.device } }

  /// Asks for a survey while this device leads, or would lead next, and there is a link that it does not know.
  mutating func surveyAhead(at now: MonotonicInstant) {
    if let request = surveying.request {
      guard hasPassed(JobLimits.surveyWait, since: request.since, at: now) else { return }
      endSurvey(isWhole: false, at: now)
    }
    // A job that stands still, or has not begun, has other work; its leader measures for itself.
    guard committedStep > 0, state == .running else { return }
    let isLeading = leader(at: now) == own
    let isDeputy = !isLeading && deputy(at: now) == own
    surveying.isDeputy = surveying.isDeputy && isDeputy
    guard isLeading || isDeputy else { return }
    surveying.links = surveying.links.filter { membership.reachable.contains($0.key) }
    surveying.measured.formIntersection(membership.reachable)
    let wanted = linkedDevices
    if isLeading { tellLinks(to: wanted) }
    guard !wanted.isSubset(of: surveying.links.keys) else { return }
    if wanted != surveying.wanted || isDeputy && !surveying.isDeputy {
      restAnew(wanted, isLeading: isLeading, at: now)
    }
    if let rest = surveying.restUntil, rest > now { return wake(at: rest) }
    surveying.number += 1
    surveying.request = LinkSurveying.Request(number: surveying.number, since: now)
    wake(at: now.advanced(by: JobLimits.surveyWait))
    effects.append(.survey(request: surveying.number))
  }

  /// Other links are wanted, or this device has just become the deputy: what could not be measured before says nothing of
  /// who has come, and the leader's word comes first.
  private mutating func restAnew(_ wanted: Set<DeviceID>, isLeading: Bool, at now: MonotonicInstant) {
    surveying.failures = 0
    if let rest = surveying.restUntil {
      surveying.restUntil = min(rest, now.advanced(by: JobLimits.surveyInterval))
    }
    surveying.wanted = wanted
    surveying.isDeputy = !isLeading
    if !isLeading {
      let turn = now.advanced(by: JobLimits.deputyWait)
      surveying.restUntil = max(surveying.restUntil ?? turn, turn)
    }
  }

  /// The devices to which a session leads, and that have not said that they take no part.
  ///
  /// They need not be prepared: the link to a device that has just come is measured while it prepares itself.
  private var linkedDevices: Set<DeviceID> {
    membership.reachable.intersection(membership.alive).filter {
      $0 != own && declines[$0] == nil && !(devices[$0]?.isLeaving ?? false)
    }
  }

  /// Tells those who decide of this device's links, once after they were measured or heard of.
  ///
  /// That a link is gone is not told: they see that themselves.
  private mutating func tellLinks(to wanted: Set<DeviceID>) {
    // Without the link to a device itself nothing follows for its own.
    let unaware = decree.roster.devices.filter {
      wanted.contains($0) && surveying.links[$0] != nil && !surveying.told.contains($0)
    }
    if unaware.isEmpty { return }
    surveying.told.formUnion(unaware)
    let links = knownLinks.filter { wanted.contains($0.device) }.prefix(JobLimits.roster)
    for device in unaware { say(.links(Array(links)), to: device) }
  }

  /// The leader's links: this device's own are taken to be as the way by the leader, but for those that it has measured.
  mutating func receive(_ links: [DeviceLink], from sender: DeviceID, at now: MonotonicInstant) {
    guard sender == leader(at: now), let shared = links.first(where: { $0.device == own }) else {
      return drop()
    }
    let toLeader = DeviceLink(
      to: sender, bytesPerSecond: shared.bytesPerSecond, roundTrip: shared.roundTrip)
    let others = links.filter { $0.device != own && $0.device != sender }
    surveying.links = surveying.links.filter { surveying.measured.contains($0.key) }
    for link in [toLeader] + others.map(toLeader.continued)
    where !surveying.measured.contains(link.device) {
      surveying.links[link.device] = link
    }
    surveying.told = []
  }

  mutating func surveyed(_ number: UInt64?, _ measured: [DeviceLink], at now: MonotonicInstant) {
    if let number, surveying.request?.number != number { return drop() }
    for link in measured { surveying.links[link.device] = link }
    surveying.measured = Set(measured.map(\.device))
    surveying.told = []
    guard number != nil else {
      // Measured for a plan.
      surveying.restUntil = now.advanced(by: JobLimits.surveyInterval)
      return
    }
    endSurvey(isWhole: surveying.wanted.isSubset(of: surveying.measured), at: now)
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
