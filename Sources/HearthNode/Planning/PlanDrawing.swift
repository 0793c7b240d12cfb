import HearthStorage
import ParallelPlanner
import PipelineSchedules

extension PlanReport {
  /// The mini-batch as a Gantt chart in SVG: forward passes light, backward passes dark, sums of gradients
  /// hatched grey.
  package var svg: String {
    let (rows, end) = timeline()
    let left = 190
    let width = 900
    let rowHeight = 34
    let top = 56
    let height = top + rows.count * rowHeight + 40
    func x(_ time: Int64) -> String {
      decimal(Double(left) + Double(time) * Double(width) / Double(max(1, end)), 2)
    }
    func box(_ start: Int64, _ stop: Int64, _ row: Int, _ fill: String, _ label: String) -> String {
      let from = Double(start) * Double(width) / Double(max(1, end))
      let to = Double(stop) * Double(width) / Double(max(1, end))
      let y = top + row * rowHeight
      var text =
        "<rect x=\"\(x(start))\" y=\"\(y)\" width=\"\(decimal(max(0.5, to - from), 2))\" "
        + "height=\"\(rowHeight - 6)\" fill=\"\(fill)\" stroke=\"#fff\" stroke-width=\"0.5\"/>"
      if to - from > 12 {
        text +=
          "<text x=\"\(decimal(Double(left) + (from + to) / 2, 2))\" y=\"\(y + 18)\" text-anchor=\"middle\" "
          + "font-size=\"11\">\(label)</text>"
      }
      return text
    }
    var parts = [
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"\(left + width + 20)\" height=\"\(height)\" "
        + "font-family=\"sans-serif\" font-size=\"12\">",
      "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>",
      "<text x=\"10\" y=\"22\" font-size=\"15\">\(PlanReport.escaped("\(model) on \(household)"))</text>",
      "<text x=\"10\" y=\"42\">\(PlanReport.escaped("\(mode), \(plan.grouping), total \(duration(predictedSeconds.total))"))</text>",
    ]
    for (row, operations) in rows.enumerated() {
      let names = stages[row].devices.map(\.name).joined(separator: ", ")
      let shown = names.count > 26 ? names.prefix(25) + "…" : names[...]
      parts.append(
        "<text x=\"10\" y=\"\(top + row * rowHeight + 18)\">\(PlanReport.escaped("\(row + 1): \(shown)"))</text>"
      )
      for timed in operations {
        let label = String(timed.operation.microBatch)
        switch timed.operation {
        case .forward: parts.append(box(timed.start, timed.end, row, "#9ecae1", label))
        case .backward: parts.append(box(timed.start, timed.end, row, "#fd8d3c", label))
        }
      }
      let reduction = plan.stages[row].times.reduction
      if reduction > 0, let last = operations.last {
        parts.append(box(last.end, last.end + reduction, row, "#bdbdbd", ""))
      }
    }
    parts.append(
      "<text x=\"\(left)\" y=\"\(height - 14)\">0</text><text x=\"\(left + width)\" y=\"\(height - 14)\" "
        + "text-anchor=\"end\">\(duration(PlanReport.seconds(end)))</text>")
    parts.append("</svg>")
    return parts.joined(separator: "\n") + "\n"
  }

  /// Writes the chart to a file, all of it or nothing.
  package func writeDrawing(to path: String) throws {
    try AtomicFile.write(Array(svg.utf8), to: path)
  }

  /// Text that may stand between tags.
  static func escaped(_ text: String) -> String {
    text.reduce(into: "") { result, character in
      switch character {
      case "&": result += "&amp;"
      case "<": result += "&lt;"
      case ">": result += "&gt;"
      default: result.append(character)
      }
    }
  }
}
