import Determinism
import Logging
import MeshModel
import MeshPeer
import MeshTransport

extension HouseholdDaemon {
  /// Answers `hearth pause` and `hearth resume`: kept first, then told to the jobs and to the household.
  func answerPause(_ request: LocalControlRequest, _ message: ControlRequest) async throws {
    guard !isOver else { throw HouseholdFailure.refused("the daemon stops; run 'hearth up' again") }
    let record = PauseRecord(stateDirectory: options.stateDirectory)
    if message.command == .pauseDevice {
      let words = DevicePause.plain(message.reason ?? "")
      try record.store(words)
      pause.pause(words)
    } else {
      try record.store(nil)
      pause.resume()
    }
    await tellPause()
    var event = ControlEvent(.done)
    event.pause = await pauseReport()
    try await request.answer(ControlCoding.line(event))
  }

  /// Looks at the power supply when that is due; what follows from it is told.
  func watchPower() {
    let now = DeviceClocks.now().monotonic
    guard pause.isDue(at: now) else { return }
    pause.note(PowerSupplies(folder: options.powerFolder).power, at: now)
    if pause.reason != toldPause { Task { await tellPause() } }
  }

  /// Tells the jobs and the household whether this device takes part; one after the other, so that the last word holds.
  func tellPause() async {
    guard !isTellingPause else { return }
    isTellingPause = true
    while toldPause != pause.reason, !isOver {
      let reason = pause.reason
      toldPause = reason
      log.info(reason == nil ? "resumed" : "paused", metadata: reason.map { ["reason": "\($0)"] } ?? [:])
      updateTraits()
      if let reason { await jobService?.pauseDevice(reason) } else { await jobService?.resumeDevice() }
    }
    isTellingPause = false
    tellWatchers()
  }

  private func pauseReport() async -> PauseReport {
    let jobs = await jobService?.jobs() ?? []
    let own = peer.own.description
    return PauseReport(
      isPaused: pause.reason != nil, reason: pause.reason, isRunning: true,
      jobs: jobs.filter { job in
        !job.state.isOver && job.devices.contains { $0.device == own && $0.place != nil }
      }.map { PauseReport.Job(job: $0.id, name: $0.name) })
  }
}
