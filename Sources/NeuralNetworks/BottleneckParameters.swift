package import TensorKernels

/// A bottleneck behind a sub-layer: `o + up(relu(down(o)))` (Houlsby et al., "Parameter-efficient transfer
/// learning for NLP", ICML 2019).
package struct BottleneckParameters: Sendable {
  /// Width to bottleneck.
  package var down: LinearParameters
  /// Bottleneck to width.
  package var up: LinearParameters

  /// A bottleneck from its layers.
  package init(down: LinearParameters, up: LinearParameters) {
    precondition(
      down.outputs == up.inputs && down.inputs == up.outputs,
      "\(down.weight.name) of \(down.outputs) x \(down.inputs) with \(up.outputs) x \(up.inputs)")
    self.down = down
    self.up = up
  }

  /// The leaves in the order of `parameterShapes(prefix:width:bottleneck:)`.
  package var leaves: [Parameter] {
    [down, up].flatMap { [$0.weight] + ($0.bias.map { [$0] } ?? []) }
  }

  /// True when a leaf is trainable.
  var isTrainable: Bool { down.isTrainable || up.isTrainable }

  /// The leaves' shapes.
  package static func parameterShapes(prefix: String, width: Int, bottleneck: Int) -> [ParameterShape] {
    [
      ParameterShape("\(prefix).down.weight", rows: bottleneck, columns: width, kind: .weight),
      ParameterShape("\(prefix).down.bias", rows: 1, columns: bottleneck, kind: .bias),
      ParameterShape("\(prefix).up.weight", rows: width, columns: bottleneck, kind: .weight),
      ParameterShape("\(prefix).up.bias", rows: 1, columns: width, kind: .bias),
    ]
  }

  /// Replaces a sub-layer's output rows by the bottleneck's.
  package func forward(_ rows: Matrix) {
    withRows(rows.rows, down.outputs) { narrow in
      down.forward(rows, into: narrow, activation: .relu)
      up.forward(narrow, into: rows, accumulate: true)
    }
  }

  /// Turns the gradient of the bottleneck's output into that of its input, in place.
  ///
  /// - Parameters:
  ///   - input: the rows that `forward` replaced.
  ///   - scratch: floats of the larger matrix.
  func backward(
    input: Matrix, gradient: Matrix, needsInputGradient: Bool, scratch: UnsafeMutablePointer<Float>,
    sink: any GradientSink
  ) {
    withRows(2 * input.rows, down.outputs) { both in
      let narrow = both.rowRange(0, count: input.rows)
      let narrowGradient = both.rowRange(input.rows, count: input.rows)
      down.forward(input, into: narrow, activation: .relu)
      up.parameterGradients(gradient, narrow, scratch: scratch, sink: sink)
      up.inputGradient(gradient, into: narrowGradient, accumulate: false)
      activationBackward(.relu, input: narrow, gradient: narrowGradient, into: narrowGradient)
      down.parameterGradients(narrowGradient, input, scratch: scratch, sink: sink)
      if needsInputGradient { down.inputGradient(narrowGradient, into: gradient, accumulate: true) }
    }
  }
}
