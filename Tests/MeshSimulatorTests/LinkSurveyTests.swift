import Determinism
import MeshPeer
import MeshSimulator
import Testing

/// Link surveys in a simulated home: what they find, and that nobody is suspected for them.
@Suite struct LinkSurveyTests {
  private func record(
    seed: UInt64, bytesPerSecond: Int = 12_500_000, surveys: Bool,
    change: (inout SimulationPlan) -> Void = { _ in }
  ) throws -> RunRecord {
    var plan = try #require(Scenario.named("quiet")).plan(seed: seed, devices: 4)
    plan.conditions.bytesPerSecond = bytesPerSecond
    plan.idleWindow = nil
    if surveys {
      for device in 0..<4 {
        for time in stride(from: 60.0 + 20 * Double(device), to: 170, by: 40) {
          plan.steps.append(ScenarioStep(time, .measureLinks(device)))
        }
      }
    }
    change(&plan)
    plan.steps.sort { $0.time < $1.time }
    return RunReport(of: plan).record
  }

  // 100 Mbit/s, and a wireless link at the edge of its range.
  @Test("Surveys measure every link and raise no suspicion", arguments: [12_500_000, 250_000], [1, 2, 3])
  func quiet(bytesPerSecond: Int, seed: UInt64) throws {
    let without = try record(seed: seed, bytesPerSecond: bytesPerSecond, surveys: false)
    let with = try record(seed: seed, bytesPerSecond: bytesPerSecond, surveys: true)
    #expect(with.hasPassed, "\(with.violations.map(\.text))")
    #expect(with.suspicions <= without.suspicions)
    #expect(with.disconnections == without.disconnections && with.falseRemovals == 0)
    #expect(with.links.count >= 12)
    for link in with.links {
      // Surveys of two devices at once may find each other busy.
      if link.measurement.gap == .busy { continue }
      #expect(link.measurement.gap == nil, "device \(link.from)")
      let rate = try #require(link.measurement.bytesPerSecond)
      // The simulated link carries headers too, and its delay varies from packet to packet.
      #expect(rate <= 1.05 * Double(bytesPerSecond), "\(rate)")
      #expect((link.measurement.roundTrip ?? .zero) >= .microseconds(600))
    }
    #expect(with.links.count { $0.measurement.gap == nil } >= 12)
  }

  @Test("A link that is cut during a survey ends it with a reason and breaks no rule", arguments: [1, 2, 3])
  func cut(seed: UInt64) throws {
    let record = try record(seed: seed, surveys: true) {
      $0.isLossOnly = false
      for time in stride(from: 60.01, to: 120, by: 7.3) {
        $0.steps.append(ScenarioStep(time, .partition([0, 0, 1, 1])))
        $0.steps.append(ScenarioStep(time + 3, .mend))
      }
      $0.steps.removeAll { $0.fault == .settled }
      $0.steps.append(ScenarioStep(125, .settled))
    }
    #expect(record.hasPassed, "\(record.violations.map(\.text))")
    #expect(record.links.allSatisfy { $0.measurement.gap != nil || $0.measurement.bytesPerSecond != nil })
    #expect(!record.links.isEmpty)
  }
}
