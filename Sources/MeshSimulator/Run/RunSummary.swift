/// What many runs found and measured together.
package struct RunSummary: Sendable {
  /// Runs in which every rule held.
  package private(set) var passed = 0
  /// Runs in which one did not.
  package private(set) var failed = 0
  /// Events of all runs.
  package private(set) var eventCount = 0
  /// Seconds from a crash to each other device's "unreachable".
  package private(set) var detections: [Double] = []
  /// Seconds from a start to being in again.
  package private(set) var starts: [Double] = []
  /// Seconds from a wake-up to being in again.
  package private(set) var wakes: [Double] = []
  /// Bytes a second of each run's idle device.
  package private(set) var idle: [Double] = []
  /// Seconds from the end of the faults to the last disagreement of each run.
  package private(set) var agreements: [Double] = []
  /// How often a running device that could be reached was taken for unreachable.
  package private(set) var falseRemovals = 0

  /// Of no runs yet.
  package init() {}

  /// Adds a run.
  package mutating func add(_ report: RunReport) {
    let record = report.record
    if record.hasPassed { passed += 1 } else { failed += 1 }
    eventCount += record.eventCount
    detections += record.detections
    starts += record.returns.filter { $0.kind == .start }.map(\.seconds)
    wakes += record.returns.filter { $0.kind == .wake }.map(\.seconds)
    if let bytes = record.idleBytesPerSecond { idle.append(bytes) }
    agreements.append(record.agreementTime)
    falseRemovals += record.falseRemovals
  }

  /// The measurements in lines for a person, and last how many runs passed and failed.
  package var text: [String] {
    var text: [String] = []
    func line(_ name: String, _ values: [Double], _ unit: String) {
      if !values.isEmpty { text.append("\(name): \(Percentiles(values).text) \(unit)") }
    }
    line("crash to unreachable", detections, "s")
    line("start to in", starts, "s")
    line("wake-up to in", wakes, "s")
    line("faults over to agreement", agreements, "s")
    line("idle", idle, "B/s a device")
    text.append("\(eventCount) events, \(falseRemovals) false removals")
    text.append(verdict)
    return text
  }

  /// How many runs passed and failed.
  package var verdict: String { "\(passed) passed, \(failed) failed" }
}
