import CryptoPrimitives
import FineTuning
import HearthStorage
import LanguageModels

/// Which adapter is to be folded into its model, and where the result goes.
package struct MergeRequest: Sendable, Equatable {
  /// Directory of a Full or LoRA adapter, or of a LoRA adapter in PEFT's layout.
  package var adapterDirectory: String
  /// Directory of the model; nil uses the one that the adapter names.
  package var modelDirectory: String?
  /// New or empty directory for the merged model.
  package var output: String

  /// A merge of an adapter with the model that it names.
  package init(adapterDirectory: String, output: String) {
    self.adapterDirectory = adapterDirectory
    self.output = output
    modelDirectory = nil
  }
}

/// What a merge made.
package struct MergeSummary: Sendable, Equatable, Encodable {
  /// Directory of the merged model.
  package var modelDirectory: String
  /// The technique of the adapter.
  package var technique: String
  /// Number of weights.
  package var parameters: Int
  /// Content digest of the weights.
  package var digest: String
  /// What a person should know.
  package var warnings: [String]

  /// What a person reads.
  package var text: String {
    tableLines([
      ["model:", modelDirectory], ["adapter folded in:", technique], ["parameters:", grouped(parameters)],
      ["digest:", digest],
    ]).joined(separator: "\n") + "\n"
  }
}

/// Files of a model directory, beside the weights, that a merged model keeps.
private let keptFiles = [
  "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
  "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model",
]

/// Writes a model directory whose weights are those of a model with an adapter folded in.
package func mergeAdapter(_ request: MergeRequest) throws -> MergeSummary {
  try RunPreflight.checkInputDirectory(request.adapterDirectory, role: "adapter directory")
  try RunPreflight.checkNewDirectory(request.output)
  let adapter = try OpenedAdapter(request.adapterDirectory, modelDirectory: request.modelDirectory)
  guard let weights = adapter.model.weights else { preconditionFailure("a model opens with its weights") }
  let merged = try MergedWeights(
    base: weights, backbone: adapter.backbone, configuration: adapter.description.technique,
    parameters: adapter.parameters)
  let source = ModelFolder(adapter.model.directory)
  guard let configuration = try source.region(named: "config.json") else {
    preconditionFailure("a model without config.json was opened")
  }
  let written = WrittenModel(
    layout: merged.layout, configuration: Array(configuration.bytes), source: source, keptFiles: keptFiles)
  try written.write(to: request.output) { entry, range, part in try merged.fill(entry, range, into: part) }
  // What was written has to load: a model that only looks finished would be found out much later.
  let made = try ModelDirectory.load(ModelFolder(request.output))
  var warnings = adapter.warnings
  if adapter.technique.head != .languageModel {
    warnings.append(
      "the adapter's task head has no place in the model; a new adapter has to learn its own, "
        + "or use the adapter as it is")
  }
  return MergeSummary(
    modelDirectory: request.output, technique: adapter.description.technique.name,
    parameters: made.checkpoint.parameterCount, digest: made.checkpoint.digest.description,
    warnings: warnings)
}
