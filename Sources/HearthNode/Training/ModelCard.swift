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
      "\(techniqueText(description.technique)), made with Hearth.", "",
      "| | |", "|---|---|",
      "| backbone | \(model.name), digest `\(description.backboneDigest.prefix(16))…` |",
      "| task | \(taskName(description.task)) |",
      "| trained parameters | \(grouped(run.parameterCount)) |",
      "| settings | \(settingsText(description.technique)) |",
      "| training rows | \(run.sampleCount) |", "| held-out rows | \(run.validationSamples.count) |",
      "| epochs | \(results.epochs.count) |",
      "| texts | at most \(description.maximumLength) tokens |",
    ]
    if let element = description.activationElement { lines.append("| activations | \(element) |") }
    if let precision = description.gradientPrecision {
      lines.append("| gradients | \(precision.rawValue) precision |")
    }
    for (before, after) in zip(results.before, results.after) {
      lines.append(
        "| held-out \(after.name) | \(decimal(after.value, 4)) (before: \(decimal(before.value, 4))) |")
    }
    let seconds = results.epochs.reduce(0) { $0 + $1.seconds }
    lines += [
      "| training time | \(duration(seconds)) |",
      "| digest | `\(description.adapterDigest)` |", "",
      "Use it: `hearth \(run.task.head == .languageModel ? "generate" : "predict") --adapter DIR` "
        + "(add `--model DIR` where the backbone lies elsewhere).", "",
    ]
    if case .lora = description.technique {
      lines += [
        "`\(PEFTAdapter.configurationFileName)` and `\(PEFTAdapter.tensorsFileName)` are the same pairs in PEFT's layout"
          + (run.task.head == .languageModel ? "." : ", without the task's head."), "",
      ]
    }
    return lines.joined(separator: "\n")
  }

  private static func taskName(_ task: AdapterTask) -> String {
    switch task {
    case .classify(let labels):
      "classify, \(labels.count) labels: \(labels.prefix(20).joined(separator: ", "))"
    case .regress: "regress"
    case .seq2seq(let length): "seq2seq, texts of at most \(length) tokens"
    }
  }

  private static func techniqueText(_ technique: TechniqueConfiguration) -> String {
    switch technique {
    case .parallel: "Parallel Adapters (a side network over the frozen backbone's activations)"
    case .full: "Full fine-tuning (every weight of the backbone)"
    case .houlsby: "Houlsby's adapters (bottlenecks behind the frozen backbone's sub-layers)"
    case .lora: "LoRA (low-rank pairs beside the frozen backbone's linear layers)"
    }
  }

  private static func settingsText(_ technique: TechniqueConfiguration) -> String {
    switch technique {
    case .parallel(let settings): "preset \(settings.preset.rawValue), reduction \(settings.reduction)"
    case .full(let settings): "dropout \(settings.dropout)"
    case .houlsby(let settings): "reduction \(settings.reduction), dropout \(settings.dropout)"
    case .lora(let settings):
      "rank \(settings.rank), alpha \(settings.alpha), on "
        + settings.targets.map(\.rawValue).joined(separator: ", ") + ", dropout \(settings.dropout)"
    }
  }
}
