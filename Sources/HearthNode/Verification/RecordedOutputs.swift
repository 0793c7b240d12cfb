package import LanguageModels
import NeuralNetworks
import TensorKernels

/// What a model computed for some texts, each with its decoder's start token alone.
package struct RecordedOutputs: Sendable, Equatable {
  /// What it computed for one text; matrices are row-major.
  package struct Text: Sendable, Equatable {
    /// Ids that its tokenizer gave.
    package var ids: [Int32]
    /// States of every token behind the encoder's last norm, [tokens × width].
    package var encoder: [Float]
    /// State of the start token behind the decoder's last norm, [width].
    package var decoder: [Float]
    /// Scores of the first token, [vocabulary].
    package var scores: [Float]

    /// The id with the highest score; of equal ones the first.
    package var likeliest: Int32 {
      var best = 0
      for index in scores.indices where scores[index] > scores[best] { best = index }
      return Int32(best)
    }
  }

  /// Width of the states.
  package var width: Int
  /// One record a text.
  package var texts: [Text]

  /// Runs `backbone` over texts as token ids.
  package init(of backbone: any EncoderDecoderBackbone, ids: [[Int32]]) {
    width = backbone.architecture.width
    texts = ids.map { Self.record($0, backbone) }
  }

  private static func record(_ ids: [Int32], _ backbone: any EncoderDecoderBackbone) -> Text {
    guard let startID = backbone.architecture.decoderStartID else {
      preconditionFailure("\(backbone.architecture.name) has no decoder")
    }
    let batch = BackboneBatch(
      encoderIDs: ids, encoder: PackedSequences(lengths: [ids.count]), decoderIDs: [startID],
      decoder: PackedSequences(lengths: [1]))
    let workspace = Arena(floatCount: backbone.workspaceFloats(capacity: BackboneCapacity(of: batch)))
    let (width, vocabulary) = (backbone.architecture.width, backbone.architecture.vocabulary)
    let kept = Arena(floatCount: (ids.count + 1) * width + vocabulary)
    let states = [
      kept.matrix(0, rows: ids.count, columns: width),
      kept.matrix(ids.count * width, rows: 1, columns: width),
    ]
    let lasts = backbone.architecture.stacks.map(\.layers)
    backbone.forward(batch, workspace: workspace) { stack, index, rows in
      guard index == lasts[stack] else { return }
      for row in 0..<rows.rows {
        for column in 0..<width { states[stack][row, column] = rows[row, column] }
      }
    }
    for (stack, rows) in states.enumerated() {
      backbone.finalNorm(stack: stack)?.forward(rows, into: rows, statistics: nil)
    }
    let scores = kept.matrix((ids.count + 1) * width, rows: 1, columns: vocabulary)
    backbone.headLogits(states[1], into: scores)
    func values(_ matrix: Matrix) -> [Float] {
      Array(UnsafeBufferPointer(start: matrix.base, count: matrix.rows * matrix.columns))
    }
    return Text(
      ids: ids, encoder: values(states[0]), decoder: values(states[1]), scores: values(scores))
  }
}
