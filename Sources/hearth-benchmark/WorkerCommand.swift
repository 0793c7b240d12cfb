import ArgumentParser
import ComputeRuntime
import FineTuning
import HearthNode
import TensorKernels

/// What a worker measures.
enum ScenarioName: String, ExpressibleByArgument, CaseIterable {
  /// The whole frozen model with its head.
  case forward
  /// A first-epoch step: frozen forward, cache write, training of the side network.
  case live = "parallel-live"
  /// A later step: the side network trained from the cache on disk.
  case cached = "parallel-cached"
}

/// Options that all measuring commands share.
struct WorkerOptions: ParsableArguments {
  @Option(help: "Directory of a T5 model.")
  var model: String

  @Option(help: "JSON file with the lengths of each mini-batch.")
  var workload: String

  @Option(help: "Directory of the activation caches, one a workload.")
  var cache: String

  @Option(help: "Compute threads.")
  var threads: Int = 2

  @Option(name: .customLong("micro-batch"), help: "Samples of a micro-batch.")
  var microBatch: Int = 4

  @Option(help: "Seed of weights and token ids.")
  var seed: UInt64 = 1

  func validate() throws {
    guard threads > 0, microBatch > 0 else {
      throw ValidationError("--threads and --micro-batch must be positive")
    }
  }
}

/// Runs steps of one scenario on request: one line in, one line of JSON out.
///
/// After set-up it writes `{"ready":true,…}`. `step` runs one step, `workload PATH` changes the batches,
/// `memory` tells what the process holds, `sgemm` times the forward's products in OpenBLAS alone, `quit` ends.
struct WorkerCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "worker",
    abstract: "Run steps of one scenario on request, for paired measurements.",
    discussion: """
      Commands on standard input: step, workload PATH, memory, sgemm, quit. Answers are lines of JSON.
      """)

  @Option(help: "What to measure: \(ScenarioName.allCases.map(\.rawValue).joined(separator: ", ")).")
  var scenario: ScenarioName

  @OptionGroup var options: WorkerOptions

  @Option(name: .customLong("side-heads"), help: "Heads of a side block; 0: as many as the backbone has.")
  var sideHeads: Int = 0

  func run() throws {
    let blas = BLASCore.select()
    let team = ComputeTeam(width: options.threads)
    let scenario = try makeScenario(team: team)
    let allocations = AllocationCount()
    try answer(ReadyAnswer(scenario: scenario, threads: team.width, blas: blas))
    while let line = readLine() {
      let words = line.split(separator: " ", maxSplits: 1).map(String.init)
      switch words.first {
      case "step":
        try scenario.prepareStep()
        let before = allocations?.total
        let start = MonotonicClock.seconds()
        let samples = try scenario.step()
        let seconds = MonotonicClock.seconds() - start
        let counted = allocations.flatMap { count in before.map { count.total - $0 } }
        try answer(StepAnswer(seconds: seconds, samples: samples, allocations: counted))
      case "workload" where words.count == 2:
        try scenario.use(try WorkloadFile(path: words[1]))
        try answer(WorkloadAnswer(workload: scenario.workload.name, batches: scenario.workload.batches.count))
      case "memory":
        guard let memory = ProcessMemory.current() else { throw BenchmarkFailure.noMemoryFigures }
        try answer(MemoryAnswer(memory))
      case "sgemm":
        let products = scenario.products
        try answer(SgemmAnswer(seconds: products.blasSeconds(team: team), gigaflop: products.gigaflop))
      case "quit": return
      default: throw BenchmarkFailure.unknownCommand(line)
      }
    }
  }

  private func makeScenario(team: ComputeTeam) throws -> any Scenario {
    let workload = try WorkloadFile(path: options.workload)
    switch scenario {
    case .forward: return try ForwardScenario(options, workload: workload, team: team)
    case .live, .cached:
      return try TrainingScenario(
        scenario == .live ? .live : .cached, options, sideHeads: sideHeads, workload: workload, team: team)
    }
  }

  private func answer(_ value: some Encodable) throws {
    try OutputStream.standard.write(try jsonLine(value) + "\n")
  }
}

/// Steps of one kind over the mini-batches of a workload, in turn.
protocol Scenario: AnyObject {
  /// The workload at hand.
  var workload: WorkloadFile { get }
  /// Trained parameters; 0 when nothing is trained.
  var trainableParameters: Int { get }
  /// The products of the backbone's forward over the first mini-batch.
  var products: ForwardProducts { get }
  /// Changes the mini-batches.
  func use(_ workload: WorkloadFile) throws
  /// Work before the clock starts: drawing token ids.
  func prepareStep() throws
  /// Runs the next step; returns its number of samples.
  func step() throws -> Int
}
