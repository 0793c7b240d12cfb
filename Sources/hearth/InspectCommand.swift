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
        hearth inspect minilm --precision int8
      """)

  @Argument(help: ArgumentHelp("Directory or .safetensors file.", valueName: "path"))
  var path: String

  @Option(
    help: ArgumentHelp(
      "Also say what the model's backbone takes in this precision, and what stays float32: float32, float16, "
        + "bfloat16 or int8.",
      valueName: "precision"))
  var precision: String?

  @OptionGroup var reporting: ReportingOptions

  func validate() throws {
    if let precision { try check("--precision", precision, among: Choices.weightPrecisions) }
  }

  func run() throws {
    let inspection = try Inspector.inspect(path, precision: precision.flatMap(Choices.weightPrecision))
    try OutputStream.standard.write(reporting.json ? jsonLine(inspection) + "\n" : inspection.text)
  }
}
