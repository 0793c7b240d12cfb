import ArgumentParser

/// Measures the parts of Hearth on this machine.
@main
struct HearthBenchmark: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "hearth-benchmark", abstract: "Measure the parts of Hearth on this machine.",
    subcommands: [KernelsCommand.self])
}
