import MeshSimulator
import Testing

@Suite struct ReplayTests {
  @Test(arguments: ["swarm", "churn", "clone", "real-handshake"])
  func aSeedGivesTheSameRunByteForByte(_ name: String) throws {
    let scenario = try #require(Scenario.named(name))
    let first = RunReport(of: scenario.plan(seed: 42))
    let again = RunReport(of: scenario.plan(seed: 42))
    #expect(first.digest == again.digest)
    #expect(first.traceCount == again.traceCount)
    #expect(first.traceCount > 1_000, "a digest of nothing proves nothing")
  }

  @Test func keepingTheLinesChangesNothing() throws {
    let scenario = try #require(Scenario.named("swarm"))
    let silent = RunReport(of: scenario.plan(seed: 7))
    let told = RunReport(of: scenario.plan(seed: 7), keepingLines: true)
    #expect(silent.digest == told.digest)
    #expect(silent.lines.isEmpty)
    #expect(told.lines.count == told.traceCount)
  }

  @Test func anotherSeedGivesAnotherRun() throws {
    let scenario = try #require(Scenario.named("quiet"))
    #expect(RunReport(of: scenario.plan(seed: 1)).digest != RunReport(of: scenario.plan(seed: 2)).digest)
  }

  @Test(arguments: Scenario.all.map(\.name))
  func thePrintedCommandNamesTheSameRun(_ name: String) throws {
    let scenario = try #require(Scenario.named(name))
    let plan = scenario.plan(seed: 9)
    // The command gives the number of devices, also where the seed chose it.
    let replayed = scenario.plan(seed: 9, devices: plan.deviceCount)
    #expect(replayed.steps == plan.steps)
    #expect(replayed.conditions == plan.conditions)
    #expect(replayed.duration == plan.duration)
  }
}
