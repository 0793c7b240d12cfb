import MeshSimulator
import Testing

/// Whole jobs in virtual time: production coordinators, rings and handovers, and everything goes wrong.
@Suite struct JobScenarioTests {
  /// Runs seeds of a scenario; whatever fails is recorded with the command that repeats it.
  @discardableResult
  static func run(_ name: String, seeds: ClosedRange<UInt64>) throws -> JobRunSummary {
    let scenario = try #require(JobScenario.named(name))
    var summary = JobRunSummary()
    for seed in seeds {
      let report = JobRunReport(of: scenario.plan(seed: seed))
      summary.add(report)
      if !report.record.hasPassed { Issue.record("\(report.text.joined(separator: "\n"))") }
    }
    #expect(summary.passed == seeds.count)
    return summary
  }

  @Test(arguments: JobScenario.all.map(\.name).filter { $0 != "job" })
  func theRulesHoldInEveryScenarioOfAJob(_ name: String) throws {
    try Self.run(name, seeds: 1...25)
  }

  @Test(arguments: 0..<8)
  func theRulesHoldForAJobWithEverythingAtOnce(_ part: Int) throws {
    let first = UInt64(part) * 25 + 1
    try Self.run("job", seeds: first...(first + 24))
  }

  @Test func theSameSeedIsTheSameRunByteForByte() throws {
    let scenario = try #require(JobScenario.named("job"))
    for seed in UInt64(1)...5 {
      let first = JobRunReport(of: scenario.plan(seed: seed))
      let second = JobRunReport(of: scenario.plan(seed: seed), keepingLines: true)
      #expect(first.digest == second.digest)
      #expect(first.record.eventCount == second.record.eventCount)
    }
  }

  @Test func aQuietJobRepeatsNoStep() throws {
    let scenario = try #require(JobScenario.named("job-quiet"))
    for seed in UInt64(1)...10 {
      let report = JobRunReport(of: scenario.plan(seed: seed, devices: 2))
      #expect(report.record.hasPassed)
      #expect(report.record.repeated == 0)
    }
  }

  @Test func aStepThatWasBegunSlowlyGoesOnAtTheNewPace() throws {
    var plan = try #require(JobScenario.named("job-quiet")).plan(seed: 1, devices: 2)
    let quiet = try #require(JobRunReport(of: plan).record.finished)
    for device in 0..<2 {
      plan.steps += [
        JobStep(quiet / 2, .slow(device, times: 1_000)), JobStep(quiet / 2 + 1, .slow(device, times: 1)),
      ]
    }
    plan.steps.sort { $0.time < $1.time }
    let report = JobRunReport(of: plan)
    #expect(report.record.hasPassed)
    // The second in which next to nothing is computed, and a beat of the clocks that tell the end.
    let finished = try #require(report.record.finished)
    #expect(finished > quiet + 0.5 && finished < quiet + 3)
  }

  /// A device was restarted between a plan and the run of it; the others waited 30 s for a boundary of the run before.
  @Test(arguments: [(700_873, 6), (701_102, 3)] as [(UInt64, Int)])
  func nobodyWaitsForABoundaryOfARunThatADeviceHasLost(_ seed: UInt64, _ devices: Int) throws {
    let report = JobRunReport(of: try #require(JobScenario.named("job")).plan(seed: seed, devices: devices))
    #expect(report.record.hasPassed, "\(report.text.joined(separator: "\n"))")
  }

  @Test func allFaultsAreOverWhenAJobIsJudged() throws {
    let scenario = try #require(JobScenario.named("job"))
    // The last seed had a device killed after all faults were said to be over.
    for seed in Array(UInt64(1)...2_000) + [702_161] {
      let steps = scenario.plan(seed: seed).steps
      let isFaulty = steps.contains { if case .start = $0.fault { false } else { true } }
      #expect(!isFaulty || steps.last?.fault == .settled, "seed \(seed)")
    }
  }

  @Test func aFailureNamesTheCommandThatRepeatsIt() throws {
    var plan = try #require(JobScenario.named("job-quiet")).plan(seed: 3, devices: 3)
    plan.misbehaviours = [JobPlan.Misbehaviour(device: 1, kind: .losesUnit)]
    let report = JobRunReport(of: plan)
    #expect(!report.record.hasPassed)
    let command = "hearth simulate --seed 3 --scenario job-quiet --devices 3 --trace"
    #expect(report.text.contains { $0.contains(command) })
  }
}

/// A check that cannot fail proves nothing: each rule is broken on purpose.
@Suite struct JobCheckerTests {
  /// The rules that the first run with a broken one finds when these devices misbehave.
  private func brokenRules(
    _ kind: JobMisbehaviour, in names: [String], seeds: ClosedRange<UInt64> = 1...40,
    by devices: Range<Int> = 0..<JobPlan.deviceLimit
  ) throws -> Set<JobRule> {
    for seed in seeds {
      for name in names {
        var plan = try #require(JobScenario.named(name)).plan(seed: seed)
        plan.misbehaviours = devices.clamped(to: 0..<plan.deviceCount).map {
          JobPlan.Misbehaviour(device: $0, kind: kind)
        }
        let report = JobRunReport(of: plan)
        if !report.record.hasPassed { return Set(report.record.violations.map(\.rule)) }
      }
    }
    return []
  }

  @Test func aSampleThatIsLostIsSeen() throws {
    #expect(try brokenRules(.losesUnit, in: ["job-quiet"]) == [.sameValues])
  }

  @Test func aSampleThatCountsTwiceIsSeen() throws {
    #expect(try brokenRules(.doublesUnit, in: ["job-quiet"]) == [.sameValues])
  }

  @Test func aStepThatIsAppliedWithoutTheOthersSharesIsSeen() throws {
    #expect(try brokenRules(.waitsForNobody, in: ["job-quiet"]).isSubset(of: [.sameValues, .runFits]))
    #expect(try !brokenRules(.waitsForNobody, in: ["job-quiet"]).isEmpty)
  }

  /// Without the fence late messages get into the sums; with it the same seeds come to the adapter of the quiet run.
  @Test func messagesOfAnotherPlanEpochThatAreTakenAreSeen() throws {
    let scenario = try #require(JobScenario.named("job-late"))
    var (fenced, broken) = (0, 0)
    for seed in UInt64(1)...60 {
      var plan = scenario.plan(seed: seed)
      let report = JobRunReport(of: plan)
      #expect(report.record.hasPassed, "\(report.text.joined(separator: "\n"))")
      guard report.record.fencedInRun > 0 else { continue }
      fenced += 1
      plan.misbehaviours = (0..<plan.deviceCount).map {
        JobPlan.Misbehaviour(device: $0, kind: .ignoresStamps)
      }
      if !JobRunReport(of: plan).record.hasPassed { broken += 1 }
    }
    #expect(fenced > 0)
    #expect(broken > 0)
  }

  @Test func aRecordThatWasNotWrittenIsSeen() throws {
    let broken = try brokenRules(.neverPersists, in: ["job-crash", "job-power"])
    #expect(!broken.isDisjoint(with: [.recordsGrow, .onePlanPerEpoch, .ends, .advances, .effectsFit]))
  }

  @Test func aTornCheckpointThatIsTrustedIsSeen() throws {
    #expect(
      try !brokenRules(.trustsTornCheckpoints, in: ["job-crash", "job-power"], seeds: 1...150)
        .isDisjoint(with: [.sameValues, .sameAdapter]))
  }

  @Test func anotherPlanThanTheOneThatWasAgreedOnIsSeen() throws {
    #expect(try !brokenRules(.startsAnotherPlan, in: ["job-quiet"], by: 0..<1).isEmpty)
  }
}
