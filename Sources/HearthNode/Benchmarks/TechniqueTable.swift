import FineTuning
import LanguageModels

/// The results of `hearth bench techniques` as tables.
package struct TechniqueTable {
  private let results: [TechniqueResult]

  /// Tables of the given results.
  package init(_ results: [TechniqueResult]) { self.results = results }

  /// Markdown, which is also readable as text.
  package var markdown: String {
    var text = "### Seconds a step (batch 16 × 128 tokens, 4 target tokens, float32)\n\n"
    text += table(
      [
        "model", "technique", "forward", "backward and update", "step", "backward / forward", "PyTorch step",
        "times faster", "paper, s/sample", "others",
      ], results.map(times))
    text += "\n### Memory (GiB)\n\n"
    text += table(
      [
        "model", "technique", "trained", "weights", "activations", "gradients, optimizer", "planned",
        "measured peak",
        "PyTorch peak", "of PyTorch", "paper (Table 1)",
      ], results.map(memory))
    text += "\n### Operations (TFLOP a mini-batch)\n\n"
    text += table(
      [
        "model", "technique", "forward, ours", "backward, ours", "forward, as in Fig. 3",
        "backward, as in Fig. 3",
        "paper's Fig. 3",
      ], results.map(operations))
    return text + notes
  }

  private var notes: String {
    """

    Medians of alternated steps; "times faster" is the median of the ratios of neighbouring steps. "Others" is the largest
    share of the machine that strangers took in a counted round. Activations are the buffers of all compute threads:
    Hearth holds those of its micro-batches, PyTorch those of the whole mini-batch. The paper measured seconds on Jetson
    Nanos (its Fig. 8a), so only ratios within a column compare. LoRA has rank 8 here, as in the PyTorch worker, and 32 in the
    paper.

    """
  }

  private func table(_ head: [String], _ rows: [[String]]) -> String {
    let lines = [head, head.map { _ in "---" }] + rows
    return lines.map { "| " + $0.joined(separator: " | ") + " |\n" }.joined()
  }

  private func label(_ result: TechniqueResult) -> [String] {
    let measured = result.measured
    let dropout = measured.dropout > 0 ? ", dropout \(decimal(Double(measured.dropout), 1))" : ""
    return [measured.shape.rawValue, measured.technique.rawValue + dropout]
  }

  private func times(_ result: TechniqueResult) -> [String] {
    let (ours, peer) = (result.hearth, result.peer)
    let ratio = ours.backwardSeconds.flatMap { backward in ours.forwardSeconds.map { backward / $0 } }
    let paper = PaperFigures.secondsPerSample(result.measured.shape, result.measured.technique)
    return label(result) + [
      seconds(ours.forwardSeconds), seconds(ours.backwardSeconds),
      ours.skipped ?? seconds(ours.stepSeconds), ratio.map { decimal($0, 2) } ?? "",
      peer.map { $0.skipped ?? seconds($0.stepSeconds) } ?? "",
      result.speedup.map { decimal($0, 2) } ?? unpairedRatio(ours, peer),
      paper.map { "\(decimal($0.forward, 3)) + \(decimal($0.backward, 3))" } ?? "",
      result.othersShare.max().map { "\(decimal($0 * 100, 0)) %" } ?? "",
    ]
  }

  /// Two runs after one another, where memory did not suffice for both at a time.
  private func unpairedRatio(_ ours: TechniqueResult.Side, _ peer: TechniqueResult.Side?) -> String {
    guard let own = ours.stepSeconds, let theirs = peer?.stepSeconds else { return "" }
    return decimal(theirs / own, 2) + " (not alternated)"
  }

  private func memory(_ result: TechniqueResult) -> [String] {
    let (ours, peer) = (result.hearth, result.peer)
    let planned = ours.planned
    let paper = PaperFigures.memory(result.measured.shape, result.measured.technique)
    let share =
      peer.map { $0.peakBytes > 0 && ours.peakBytes > 0 ? Double(ours.peakBytes) / Double($0.peakBytes) : 0 }
      ?? 0
    return label(result) + [
      ours.trainableParameters > 0 ? grouped(ours.trainableParameters) : "",
      gibibytes(planned?.weights), gibibytes(planned?.activations),
      gibibytes(planned.map { $0.gradientSums + $0.optimizer }), gibibytes(planned?.total),
      gibibytes(ours.peakBytes), gibibytes(peer?.peakBytes), share > 0 ? "\(decimal(share * 100, 0)) %" : "",
      paper.map {
        "\(decimal($0.weights, 2)) + \(decimal($0.activations, 2)) + \(decimal($0.gradients, 2))"
      } ?? "",
    ]
  }

  private func operations(_ result: TechniqueResult) -> [String] {
    let measured = result.measured
    // The paper's figures have one target token and no language-model head.
    let costs = try? TechniqueCosts(
      measured.shape.architecture, technique: measured.configuration, head: .classes(2),
      workload: CostWorkload(samples: measured.samples, encoderLength: measured.sourceTokens),
      counting: .paper)
    let isCached = measured.technique == .cached
    let paper = PaperFigures.teraoperations(measured.shape, measured.technique)
    return label(result) + [
      tera(result.forwardOperations), tera(result.backwardOperations),
      tera(isCached ? costs?.cachedForward : costs?.forward),
      tera(isCached ? costs?.cachedBackward : costs?.backward),
      paper.map { "\(decimal($0.forward, 3)) / \(decimal($0.backward, 3))" } ?? "",
    ]
  }

  private func seconds(_ value: Double?) -> String { value.map { decimal($0, $0 < 1 ? 3 : 2) } ?? "" }
  private func tera(_ value: Int?) -> String { value.map { decimal(Double($0) / 1e12, 3) } ?? "" }
  private func gibibytes(_ value: Int?) -> String {
    value.map { $0 > 0 ? decimal(Double($0) / Double(1 << 30), 2) : "" } ?? ""
  }
}
