import MeshSimulator
import Testing

@Suite struct ScenarioTests {
  /// Runs seeds of a scenario; whatever fails is recorded with the command that repeats it.
  @discardableResult
  static func run(_ name: String, seeds: ClosedRange<UInt64>, devices: Int? = nil) throws -> RunSummary {
    let scenario = try #require(Scenario.named(name))
    var summary = RunSummary()
    for seed in seeds {
      let report = RunReport(of: scenario.plan(seed: seed, devices: devices))
      summary.add(report)
      if !report.record.hasPassed { Issue.record("\(report.text.joined(separator: "\n"))") }
    }
    #expect(summary.passed == seeds.count)
    return summary
  }

  @Test(arguments: Scenario.all.filter { !$0.isLong }.map(\.name).filter { $0 != "swarm" })
  func theRulesHoldInEveryScenario(_ name: String) throws {
    try Self.run(name, seeds: 1...4)
  }

  @Test(arguments: 0..<8)
  func theRulesHoldWithEverythingAtOnce(_ part: Int) throws {
    let first = UInt64(part) * 15 + 1
    try Self.run("swarm", seeds: first...(first + 14))
  }

  @Test(arguments: [3, 6, 12])
  func aCrashIsDetectedWithinTwelveSecondsAndInTheMedianWithinEight(_ devices: Int) throws {
    let summary = try Self.run("crash", seeds: 1...(devices == 12 ? 8 : 20), devices: devices)
    let times = Percentiles(summary.detections)
    #expect(times.at(0.99) <= 12)
    #expect(times.at(0.5) <= 8.5)
    // Nobody is given up before the shortest suspicion is over.
    #expect(times.at(0) >= 6)
  }

  @Test func aDeviceThatSleptIsBackWithinThreeSeconds() throws {
    let summary = try Self.run("sleep", seeds: 11...25)
    #expect(summary.wakes.count == 30, "one sleeper and one stopped process a run")
    #expect(Percentiles(summary.wakes).at(1) <= 3)
  }

  @Test(arguments: [3, 12])
  func anIdleDeviceSendsAtMostSixHundredBytesASecond(_ devices: Int) throws {
    let summary = try Self.run("quiet", seeds: 1...2, devices: devices)
    #expect(Percentiles(summary.idle).at(1) <= 600)
    #expect(Percentiles(summary.idle).at(0) > 50, "a mesh that is silent detects nothing")
  }

  @Test func theHandshakesStandInOpensTheSameSessionsAsTheRealOne() throws {
    let scenario = try #require(Scenario.named("real-handshake"))
    var plan = scenario.plan(seed: 5)
    let real = RunReport(of: plan)
    plan.usesRealHandshake = false
    let standIn = RunReport(of: plan)
    #expect(real.record.hasPassed && standIn.record.hasPassed)
    #expect(real.digest != standIn.digest)
    #expect(real.record.sessionCount == standIn.record.sessionCount)
    #expect(real.record.detections.count == standIn.record.detections.count)
  }
}
