import ArgumentParser
import FoundationEssentials
import HearthNode

/// `hearth profile`.
struct ProfileCommand: ReportingCommand {
  static let configuration = CommandConfiguration(
    commandName: "profile",
    abstract: "Measure what plans need to know of this device: layers, memory, disk and links.",
    discussion: """
      Measures the parts of a model and of the side network beside it with the code that trains: blocks, \
      embeddings and head, forward and backward, with random weights on all cores at once; the activation cache \
      and the optimizer; then the memory and the disk that a plan may use. Takes a few seconds and writes (and \
      removes) up to 64 MiB at a time.

      While 'hearth up' runs it also measures the links to the other devices that are here: the round trip, and \
      the rate by at most 16 MiB for each link.

      --household FILE puts the device and its links into a household file for 'hearth plan --devices', which is \
      made if there is none. Take one file from device to device and run this on each: it then holds all devices \
      and all links. --json has the same entry as 'device' and 'links' (docs/PLANNING.md).

      Example:
        hearth profile
        hearth profile --household home.json
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

  @Option(help: ArgumentHelp("Household file that gets this device and its links.", valueName: "file"))
  var household: String?

  @OptionGroup var reporting: ReportingOptions

  func validate() throws {
    try check("--length", length, in: 1...4096)
    try check("--reduction", reduction, in: 1...64)
  }

  func run() throws {
    let environment = ProcessInfo.processInfo.environment
    var request = PlanRequest(model: model)
    request.length = length
    request.reduction = reduction
    let shape = try request.shape()
    // First, while this process leaves the processors to the daemons.
    let links = try LinkSurveyAnswer.ask(environment: environment, isRequired: household != nil)
    var profile = try LocalProfile.measure(shape, environment: environment)
    profile.add(links)
    if let household { try HouseholdFile.update(household, with: profile) }
    try OutputStream.standard.write(reporting.json ? jsonLine(profile) + "\n" : profile.text)
  }
}
