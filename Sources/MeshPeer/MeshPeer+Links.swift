import Determinism
import HouseholdTrust
import MeshModel
import MeshProtocol
import WireCoding

/// Link surveys: what this device measures of its links, and what it answers to others who measure theirs.
extension MeshPeer {
  /// Begins a survey; one that runs already serves as well, and so do links that have just been measured.
  mutating func measureLinks(at now: ClockReading) {
    let targets = household.view.members.map(\.device).filter { $0 != own }.map { device in
      let session = table.preferred(of: device, own: own).flatMap { $0.carriedAtInput == nil ? nil : $0 }
      return LinkSurvey.Target(
        device: device, session: session?.id, address: session?.info.listening,
        isFull: session?.info.standing == .full)
    }
    survey(.start(targets), at: now.monotonic)
  }

  /// Tells the survey what happened and does what it wants.
  mutating func survey(_ input: LinkSurvey.Input, at now: MonotonicInstant) {
    for effect in linkSurvey.handle(input, at: now) {
      switch effect {
      case .echo(let session, let request):
        send(MeshFrame(.echoRequest, request: request, body: []), on: session)
      case .dial(let address, let device):
        dialBulk(device, at: address, isForSurvey: true)
      case .burst(let session, let burst, let byteCount):
        for frame in BurstFrame.frames(of: byteCount, burst: burst) { send(frame, on: session) }
      case .close(let session):
        table[session] = nil
        effects.append(.transport(.close(session, .finished)))
      case .measured(let links): effects.append(.linksMeasured(links))
      }
    }
  }

  /// A frame on a bulk session.
  mutating func receivedBulk(_ frame: MeshFrame, on entry: SessionTable.Entry, at now: MonotonicInstant) {
    switch frame.kind {
    case .burst where entry.info.standing == .full && household.view.isMember(entry.info.peer):
      let answer = burstReceiver.take(
        frame, on: entry.id, from: entry.info.peer, isBusy: linkSurvey.isSendingBursts, at: now)
      switch answer {
      case .nothing: break
      case .report(let report): send(report.frame(answering: frame), on: entry.id)
      case .refuse(let report):
        send(report.frame(answering: frame), on: entry.id)
        endBulk(entry.id, .finished, at: now)
      case .overLimit:
        drop(.notPermitted)
        endBulk(entry.id, .overLimit, at: now)
      }
    case .burstReport:
      guard let report = try? BurstReport(decoding: frame.body) else { return drop(.malformedFrame) }
      survey(.report(entry.id, burst: frame.request, report), at: now)
    // What else a bulk session carries belongs to who opened it.
    case .bulk, .echoRequest, .echoReply: break
    default: drop(.notPermitted)
    }
  }

  /// Ends what has taken too long.
  mutating func checkLinks(at now: MonotonicInstant) {
    survey(.tick, at: now)
    if let session = burstReceiver.expired(at: now) { endBulk(session, .overLimit, at: now) }
  }

  /// A session has ended, for whatever reason.
  mutating func noteEndOfLink(_ session: SessionID, at now: MonotonicInstant) {
    burstReceiver.close(session, at: now)
    survey(.closed(session), at: now)
  }

  private mutating func endBulk(_ session: SessionID, _ reason: CloseReason, at now: MonotonicInstant) {
    table[session] = nil
    burstReceiver.close(session, at: now)
    effects.append(.transport(.close(session, reason)))
  }
}

extension BurstReport {
  fileprivate func frame(answering burst: MeshFrame) -> MeshFrame {
    MeshFrame(.burstReport, request: burst.request, body: encoded)
  }
}
