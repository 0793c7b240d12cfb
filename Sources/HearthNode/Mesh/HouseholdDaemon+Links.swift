import Logging
import MeshPeer
import MeshTransport

extension HouseholdDaemon {
  /// Measures the links and answers when all are done; several commands at once share one survey.
  func answerLinks(_ request: LocalControlRequest) async throws {
    guard !isOver else { throw HouseholdFailure.refused("the daemon stops; run 'hearth up' again") }
    guard let links = await measuredLinks() else {
      throw HouseholdFailure.refused("the daemon stops; run 'hearth up' again")
    }
    var event = ControlEvent(.links)
    event.links = LinkSurveyReport(links, household: peer.household)
    try await request.answer(ControlCoding.line(event))
  }

  /// The links to all other members; nil when the daemon stops.
  func measuredLinks() async -> [LinkMeasurement]? {
    if isOver { return nil }
    return await withCheckedContinuation { waiting in
      linkWaiters.append(waiting)
      handle(.measureLinks)
    }
  }

  /// Ends all waiting for the survey; nil when nothing will come of it.
  func tellLinkWaiters(_ links: [LinkMeasurement]?) {
    for link in links ?? [] {
      log.debug(
        "link-measured",
        metadata: ["peer": "\(name(of: link.device))", "gap": "\(link.gap?.rawValue ?? "none")"])
    }
    let waiting = linkWaiters
    linkWaiters = []
    for waiter in waiting { waiter.resume(returning: links) }
  }
}
