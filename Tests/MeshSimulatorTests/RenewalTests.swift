import Determinism
import MeshSimulator
import Testing

/// New keys for sessions that last for days, in virtual time.
@Suite struct RenewalTests {
  private static let hour = 3_600.0

  private func report(
    hours: Double, seed: UInt64 = 1, devices: Int = 3, change: (inout SimulationPlan) -> Void = { _ in }
  ) throws -> RunReport {
    var plan = try #require(Scenario.named("days")).plan(seed: seed, devices: devices)
    plan.duration = .seconds(Int(hours * Self.hour))
    change(&plan)
    plan.steps.sort { $0.time < $1.time }
    return RunReport(of: plan)
  }

  @Test func overDaysEachPairRenewsItsSessionOnceADayWithoutAGapOrALostFrame() throws {
    // A run and its own first hour: what differs is what the days brought.
    let first = try report(hours: 1).record
    let run = try report(hours: 50)
    let record = run.record
    #expect(record.hasPassed, "\(run.text.joined(separator: "\n"))")
    // Three pairs, two days: one new session a day each, both ends counted, so no two sides dialled at once.
    #expect(record.renewals - first.renewals == 6)
    #expect(record.sessionCount - first.sessionCount == 12)
    #expect(record.disconnections == first.disconnections)
    #expect(record.suspicions == first.suspicions)
    #expect(record.falseRemovals == 0)
  }

  @Test func aLossyNetworkOnlyDelaysARenewal() throws {
    let lossy: (inout SimulationPlan) -> Void = {
      $0.conditions.lossPerMillion = 50_000
      $0.conditions.meanExtraDelay = .milliseconds(4)
      $0.sessionAgeLimit = .seconds(24 * 3_600 + 600)
    }
    for seed in [1, 2] as [UInt64] {
      let run = try report(hours: 25, seed: seed, change: lossy)
      #expect(run.record.hasPassed, "\(run.text.joined(separator: "\n"))")
      #expect(run.record.renewals >= 3)
    }
  }

  @Test func aDeviceBehindAFirewallRenewsItsSessionsItself() throws {
    let run = try report(hours: 25, devices: 2) { $0.steps.append(ScenarioStep(0, .inbound(0, .dropped))) }
    #expect(run.record.hasPassed, "\(run.text.joined(separator: "\n"))")
    #expect(run.record.renewals == 1)
    #expect(run.record.disconnections == 0)
  }

  @Test func whereTheSideThatDialledNoLongerGetsThroughTheOtherRenewsAnHourLater() throws {
    // Whoever dialled first: one of the two has to wait for the other.
    var waited = 0
    for closed in 0..<2 {
      let run = try report(hours: 26, devices: 2) {
        $0.steps.append(ScenarioStep(10 * Self.hour, .inbound(closed, .rejected)))
        $0.sessionAgeLimit = .seconds(25 * 3_600 + 120)
      }
      #expect(run.record.hasPassed, "\(run.text.joined(separator: "\n"))")
      #expect(run.record.renewals == 1)
      #expect(run.record.disconnections == 0)
      let early = try report(hours: 24.9, devices: 2) {
        $0.steps.append(ScenarioStep(10 * Self.hour, .inbound(closed, .rejected)))
        $0.sessionAgeLimit = .seconds(25 * 3_600)
      }
      if early.record.renewals == 0 { waited += 1 }
    }
    #expect(waited == 1)
  }
}
