import FineTuning
import NeuralNetworks

/// The text that travels with an adapter.
enum ModelCard {
  /// A short model card in Markdown; every number in it was measured by the run.
  static func text(
    _ run: PreparedRun, model: OpenedModel, description: AdapterDescription, results: RunPosition
  ) -> String {
    var lines = [
      "# Adapter for \(model.name)", "",
      "Parallel Adapters (a side network over the frozen backbone's activations), made with Hearth.", "",
      "| | |", "|---|---|",
      "| backbone | \(model.name), digest `\(description.backboneDigest.prefix(16))…` |",
      "| task | \(taskName(description.task)) |",
      "| trained parameters | \(grouped(run.shape.parameterCount)) |",
      "| preset, reduction | \(description.configuration.preset.rawValue), \(description.configuration.reduction) |",
      "| training rows | \(run.sampleCount) |", "| held-out rows | \(run.validationSamples.count) |",
      "| epochs | \(results.epochs.count) |",
      "| activations | \(description.activationElement), texts of at most \(description.maximumLength) tokens |",
    ]
    for (before, after) in zip(results.before, results.after) {
      lines.append(
        "| held-out \(after.name) | \(decimal(after.value, 4)) (before: \(decimal(before.value, 4))) |")
    }
    let seconds = results.epochs.reduce(0) { $0 + $1.seconds }
    lines += [
      "| training time | \(duration(seconds)) |",
      "| digest | `\(description.adapterDigest)` |", "",
      "Use it: `hearth predict --adapter DIR` (add `--model DIR` where the backbone lies elsewhere).", "",
    ]
    return lines.joined(separator: "\n")
  }

  private static func taskName(_ task: AdapterTask) -> String {
    switch task {
    case .classify(let labels):
      "classify, \(labels.count) labels: \(labels.prefix(20).joined(separator: ", "))"
    case .regress: "regress"
    }
  }
}
