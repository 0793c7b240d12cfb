import ComputeRuntime
import FineTuning
import FoundationEssentials
import HearthStorage
package import LanguageModels

/// What `hearth bench techniques` measures.
package struct TechniqueBenchmarkRequest: Sendable {
  /// Models.
  package var shapes: [ModelShape] = [.t5Base, .bartLarge, .t5Large]
  /// Techniques.
  package var techniques: [MeasuredTechnique] = MeasuredTechnique.allCases
  /// Rates of dropout; with more than 0 only what offers it, and by default only on T5-Base.
  package var dropouts: [Float] = [0, 0.1]
  /// Shapes that are measured with dropout.
  package var dropoutShapes: [ModelShape] = [.t5Base]
  /// Compute threads.
  package var threads = 2
  /// Counted rounds of each case.
  package var rounds = 3
  /// Directory of models, caches and results.
  package var directory: String
  /// This program.
  package var executable: String
  /// A Python with PyTorch, transformers and PEFT; nil measures Hearth alone.
  package var python: String?
  /// The peer's worker.
  package var peerScript: String?
  /// Whether results of an earlier run are kept and their cases left out.
  package var resumes = true

  /// Everything at its default.
  package init(directory: String, executable: String) {
    self.directory = directory
    self.executable = executable
  }

  /// All cases, in the order of the table.
  package var cases: [TechniqueCase] {
    shapes.flatMap { shape in
      dropouts.flatMap { dropout in
        techniques.compactMap { technique in
          guard dropout == 0 || technique.offersDropout && dropoutShapes.contains(shape) else { return nil }
          return TechniqueCase(shape: shape, technique: technique, dropout: dropout, threads: threads)
        }
      }
    }
  }
}

/// Measures fine-tuning by every technique on models of true shape, beside PyTorch where that is to be had.
///
/// Slow drift touches neighbouring steps alike, so steps of both sides alternate and the figure that counts is the median
/// of the ratios of neighbours. Results are kept as they come: a run that was interrupted goes on behind the last case.
package struct TechniqueBenchmark {
  private let request: TechniqueBenchmarkRequest
  private let report: (String) -> Void

  /// A benchmark that says what it does through `report`.
  package init(_ request: TechniqueBenchmarkRequest, report: @escaping (String) -> Void) {
    self.request = request
    self.report = report
  }

  private var resultsPath: String { request.directory + "/technique-results.json" }

  /// Measures what is not there yet and returns the results of all cases.
  package func run() throws -> [TechniqueResult] {
    try createDirectory(request.directory)
    var results = request.resumes ? try earlierResults() : []
    let cases = request.cases
    for (index, measured) in cases.enumerated() {
      if results.contains(where: { $0.measured == measured && ($0.peer != nil || request.python == nil) }) {
        report("\(measured.name): taken from the earlier run")
        continue
      }
      report("\(measured.name): \(index + 1) of \(cases.count)")
      let model = "\(request.directory)/\(measured.shape.rawValue)"
      try RandomModel.write(measured.shape, to: model)
      let result = try measure(measured, model: model)
      results.removeAll { $0.measured == measured }
      results.append(result)
      try AtomicFile.write(Array(try jsonLine(results).utf8), to: resultsPath)
    }
    return cases.compactMap { measured in results.first { $0.measured == measured } }
  }

  private func earlierResults() throws -> [TechniqueResult] {
    guard let data = try? Data(contentsOf: URL(filePath: resultsPath)) else { return [] }
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    guard let results = try? decoder.decode([TechniqueResult].self, from: data) else {
      throw RunFailure.badInput(
        role: "earlier results", path: resultsPath, detail: "remove the file, or measure with --fresh")
    }
    return results
  }

  // MARK: One case

  private func measure(_ measured: TechniqueCase, model: String) throws -> TechniqueResult {
    let costs = try measured.costs(samples: measured.samples)
    var result = TechniqueResult(
      measured: measured, hearth: TechniqueResult.Side(), peer: nil, paired: false, ratios: [],
      othersShare: [], forwardOperations: costs.forward, backwardOperations: costs.backward)
    if measured.technique == .cached {
      (result.forwardOperations, result.backwardOperations) = (costs.cachedForward, costs.cachedBackward)
    }
    let available = MachineProfile.current().availableMemory
    let (own, theirs) = (try measured.expectedBytes(), try measured.expectedPeerBytes())
    func lacking(_ bytes: Int) -> String? {
      bytes > available ? "needs \(ByteCount(bytes)), \(ByteCount(available)) are free" : nil
    }
    result.hearth.skipped = lacking(own)
    if request.python != nil { result.peer = TechniqueResult.Side(skipped: lacking(theirs)) }
    let runsOwn = result.hearth.skipped == nil
    let runsPeer = result.peer != nil && result.peer?.skipped == nil
    result.paired = runsOwn && runsPeer && own + theirs <= available
    if result.paired {
      try rounds(&result, own: startOwn(measured, model), peer: startPeer(measured))
    } else {
      if runsOwn { try rounds(&result, own: startOwn(measured, model), peer: nil) }
      if runsPeer { try rounds(&result, own: nil, peer: startPeer(measured)) }
    }
    return result
  }

  private func startOwn(_ measured: TechniqueCase, _ model: String) throws -> MeasuringProcess {
    try MeasuringProcess(
      request.executable,
      [
        "bench", "worker", "--model", model, "--cache",
        "\(request.directory)/cache-\(measured.shape.rawValue)", "--case",
        try jsonLine(measured),
      ])
  }

  private func startPeer(_ measured: TechniqueCase) throws -> MeasuringProcess {
    guard let python = request.python, let script = request.peerScript else {
      preconditionFailure("a peer was not asked for")
    }
    let workload = "\(request.directory)/workload.json"
    let lengths = [Int](repeating: measured.sourceTokens, count: measured.samples)
    try AtomicFile.write(
      Array(
        """
        {"name": "fixed", "decoder_tokens": \(measured.targetTokens), "batches": \([lengths, lengths])}

        """.utf8), to: workload)
    let scenario = measured.technique == .parallel ? "parallel-live" : measured.technique.rawValue
    return try MeasuringProcess(
      python,
      [
        script, "--scenario", scenario, "--workload", workload, "--shape", measured.shape.rawValue,
        "--threads",
        "\(measured.threads)", "--dropout", "\(measured.dropout)", "--rank", "\(measured.rank)",
      ])
  }

  /// One uncounted round and then the counted ones, with both sides in turn.
  private func rounds(
    _ result: inout TechniqueResult, own: MeasuringProcess?, peer: MeasuringProcess?
  ) throws {
    let processes = [own, peer].compactMap { $0 }
    defer { for process in processes { process.close() } }
    for round in 0...request.rounds {
      let before = use(processes)
      let start = MonotonicClock.seconds()
      let ours = try own?.ask("step", as: TechniqueWorkerService.Timing.self)
      let theirs = try peer?.ask("step", as: TechniqueWorkerService.Timing.self)
      let forward = try own?.ask("forward", as: TechniqueWorkerService.Timing.self)
      let elapsed = MonotonicClock.seconds() - start
      guard round > 0 else { continue }
      if let ours, let forward {
        result.hearth.step.append(ours.seconds)
        result.hearth.forward.append(forward.seconds)
      }
      if let theirs {
        result.peer?.step.append(theirs.seconds)
        if let forward = theirs.forward { result.peer?.forward.append(forward) }
      }
      if let ours, let theirs { result.ratios.append(theirs.seconds / ours.seconds) }
      let after = use(processes)
      let strangers = max(0, (after.machine - before.machine) - (after.own - before.own))
      result.othersShare.append(strangers / (elapsed * Double(MachineProfile.current().onlineCores)))
    }
    if let own {
      let memory = try own.ask("memory", as: TechniqueWorkerService.Memory.self)
      result.hearth.peakBytes = memory.peakBytes
      result.hearth.planned = own.ready.planned
      result.hearth.trainableParameters = own.ready.trainableParameters
    }
    if let peer {
      let memory = try peer.ask("memory", as: TechniqueWorkerService.Memory.self)
      result.peer?.peakBytes = memory.peakBytes
      result.peer?.trainableParameters = peer.ready.trainableParameters
    }
    try checkNetworks(result)
  }

  /// A ratio of times says nothing when the two sides train different networks.
  private func checkNetworks(_ result: TechniqueResult) throws {
    let ours = result.hearth.trainableParameters
    guard let theirs = result.peer?.trainableParameters, ours > 0, theirs > 0, ours != theirs else { return }
    throw RunFailure.badInput(
      role: "comparison", path: result.measured.name,
      detail:
        "Hearth trains \(grouped(ours)) parameters and PyTorch \(grouped(theirs)); these are different networks"
    )
  }

  /// Processor seconds of all processes, and of the measuring ones with this one.
  private func use(_ processes: [MeasuringProcess]) -> (machine: Double, own: Double) {
    let identifiers = processes.map(\.identifier) + [ProcessorUse.ownProcess]
    return (
      ProcessorUse.machineSeconds() ?? 0,
      identifiers.reduce(0) { $0 + (ProcessorUse.seconds(process: $1) ?? 0) }
    )
  }
}
