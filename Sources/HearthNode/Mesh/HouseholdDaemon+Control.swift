import CryptoPrimitives
import HearthStorage
import HouseholdTrust
import MeshModel
import MeshPeer
import MeshProtocol
import MeshTransport

extension HouseholdDaemon {
  /// Answers one command; ends when the answer does or the command has gone.
  func answer(_ request: LocalControlRequest) async {
    do {
      let message = try ControlCoding.decode(ControlRequest.self, request.line)
      switch message.command {
      case .status: try await answerStatus(request, watch: message.watch ?? false)
      case .diagnosis:
        var event = ControlEvent(.diagnosis)
        event.diagnosis = meshDiagnosis
        try await request.answer(ControlCoding.line(event))
      case .links: try await answerLinks(request)
      case .invite: try await invite(request, message)
      case .answer: try await decide(request, message)
      case .revoke, .promote, .demote, .recover: try await change(request, message)
      case .leave: try await leaveHousehold(request)
      case .submit, .jobs, .watchJob, .stopJob, .adoptJob: try await answerJobs(request, message)
      case .pauseDevice, .resumeDevice: try await answerPause(request, message)
      }
    } catch {
      var event = ControlEvent(.failed)
      event.message = "\(error)"
      event.reason = CommandEnd(error).reason.rawValue
      try? await request.answer(ControlCoding.line(event))
    }
    await request.finish()
  }

  private func answerStatus(_ request: LocalControlRequest, watch isWatching: Bool) async throws {
    if isWatching && isLeaving { throw JobServiceFailure.stopping }
    let (id, reports) = watch()
    defer { endWatch(id) }
    // A command that has gone must not be kept until something happens.
    let closed = Task { [weak self] in
      await request.closed()
      await self?.endWatch(id)
    }
    defer { closed.cancel() }
    for await report in reports {
      var event = ControlEvent(.status)
      event.status = report
      try await request.answer(ControlCoding.line(event))
      if !isWatching { return }
    }
  }

  // MARK: - Changes of the household

  private func change(_ request: LocalControlRequest, _ message: ControlRequest) async throws {
    var household = peer.household
    var entropy = SystemEntropy()
    let change = try household.apply(message, entropy: &entropy)
    var event = ControlEvent(.done)
    event.name = change.target.map { name(of: $0) }
    event.device = change.target?.description
    handle(.trust(change.entries))
    if let storeFailure { throw storeFailure }
    try await request.answer(ControlCoding.line(event))
  }

  private func leaveHousehold(_ request: LocalControlRequest) async throws {
    var household = peer.household
    var event = ControlEvent(.done)
    event.told = 0
    // A device that was removed has nothing to say any more.
    if !household.isRevoked {
      let entry = try household.leave()
      event.told = peer.status(at: DeviceClocks.now()).devices.count { !$0.isSelf && $0.standing == .full }
      handle(.trust([entry]))
    }
    await withdraw(.left)
    do {
      try doors.directory.erase()
    } catch {
      event = ControlEvent(.failed)
      event.message = "\(error)"
    }
    try? await request.answer(ControlCoding.line(event))
    await request.finish()
    await end()
  }
}
