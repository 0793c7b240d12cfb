import ArgumentParser
import HearthNode

/// `hearth inspect`.
struct InspectCommand: ReportingCommand {
  static let configuration = CommandConfiguration(
    commandName: "inspect",
    abstract: "Say what a directory or file is: model, adapter, run, cache or safetensors.",
    discussion: """
      Tells sizes, shapes, element types, what can be tapped, and digests. Two models, adapters or caches \
      with the same digest are the same. Weights are read completely, so a damaged file is found.

      Example:
        hearth inspect minilm
        hearth inspect sentiment --json
        hearth inspect minilm/model.safetensors
      """)

  @Argument(help: ArgumentHelp("Directory or .safetensors file.", valueName: "path"))
  var path: String

  @OptionGroup var reporting: ReportingOptions

  func run() throws {
    let inspection = try Inspector.inspect(path)
    try OutputStream.standard.write(reporting.json ? jsonLine(inspection) + "\n" : inspection.text)
  }
}
