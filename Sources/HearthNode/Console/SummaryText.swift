extension TrainSummary {
  /// What a person reads at the end of a run.
  package var text: String {
    var lines: [String] = []
    let place = { (value: Double?) in value.map { decimal($0, 4) } ?? "not measured" }
    lines.append("\(metric.name): \(place(metric.before)) before, \(place(metric.after)) after")
    for other in metrics where other.name != metric.name {
      lines.append("\(other.name): \(decimal(other.value, 4)) after")
    }
    let header = ["epoch", "mode", "seconds", "samples/s", "loss"]
    let rows = epochs.enumerated().map { index, epoch in
      [
        "\(index + 1)", epoch.mode.rawValue, decimal(epoch.seconds, 2), decimal(epoch.samplesPerSecond, 1),
        decimal(epoch.loss, 4),
      ]
    }
    lines += Self.shortened(tableLines([header] + rows))
    if let fill { lines.append("fill: \(grouped(fill.samples)) samples in \(duration(fill.seconds))") }
    if cacheBytes > 0 { lines.append("cache: \(ByteCount(cacheBytes))") }
    lines.append("peak memory: \(ByteCount(peakResidentBytes)) resident")
    lines.append("adapter: \(adapterDirectory)")
    lines.append("digest: \(adapterDigest)")
    return lines.joined(separator: "\n") + "\n"
  }
}

extension TrainSummary {
  /// Epochs shown at either end of a long table.
  private static let shownEpochs = 10

  /// The heading and both ends of a table that is longer than a screen.
  private static func shortened(_ lines: [String]) -> [String] {
    guard lines.count > 2 * shownEpochs + 1 else { return lines }
    return lines.prefix(shownEpochs + 1) + ["…"] + lines.suffix(shownEpochs)
  }
}

extension EvaluationSummary {
  /// What a person reads after an evaluation.
  package var text: String {
    var lines = metrics.map { "\($0.name): \(decimal($0.value, 4))" }
    lines.append("rows: \(grouped(samples)) in \(duration(seconds))")
    if skippedRows > 0 { lines.append("malformed rows left out: \(grouped(skippedRows))") }
    if truncatedTexts > 0 { lines.append("texts cut at the greatest length: \(grouped(truncatedTexts))") }
    return lines.joined(separator: "\n") + "\n"
  }
}

/// Rows of cells as lines with aligned columns; every row has as many cells as the first.
package func tableLines(_ rows: [[String]]) -> [String] {
  guard let first = rows.first else { return [] }
  let widths = first.indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
  return rows.map { row in
    let cells = row.enumerated().map { column, cell in
      column == row.count - 1
        ? cell : cell + String(repeating: " ", count: widths[column] - cell.count)
    }
    return cells.joined(separator: "  ")
  }
}
