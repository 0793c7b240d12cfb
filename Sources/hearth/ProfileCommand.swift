import ArgumentParser
import FoundationEssentials
import HearthNode

/// `hearth profile`.
struct ProfileCommand: ReportingCommand {
  static let configuration = CommandConfiguration(
    commandName: "profile",
    abstract: "Measure what plans need to know of this device: layers, memory and disk.",
    discussion: """
      Measures each kind of a model's layers and of the side network's beside them, forward and backward, for \
      one, two and four texts, with random weights on one core; then the memory and the disk that a plan may \
      use. --json also has the device as an entry for a household file (docs/PLANNING.md). Takes a few seconds \
      and writes (and removes) 64 MiB.

      Example:
        hearth profile
        hearth profile --model t5-large --json
      """)

  @Option(
    help: ArgumentHelp(
      "Directory of the model, or a built-in shape: \(PlanningModel.shapes.joined(separator: ", ")).",
      valueName: "dir|shape"))
  var model = "t5-base"

  @Option(help: ArgumentHelp("Tokens of a text, 1 to 4096.", valueName: "n"))
  var length = 128

  @Option(help: ArgumentHelp("The paper's k, 1 to 64.", valueName: "k"))
  var reduction = 8

  @OptionGroup var reporting: ReportingOptions

  func validate() throws {
    try check("--length", length, in: 1...4096)
    try check("--reduction", reduction, in: 1...64)
  }

  func run() throws {
    let profile = LocalProfile.measure(
      architecture: try PlanningModel.architecture(model), reduction: reduction, length: length,
      environment: ProcessInfo.processInfo.environment)
    try OutputStream.standard.write(reporting.json ? jsonLine(profile) + "\n" : profile.text)
  }
}
