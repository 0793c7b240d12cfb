import ArgumentParser
import HearthNode
import MeshSimulator

/// `hearth simulate`.
struct SimulateCommand: ReportingCommand {
  static let configuration = CommandConfiguration(
    commandName: "simulate",
    abstract: "Run a simulated household in virtual time and check that the mesh keeps its promises.",
    discussion: """
      Everything is decided by the seed: the same seed and scenario give the same run, byte for byte, on every \
      machine. The digest that is printed covers all that happened. A run that fails prints the command that \
      repeats it.

      Scenarios:
      \(Scenario.all.map { "  \($0.name): \($0.summary)" }.joined(separator: "\n"))
        all: each of them but loss-hour and days

      Scenarios with a job, whose devices come and go:
      \(JobScenario.all.map { "  \($0.name): \($0.summary)" }.joined(separator: "\n"))

      Ends with code 0 when every rule held in every run, else with 70.

      Example:
        hearth simulate --scenario partition --seed 7
        hearth simulate --scenario swarm --seed 1 --seeds 500
        hearth simulate --scenario job --seed 1 --seeds 500
      """)

  /// More seeds than anybody waits for.
  private static let seedLimit = 10_000_000
  /// Runs of a job between two lines that say how far it is.
  private static let progressInterval = 500

  @OptionGroup var reporting: ReportingOptions

  @Option(help: ArgumentHelp("The seed of the (first) run.", valueName: "s"))
  var seed: UInt64 = 1

  @Option(help: ArgumentHelp("How many seeds are run, from that one on.", valueName: "n"))
  var seeds = 1

  @Option(help: ArgumentHelp("What happens in the run.", valueName: "name"))
  var scenario = "swarm"

  @Option(
    help: ArgumentHelp(
      "Devices of the household, 2 to 32, with a job to \(JobPlan.deviceLimit). (default: the scenario's own)",
      valueName: "n"))
  var devices: Int?

  @Flag(help: "Print every event with its virtual time.")
  var trace = false

  func validate() throws {
    let jobs = JobScenario.all.map(\.name)
    try check("--scenario", scenario, among: Scenario.all.map(\.name) + ["all"] + jobs)
    try check(
      "--devices", devices,
      in: 2...(jobs.contains(scenario) ? JobPlan.deviceLimit : SimulationPlan.deviceLimit))
    try check("--seeds", seeds, in: 1...Self.seedLimit)
    guard seed.addingReportingOverflow(UInt64(seeds)).overflow == false else {
      throw ValidationError("--seed \(seed) and --seeds \(seeds) go beyond the last seed")
    }
  }

  func run() throws {
    if let job = JobScenario.named(scenario) { return try run(job) }
    var summary = RunSummary()
    let chosen = Scenario.all.filter { scenario == "all" ? !$0.isLong : $0.name == scenario }
    for seed in seed..<(seed + UInt64(seeds)) {
      for scenario in chosen {
        let report = RunReport(of: scenario.plan(seed: seed, devices: devices), keepingLines: trace)
        summary.add(report)
        try write(report, isOnly: seeds == 1 && chosen.count == 1)
      }
    }
    let output = reporting.json ? OutputStream.diagnostics : OutputStream.standard
    let isOnly = seeds == 1 && chosen.count == 1
    try output.write((isOnly ? [summary.verdict] : summary.text).joined(separator: "\n") + "\n")
    if summary.failed > 0 { throw ExitCode(ExitReason.internalDefect.rawValue) }
  }

  private func run(_ scenario: JobScenario) throws {
    var summary = JobRunSummary()
    let text = reporting.json ? OutputStream.diagnostics : OutputStream.standard
    for seed in seed..<(seed + UInt64(seeds)) {
      let report = JobRunReport(of: scenario.plan(seed: seed, devices: devices), keepingLines: trace)
      summary.add(report)
      if reporting.json { try OutputStream.standard.write(jsonLine(JobRunFacts(report)) + "\n") }
      for line in report.lines { try text.write(line + "\n") }
      if seeds == 1 || !report.record.hasPassed {
        try text.write(report.text.joined(separator: "\n") + "\n")
      }
      let done = summary.passed + summary.failed
      if done % Self.progressInterval == 0, done < seeds {
        try OutputStream.diagnostics.write("\(done) of \(seeds): \(summary.verdict)\n")
      }
    }
    try text.write((seeds == 1 ? [summary.verdict] : summary.text).joined(separator: "\n") + "\n")
    if summary.failed > 0 { throw ExitCode(ExitReason.internalDefect.rawValue) }
  }

  private func write(_ report: RunReport, isOnly: Bool) throws {
    let text = reporting.json ? OutputStream.diagnostics : OutputStream.standard
    if reporting.json { try OutputStream.standard.write(jsonLine(RunFacts(report)) + "\n") }
    for line in report.lines { try text.write(line + "\n") }
    if isOnly || !report.record.hasPassed {
      try text.write(report.text.joined(separator: "\n") + "\n")
    }
  }
}

/// A broken rule in JSON.
private struct BrokenRule: Encodable {
  let seconds: Double
  let rule: String
  let text: String

  init<Rule: RawRepresentable<String>>(_ violation: Violation<Rule>) {
    seconds = violation.seconds
    rule = violation.rule.rawValue
    text = violation.text
  }
}

/// A run as a line of JSON.
private struct RunFacts: Encodable {
  let scenario: String
  let seed: UInt64
  let devices: Int
  let passed: Bool
  let events: Int
  let trace: String
  let violations: [BrokenRule]
  let detectionSeconds: [Double]
  let startSeconds: [Double]
  let wakeSeconds: [Double]
  let agreementSeconds: Double
  let falseRemovals: Int
  let idleBytesPerSecond: Double?
  let command: String

  init(_ report: RunReport) {
    let record = report.record
    scenario = report.plan.scenario
    seed = report.plan.seed
    devices = report.plan.deviceCount
    passed = record.hasPassed
    events = record.eventCount
    trace = report.digestText
    violations = record.violations.map { BrokenRule($0) }
    detectionSeconds = record.detections
    startSeconds = record.returns.filter { $0.kind == .start }.map(\.seconds)
    wakeSeconds = record.returns.filter { $0.kind == .wake }.map(\.seconds)
    agreementSeconds = record.agreementTime
    falseRemovals = record.falseRemovals
    idleBytesPerSecond = record.idleBytesPerSecond
    command = report.replayCommand
  }
}

/// A run of a job as a line of JSON.
private struct JobRunFacts: Encodable {
  let scenario: String
  let seed: UInt64
  let devices: Int
  let passed: Bool
  let events: Int
  let trace: String
  let violations: [BrokenRule]
  let planEpochs: Int
  let repeatedSteps: Int
  let controlMessages: Int
  let recoverySeconds: Double?
  let finishedSeconds: Double?
  let command: String

  init(_ report: JobRunReport) {
    let record = report.record
    scenario = report.plan.scenario
    seed = report.plan.seed
    devices = report.plan.deviceCount
    passed = record.hasPassed
    events = record.eventCount
    trace = report.digestText
    violations = record.violations.map { BrokenRule($0) }
    planEpochs = record.planEpochs
    repeatedSteps = record.repeated
    controlMessages = record.controlMessages
    recoverySeconds = record.recovery
    finishedSeconds = record.finished
    command = report.replayCommand
  }
}
