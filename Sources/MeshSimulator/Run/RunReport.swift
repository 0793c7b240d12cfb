package import CryptoPrimitives

/// The outcome of one run, as it is printed.
package struct RunReport: Sendable {
  /// What was run.
  package let plan: SimulationPlan
  /// What was found and measured.
  package let record: RunRecord
  /// The digest of everything that happened.
  package let digest: ContentDigest
  /// How much happened.
  package let traceCount: Int
  /// The lines of the trace, when they were wanted.
  package let lines: [String]

  /// Runs a plan.
  package init(of plan: SimulationPlan, keepingLines: Bool = false) {
    var simulation = Simulation(plan, keepingLines: keepingLines)
    simulation.run()
    self.plan = plan
    record = simulation.record
    digest = simulation.trace.digest()
    traceCount = simulation.trace.count
    lines = simulation.trace.lines
  }

  /// The digest in hexadecimal.
  package var digestText: String { digest.description }

  /// The one command that repeats the run byte for byte.
  package var replayCommand: String {
    "hearth simulate --seed \(plan.seed) --scenario \(plan.scenario) --devices \(plan.deviceCount)"
  }

  /// The result in lines for a person.
  package var text: [String] {
    let verdict = record.hasPassed ? "passed" : "FAILED"
    var text = [
      "\(verdict)  \(plan.scenario) seed \(plan.seed), \(plan.deviceCount) devices, "
        + "\(Int(plan.duration.inWholeSeconds)) s, \(record.eventCount) events, trace \(digest.description.prefix(16))"
    ]
    for violation in record.violations {
      text.append("  \(violation.time) \(violation.rule.rawValue): \(violation.text)")
    }
    if !record.detections.isEmpty {
      text.append("  detected after \(Percentiles(record.detections).text) s")
    }
    for kind in [DeviceReturn.Kind.start, .wake] {
      let times = record.returns.filter { $0.kind == kind }.map(\.seconds)
      if !times.isEmpty { text.append("  back after \(kind.rawValue) in \(Percentiles(times).text) s") }
    }
    if let idle = record.idleBytesPerSecond {
      text.append(
        "  idle: \(Int(idle)) B/s a device, and \(Int(record.idleMulticastBytesPerSecond ?? 0)) B/s to all")
    }
    text.append(
      "  \(record.sessionCount) session ends, \(record.suspicions) suspicions, "
        + "\(record.falseRemovals) false removals")
    if !record.hasPassed { text.append("  repeat: \(replayCommand) --trace") }
    return text
  }
}

/// The middle and the ends of some measurements.
package struct Percentiles: Sendable {
  private let sorted: [Double]

  /// Of these measurements, which may not be none.
  package init(_ values: [Double]) {
    precondition(!values.isEmpty, "percentiles of nothing")
    sorted = values.sorted()
  }

  /// The smallest measurement that at least this share of all does not exceed (nearest rank).
  package func at(_ share: Double) -> Double {
    let rank = (share * Double(sorted.count)).rounded(.up)
    return sorted[min(max(Int(rank) - 1, 0), sorted.count - 1)]
  }

  /// p50, p99 and the largest, with two decimals.
  package var text: String {
    "p50 \(decimals(at(0.5))), p99 \(decimals(at(0.99))), max \(decimals(at(1))) (\(sorted.count))"
  }
}

/// A number with two decimals.
package func decimals(_ value: Double) -> String {
  let hundredths = Int((value * 100).rounded())
  let fraction = String(hundredths % 100)
  return "\(hundredths / 100).\(fraction.count == 1 ? "0" : "")\(fraction)"
}

extension Duration {
  fileprivate var inWholeSeconds: Int64 { components.seconds }
}
