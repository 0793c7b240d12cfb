import ArgumentParser
import HearthNode

/// Measurements of the engine; `scripts/benchmark` drives them and prints the tables.
@main
struct HearthBenchmark: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "hearth-benchmark",
    abstract: "Measure Hearth's engine. scripts/benchmark runs these commands and prints the tables.",
    version: hearthVersion,
    subcommands: [
      KernelsCommand.self, WorkerCommand.self, MakeCacheCommand.self, MakeModelCommand.self,
      MeshCommand.self, PlannerCommand.self, PrecisionCommand.self, RingCommand.self, ChunksCommand.self,
    ])
}
