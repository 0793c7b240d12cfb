package import CryptoPrimitives

/// The outcome of one run of a job, as it is printed.
package struct JobRunReport: Sendable {
  /// What was run.
  package let plan: JobPlan
  /// What was found and measured.
  package let record: JobRunRecord
  /// The digest of everything that happened.
  package let digest: ContentDigest
  /// The lines of the trace, when they were wanted.
  package let lines: [String]

  /// The digest in hexadecimal digits.
  package var digestText: String { digest.description }

  /// Runs a plan.
  package init(of plan: JobPlan, keepingLines: Bool = false) {
    var simulation = JobSimulation(plan, keepingLines: keepingLines)
    simulation.run()
    self.plan = plan
    record = simulation.record
    digest = simulation.trace.digest()
    lines = simulation.trace.lines
  }

  /// The one command that repeats the run byte for byte.
  package var replayCommand: String {
    "hearth simulate --seed \(plan.seed) --scenario \(plan.scenario) --devices \(plan.deviceCount)"
  }

  /// The result in lines for a person.
  package var text: [String] {
    var text = [
      "\(record.hasPassed ? "passed" : "FAILED")  \(plan.scenario) seed \(plan.seed), \(plan.deviceCount) devices, "
        + "\(plan.job.totalSteps) steps, \(record.eventCount) events, trace \(digest.description.prefix(16))"
    ]
    for violation in record.violations {
      text.append("  \(violation.time) \(violation.rule.rawValue): \(violation.text)")
    }
    text.append(
      "  \(record.planEpochs) plan epochs, \(record.commits) steps applied, \(record.repeated) of them again, "
        + "\(record.controlMessages) + \(record.bulkMessages) messages, \(record.fenced) fenced off, \(record.fencedInRun) from a run"
    )
    let recovery = record.recovery.map { "; went on \(decimals($0)) s after the last fault" } ?? ""
    if let finished = record.finished { text.append("  adapter after \(decimals(finished)) s\(recovery)") }
    if !record.hasPassed { text.append("  repeat: \(replayCommand) --trace") }
    return text
  }
}

/// What many runs of jobs found and measured together.
package struct JobRunSummary: Sendable {
  /// Runs in which every rule held.
  package private(set) var passed = 0
  /// Runs in which one did not.
  package private(set) var failed = 0
  private var events = 0
  private var epochs = 0
  private var repeated = 0
  private var recoveries: [Double] = []

  /// Of no runs yet.
  package init() {}

  /// Adds a run.
  package mutating func add(_ report: JobRunReport) {
    let record = report.record
    if record.hasPassed { passed += 1 } else { failed += 1 }
    events += record.eventCount
    epochs += record.planEpochs
    repeated += record.repeated
    if let recovery = record.recovery { recoveries.append(recovery) }
  }

  /// The measurements in lines for a person, and last how many runs passed and failed.
  package var text: [String] {
    var text = ["\(events) events, \(epochs) plan epochs, \(repeated) steps of a device computed again"]
    if !recoveries.isEmpty { text.append("faults over to the next step: \(Percentiles(recoveries).text) s") }
    text.append(verdict)
    return text
  }

  /// How many runs passed and failed.
  package var verdict: String { "\(passed) passed, \(failed) failed" }
}
