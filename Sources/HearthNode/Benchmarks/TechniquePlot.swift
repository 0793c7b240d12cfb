import LanguageModels

/// The results of `hearth bench techniques` as a picture: seconds and memory of every technique, ours beside PyTorch's.
package struct TechniquePlot {
  private let results: [TechniqueResult]
  private let shapes: [ModelShape]

  private enum Size {
    static let panelWidth = 420.0
    static let panelHeight = 230.0
    static let margin = 64.0
    static let barWidth = 24.0
  }

  /// A picture of the results without dropout.
  package init(_ results: [TechniqueResult]) {
    self.results = results.filter { $0.measured.dropout == 0 }
    var shapes: [ModelShape] = []
    for result in self.results where !shapes.contains(result.measured.shape) {
      shapes.append(result.measured.shape)
    }
    self.shapes = shapes
  }

  /// A bar of stacked parts.
  private struct Bar {
    var parts: [(value: Double, color: String)]
    var total: Double { parts.reduce(0) { $0 + $1.value } }
  }

  /// The text of an SVG file.
  package var svg: String {
    let width = Size.margin * 2 + Size.panelWidth * Double(max(1, shapes.count))
    let height = Size.margin * 2 + Size.panelHeight * 2 + 60
    var text = """
      <svg xmlns="http://www.w3.org/2000/svg" width="\(number(width))" height="\(number(height))" \
      font-family="sans-serif" font-size="11">
      <rect width="100%" height="100%" fill="white"/>

      """
    for (column, shape) in shapes.enumerated() {
      let x = Size.margin + Double(column) * Size.panelWidth
      let rows = results.filter { $0.measured.shape == shape }
      text += panel(
        x, Size.margin, title: "\(shape.rawValue): seconds a step", rows: rows, ours: time(\.hearth),
        peers: time { $0.peer })
      text += panel(
        x, Size.margin + Size.panelHeight + 60, title: "\(shape.rawValue): memory, GiB", rows: rows,
        ours: memory, peers: peerMemory)
    }
    return text + legend(height - 22) + "</svg>\n"
  }

  private func time(_ side: @escaping (TechniqueResult) -> TechniqueResult.Side?) -> (TechniqueResult) -> Bar
  {
    { result in
      guard let side = side(result), let forward = side.forwardSeconds, let backward = side.backwardSeconds
      else {
        return Bar(parts: [])
      }
      let isOurs = side == result.hearth
      return Bar(parts: [
        (forward, isOurs ? "#1b7f79" : "#8a8a8a"), (max(0, backward), isOurs ? "#66c2b8" : "#c8c8c8"),
      ])
    }
  }

  private func memory(_ result: TechniqueResult) -> Bar {
    guard let planned = result.hearth.planned else { return Bar(parts: []) }
    let gibibyte = Double(1 << 30)
    return Bar(parts: [
      (Double(planned.weights) / gibibyte, "#1b7f79"), (Double(planned.activations) / gibibyte, "#66c2b8"),
      (Double(planned.gradientSums + planned.optimizer) / gibibyte, "#d98c3f"),
    ])
  }

  private func peerMemory(_ result: TechniqueResult) -> Bar {
    guard let peak = result.peer?.peakBytes, peak > 0 else { return Bar(parts: []) }
    return Bar(parts: [(Double(peak) / Double(1 << 30), "#8a8a8a")])
  }

  private func panel(
    _ x: Double, _ y: Double, title: String, rows: [TechniqueResult], ours: (TechniqueResult) -> Bar,
    peers: (TechniqueResult) -> Bar
  ) -> String {
    let highest = rows.map { max(ours($0).total, peers($0).total) }.max() ?? 0
    let scale = highest > 0 ? (Size.panelHeight - 40) / highest : 0
    let floor = y + Size.panelHeight - 20
    var text = "<text x=\"\(number(x))\" y=\"\(number(y))\" font-size=\"13\">\(title)</text>\n"
    text += line(x, floor, x + Size.panelWidth - 20, floor)
    for (index, result) in rows.enumerated() {
      let left = x + 10 + Double(index) * (Size.panelWidth - 30) / Double(max(1, rows.count))
      text += bar(ours(result), left, floor, scale)
      text += bar(peers(result), left + Size.barWidth + 2, floor, scale)
      text +=
        "<text x=\"\(number(left))\" y=\"\(number(floor + 14))\">\(result.measured.technique.rawValue)</text>\n"
    }
    return text
  }

  private func bar(_ bar: Bar, _ x: Double, _ floor: Double, _ scale: Double) -> String {
    var (text, top) = ("", floor)
    for part in bar.parts {
      let height = part.value * scale
      top -= height
      text += """
        <rect x="\(number(x))" y="\(number(top))" width="\(number(Size.barWidth))" height="\(number(height))" \
        fill="\(part.color)"/>

        """
    }
    guard bar.total > 0 else { return text }
    let value = decimal(bar.total, bar.total < 1 ? 2 : 1)
    return text + "<text x=\"\(number(x))\" y=\"\(number(top - 3))\" font-size=\"9\">\(value)</text>\n"
  }

  private func line(_ x1: Double, _ y1: Double, _ x2: Double, _ y2: Double) -> String {
    "<line x1=\"\(number(x1))\" y1=\"\(number(y1))\" x2=\"\(number(x2))\" y2=\"\(number(y2))\" stroke=\"black\"/>\n"
  }

  private func legend(_ y: Double) -> String {
    let entries = [
      ("#1b7f79", "Hearth: forward; weights"), ("#66c2b8", "backward and update; activations"),
      ("#d98c3f", "gradient sums and optimizer"), ("#8a8a8a", "PyTorch: forward; peak"),
      ("#c8c8c8", "its backward"),
    ]
    var text = ""
    for (index, entry) in entries.enumerated() {
      let x = Size.margin + Double(index) * 220
      text +=
        "<rect x=\"\(number(x))\" y=\"\(number(y - 10))\" width=\"12\" height=\"12\" fill=\"\(entry.0)\"/>\n"
      text += "<text x=\"\(number(x + 16))\" y=\"\(number(y))\">\(entry.1)</text>\n"
    }
    return text
  }

  private func number(_ value: Double) -> String { decimal(value, 1) }
}
