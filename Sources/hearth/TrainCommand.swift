import ArgumentParser
import FoundationEssentials
import HearthNode

/// `hearth train`.
struct TrainCommand: ReportingCommand {
  static let configuration = CommandConfiguration(
    commandName: "train",
    abstract:
      "Fine-tune a model on a data file: Parallel Adapters with an activation cache, or LoRA, Houlsby, Full.",
    discussion: """
      The first epoch runs the frozen backbone over each row and keeps its activations in a cache; the other \
      epochs train from the cache alone, without the backbone in memory. The result is a small adapter \
      directory; the model itself is never changed.

      DIR of --model is a Hugging Face directory: config.json, model.safetensors (or shards with their \
      index), and the tokenizer's files. BERT encoders, T5 (v1.0, v1.1) and BART are understood.

      Example: sentiment labels from a TSV with a header 'sentence<TAB>label'
        hearth train --model minilm --data train.tsv --task classify \\
          --output sentiment

      Example: similarity scores of sentence pairs, columns by position
        hearth train --model minilm --data pairs.csv --task regress \\
          --text-column 6 --pair-column 7 --label-column 5 --no-header \\
          --output similarity

      Example: a text for each text, JSON lines with "input" and "target"
        hearth train --model t5-small --data pairs.jsonl --task seq2seq \\
          --output translate
        echo "some text" | hearth generate --adapter translate

      Example: LoRA in place of Parallel Adapters; PEFT can load the result too
        hearth train --model minilm --data train.tsv --task classify \\
          --technique lora --rank 8 --lora-targets query,value --output sentiment-lora

      Ctrl-C stops after the step in flight and keeps the state. Going on with it gives the same adapter as \
      a run without a stop:
        hearth train --resume sentiment

      While 'hearth up' runs and other devices of the household are here, they train together, with the same \
      adapter bit for bit; --alone trains on this device only. Token ids, labels and activations go to the other \
      devices, no texts; weights go where they are missing. Devices may come and go meanwhile, this one too: the job \
      goes on, and the adapter is written here as soon as this device is back. Ctrl-C leaves the job to the household: \
      'hearth watch' shows it again, 'hearth stop' ends it, 'hearth jobs' lists all.
        hearth train --model t5-base --data pairs.jsonl --task seq2seq --planner pac --output translate
      """)

  @OptionGroup(title: "Run") var job: JobOptions
  @OptionGroup(title: "Held-out rows") var heldOut: HeldOutOptions
  @OptionGroup(title: "Adapter") var adapter: AdapterOptions
  @OptionGroup(title: "Training") var training: TrainingOptions
  @OptionGroup(title: "Activation cache") var cache: CacheOptions
  @OptionGroup(title: "Data file") var rows: DataFileOptions
  @OptionGroup(title: "Household") var household: HouseholdTrainingOptions
  @OptionGroup(title: "Household") var planner: PlannerOptions
  @OptionGroup(title: "Machine") var threads: ThreadOptions
  @OptionGroup(title: "Machine") var memory: MemoryOptions
  @OptionGroup var reporting: ReportingOptions

  func validate() throws {
    if job.resume != nil {
      let given =
        job.given + heldOut.given + adapter.given + training.given + cache.given + rows.given
        + household.given + planner.given
      guard given.isEmpty else {
        throw ValidationError(
          "\(given[0]) cannot be given with --resume: what a run learns is in its own record")
      }
      return
    }
    if household.alone, let first = planner.given.first {
      throw ValidationError("\(first) says how devices share the work, and --alone that they do not")
    }
    let missing = [
      ("--model", job.model == nil), ("--data", job.data == nil), ("--task", job.task == nil),
    ]
    for (option, isMissing) in missing where isMissing {
      throw ValidationError("\(option) is missing; 'hearth train --help' has an example")
    }
    try rows.checkFormat(among: Choices.tableFormats)
    try training.checkMicroBatch()
    if training.maxTargetLength != nil, job.task != .seq2seq {
      throw ValidationError("--max-target-length belongs to --task seq2seq")
    }
    do {
      try request(model: "", data: "", task: .classify).checkPrecision()
    } catch {
      throw ValidationError("\(error)")
    }
    if let first = cache.given.first, (adapter.technique ?? .parallel) != .parallel {
      throw ValidationError(
        "\(first) belongs to the technique parallel: a backbone that changes has no activations to keep")
    }
  }

  /// The request that the options describe.
  private func request(model: String, data: String, task: RunTask) -> TrainRequest {
    // The run's record and the adapter outlive the current directory.
    var request = TrainRequest(
      modelDirectory: absolutePath(model), dataFile: absolutePath(data), task: task,
      output: job.output ?? JobOptions.defaultOutput)
    request.data = rows.options
    request.threads = threads.threads
    request.memoryBudget = memory.memoryBudget?.bytes
    heldOut.apply(to: &request)
    adapter.apply(to: &request)
    training.apply(to: &request)
    cache.apply(to: &request)
    return request
  }

  func run() throws {
    let environment = ProcessInfo.processInfo.environment
    if let resume = job.resume { return try go(on: resume, environment: environment) }
    guard let model = job.model, let data = job.data, let task = job.task else { return }
    let request = request(model: model, data: data, task: task)
    try RunPreflight.check(request)
    switch TrainingPlace.choose(request, isAlone: household.alone, environment: environment) {
    case .household(let names): try trainTogether(request, with: names, environment: environment)
    case .alone(let note):
      if let note { try OutputStream.diagnostics.write("training on this device alone: \(note)\n") }
      let flag = stopWatch()
      var console = RunConsole(json: reporting.json, environment: environment)
      defer { console.close() }
      try console.finish(try train(request, cancellation: flag, report: { console.show($0) }))
    }
  }

  private func go(on resume: String, environment: [String: String]) throws {
    let flag = stopWatch()
    var console = RunConsole(json: reporting.json, environment: environment)
    defer { console.close() }
    try RunPreflight.checkInputDirectory(resume, role: "run directory")
    let summary = try resumeTraining(
      ResumeRequest(
        runDirectory: resume, threads: threads.threads, memoryBudget: memory.memoryBudget?.bytes),
      cancellation: flag, report: { console.show($0) })
    try console.finish(summary)
  }

  private func stopWatch() -> CancellationFlag {
    let flag = CancellationFlag()
    InterruptWatch.start(flag) {
      // Without a terminal to write to there is nobody to tell; the run still stops.
      try? OutputStream.diagnostics.write(
        "\nstopping after the step in flight; once more ends at once and loses it\n")
    }
    return flag
  }

  private func trainTogether(
    _ request: TrainRequest, with names: [String], environment: [String: String]
  ) throws {
    let flag = CancellationFlag()
    InterruptWatch.start(flag) {}
    try OutputStream.diagnostics.write(
      "training with \(names.joined(separator: ", ")); --alone trains on this device only\n")
    if threads.threads != nil {
      try OutputStream.diagnostics.write(
        "note: --threads counts for runs on this device alone; 'hearth up --threads' bounds what jobs may use\n"
      )
    }
    var console = JobConsole(json: reporting.json, environment: environment)
    defer { console.close() }
    let training = HouseholdTraining(try Here.place(), wishes: planner.wishes, cancellation: flag)
    try console.finish(try training.run(request, show: { console.show($0) }))
  }
}
