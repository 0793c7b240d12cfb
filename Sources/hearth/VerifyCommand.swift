import ArgumentParser
import HearthNode

/// `hearth verify`.
struct VerifyCommand: ReportingCommand {
  static let configuration = CommandConfiguration(
    commandName: "verify",
    abstract: "Check a published model's outputs against the published ones.",
    discussion: """
      Runs two short texts through the model and compares token ids, encoder states, decoder states, scores and \
      the most likely first token with what the reference implementation gives for T5-Small, T5-Base and \
      T5-Large (v1.0). So a damaged download, a wrong conversion or a defect of Hearth is found before a day of \
      training. Fine-tuned weights differ, as they should.

      Ends with code 0 when everything agrees, 69 when something differs, and 65 when no outputs of this model \
      are known.

      Example:
        hearth verify --model t5-base
      """)

  @Option(help: ArgumentHelp("Directory of the model.", valueName: "dir"))
  var model: String

  @OptionGroup var reporting: ReportingOptions

  func run() throws {
    try RunPreflight.checkModelDirectory(model)
    let verification = try verifyModel(model)
    try OutputStream.standard.write(
      reporting.json ? jsonLine(verification) + "\n" : verification.text)
    if let failure = verification.failure { throw failure }
  }
}
