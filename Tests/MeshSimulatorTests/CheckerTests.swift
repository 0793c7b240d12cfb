import MeshSimulator
import Testing

/// Every checker must be able to fail: devices that break the rules, and what is seen of it.
@Suite struct CheckerTests {
  private func broken(
    _ name: String, seed: UInt64 = 1, _ kind: Misbehaviour?, device: Int = 1,
    change: (inout SimulationPlan) -> Void = { _ in }
  ) throws -> Set<SimulationRule> {
    let scenario = try #require(Scenario.named(name))
    var plan = scenario.plan(seed: seed)
    if let kind { plan.misbehaviours = [PlannedMisbehaviour(device: device, kind: kind)] }
    change(&plan)
    return Set(RunReport(of: plan).record.violations.map(\.rule))
  }

  @Test func aDeviceThatAnswersNoProbeAndNeverRefutesIsAFalseRemovalAndADisagreement() throws {
    #expect(try broken("quiet", .deaf) == [.noFalseRemoval, .viewsAgree])
  }

  @Test func aDeviceThatKeepsItsSessionsWithARevokedOneIsSeen() throws {
    let rules = try broken("revocation", .keepsRevoked) { plan in
      plan.steps.removeAll { if case .partition = $0.fault { true } else { false } }
    }
    #expect(rules == [.noRevokedSession])
  }

  @Test func aDiskThatOnlySaysThatItSyncedIsSeen() throws {
    let rules = try broken("crash", .neverSyncs) { plan in
      plan.steps = (0..<plan.deviceCount).map { ScenarioStep(0, .start($0)) }
      // The device refutes a suspicion, forgets its boot counter, and is back where it was.
      plan.steps += [
        ScenarioStep(10, .suspend(1)), ScenarioStep(16, .resume(1)), ScenarioStep(25, .losePower(1)),
        ScenarioStep(45, .start(1)),
      ]
    }
    #expect(rules.isSuperset(of: [.bootCounterGrows, .logGrowsOnly, .incarnationGrowsOnly]))
  }

  @Test func datagramsOverTheLimitAreSeen() throws {
    #expect(try broken("loss", .oversizedDatagrams).contains(.smallDatagrams))
  }

  @Test func aDeviceThatForgetsTheLogAtItsStartIsSeen() throws {
    let rules = try broken("quiet", .forgetsLog) { plan in
      plan.steps += [
        ScenarioStep(20, .renewKey(by: 0)), ScenarioStep(30, .kill(1)), ScenarioStep(31, .start(1)),
      ]
    }
    #expect(rules.contains(.logGrowsOnly))
  }

  @Test func aTableOverItsLimitIsSeen() throws {
    #expect(try broken("quiet", nil) { $0.strictestLimit = 1 } == [.boundedQueues])
  }

  @Test func aSessionThatIsOlderThanItMayBeIsSeen() throws {
    #expect(try broken("quiet", nil) { $0.sessionAgeLimit = .seconds(100) } == [.sessionsStayYoung])
  }

  @Test func framesThatASessionLosesWhenAnotherTakesItsPlaceAreSeen() throws {
    // When all start at once both sides of each pair dial and have much to say.
    var found: Set<SimulationRule> = []
    for seed in 1...8 as ClosedRange<UInt64> where found.isEmpty {
      found = try broken("quiet", seed: seed, .breaksBeforeMake)
    }
    #expect(found == [.renewalLosesNoFrame])
  }

  @Test func aCloneThatNobodyCanSeeIsReportedAsUnnoticed() throws {
    let rules = try broken("clone", nil) { plan in
      for device in 0..<plan.deviceCount {
        plan.steps += [
          ScenarioStep(0, .cut(from: device, to: plan.deviceCount)),
          ScenarioStep(0, .cut(from: plan.deviceCount, to: device)),
        ]
      }
      plan.steps.sort { $0.time < $1.time }
    }
    #expect(rules == [.cloneIsNoticed])
  }

  @Test func aPathThatShouldBeBlockedAndIsNotIsSeen() throws {
    #expect(try broken("quiet", nil) { $0.expectedBlocked = [2] } == [.blockedPathIsShown])
  }

  @Test func aDeviceThatIsAbsentForAnotherReasonThanItsVersionsIsSeen() throws {
    // Its datagrams and connections are cut, so nobody learns that its versions are the reason.
    let rules = try broken("versions", nil) { plan in
      let last = plan.deviceCount - 1
      for device in 0..<last {
        plan.steps += [
          ScenarioStep(0, .cut(from: device, to: last)), ScenarioStep(0, .cut(from: last, to: device)),
        ]
      }
      plan.steps.sort { $0.time < $1.time }
    }
    #expect(rules == [.absenceHasReason])
  }

  @Test func aFailureNamesTheCommandThatRepeatsIt() throws {
    let scenario = try #require(Scenario.named("quiet"))
    var plan = scenario.plan(seed: 77)
    plan.strictestLimit = 1
    let report = RunReport(of: plan)
    #expect(report.text.last == "  repeat: hearth simulate --seed 77 --scenario quiet --devices 5 --trace")
  }
}
