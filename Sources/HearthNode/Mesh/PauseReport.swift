import MeshTransport

/// What `hearth pause` and `hearth resume` came to.
package struct PauseReport: Codable, Sendable, Equatable {
  /// A job that this device has a part in.
  package struct Job: Codable, Sendable, Equatable {
    /// Its id, 32 hexadecimal digits.
    package var job: String
    /// What people call it.
    package var name: String

    /// A job.
    package init(job: String, name: String) {
      self.job = job
      self.name = name
    }
  }

  /// Whether the device takes no part in jobs now.
  package var isPaused: Bool
  /// Why; nil when it takes part.
  package var reason: String?
  /// Whether the daemon runs; otherwise it counts from the next `hearth up`.
  package var isRunning: Bool
  /// Jobs under way that it has a part in.
  package var jobs: [Job]

  /// A report.
  package init(isPaused: Bool, reason: String?, isRunning: Bool, jobs: [Job]) {
    self.isPaused = isPaused
    self.reason = reason
    self.isRunning = isRunning
    self.jobs = jobs
  }

  /// What a person reads.
  package var text: String {
    var lines: [String] = []
    if let reason {
      lines.append("this device takes no part in jobs (\(reason)); 'hearth resume' ends that")
    } else {
      lines.append("this device takes part in jobs again")
    }
    if !isRunning { lines.append("the daemon is not running here: it counts from the next 'hearth up'") }
    for job in jobs {
      let name = "\(job.job.prefix(8)) '\(job.name)'"
      lines.append(
        isPaused
          ? "its part of job \(name) is handed over behind the step in flight; 'hearth watch \(job.job.prefix(8))' shows it"
          : "it has a part in job \(name)")
    }
    return lines.joined(separator: "\n") + "\n"
  }
}

/// Pauses and resumes this device: through the daemon, or on the disk while it is down.
package struct PauseClient: Sendable {
  private let place: HouseholdPlace

  /// The client of a place.
  package init(_ place: HouseholdPlace) { self.place = place }

  /// Takes this device out of jobs until `resume`; it survives restarts.
  package func pause(_ words: String) throws -> PauseReport {
    var request = ControlRequest(.pauseDevice)
    request.reason = words
    return try change(request, words: DevicePause.plain(words))
  }

  /// Lets this device take part again.
  package func resume() throws -> PauseReport { try change(ControlRequest(.resumeDevice), words: nil) }

  private func change(_ request: ControlRequest, words: String?) throws -> PauseReport {
    do {
      var client = try HouseholdClient(request, place: place)
      guard let report = try client.answer().pause else {
        throw HouseholdFailure.refused(
          "the daemon did not say what came of it; use the same version of Hearth for both")
      }
      return report
    } catch is LocalControlUnavailable {
      // Without a household there is nothing to take part in, and the error says so.
      _ = try HouseholdOffice(place).household()
      try PauseRecord(stateDirectory: place.stateDirectory).store(words)
      return PauseReport(
        isPaused: words != nil, reason: DevicePause(words: words, pausesOnBattery: false).reason,
        isRunning: false, jobs: [])
    }
  }
}
