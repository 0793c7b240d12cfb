package import NeuralNetworks
package import TensorKernels

/// What turns a stack's token ids into the rows that enter its first block.
package struct StackEmbedding: Sendable {
  /// Rows of words, [vocabulary × width].
  package var words: Parameter
  /// Multiplies the rows of words.
  package var scale: Float
  /// Rows that are added by position; nil where positions are relative.
  package var positions: Parameter?
  /// Row of the first position.
  package var positionOffset: Int
  /// Rows that are added by segment (BERT).
  package var types: Parameter?
  /// Normalises the sums (BERT, BART).
  package var norm: NormParameters?

  /// An embedding from its leaves.
  package init(
    words: Parameter, scale: Float = 1, positions: Parameter? = nil, positionOffset: Int = 0,
    types: Parameter? = nil, norm: NormParameters? = nil
  ) {
    self.words = words
    self.scale = scale
    self.positions = positions
    self.positionOffset = positionOffset
    self.types = types
    self.norm = norm
  }

  /// Writes the rows of packed sequences before the norm.
  ///
  /// - Parameter types: segment of each token; empty means segment 0.
  package func sums(_ ids: [Int32], types segments: [Int32], _ sequences: PackedSequences, into rows: Matrix)
  {
    precondition(
      positions.map { positionOffset + sequences.longest <= $0.rows } ?? true,
      "sequences of \(sequences.longest) tokens and \(positions?.rows ?? 0) rows of positions")
    embed(ids, words, into: rows)
    if scale != 1 {
      for index in 0..<rows.rows * rows.columns { rows.base[index] *= scale }
    }
    if let types {
      if segments.isEmpty {
        for row in 0..<rows.rows {
          addRows(types.matrix.rowRange(0, count: 1), into: rows.rowRange(row, count: 1))
        }
      } else {
        embed(segments, types, into: rows, accumulate: true)
      }
    }
    guard let positions else { return }
    for index in 0..<sequences.count {
      let count = sequences.length(index)
      addRows(
        positions.matrix.rowRange(positionOffset, count: count),
        into: rows.rowRange(sequences.offsets[index], count: count))
    }
  }
}

/// The leaves of one stack, by place.
package struct StackLeaves: Sendable {
  /// What enters the first block.
  package var embedding: StackEmbedding
  /// The blocks in order.
  package var blocks: [BlockParameters]
  /// The table of relative position biases, [buckets × heads], if the stack has one.
  package var relativeBias: Parameter?
  /// The norm behind the last block, if the stack has one.
  package var finalNorm: NormParameters?

  /// A stack from its leaves.
  package init(
    embedding: StackEmbedding, blocks: [BlockParameters], relativeBias: Parameter?,
    finalNorm: NormParameters?
  ) {
    self.embedding = embedding
    self.blocks = blocks
    self.relativeBias = relativeBias
    self.finalNorm = finalNorm
  }
}

/// The head that turns a decoder's final states into scores of words.
package struct LanguageModelHead: Sendable {
  /// [vocabulary × width]; the words' own leaf when tied.
  package var weight: Parameter
  /// Multiplies the states.
  package var scale: Float
  /// Added to the scores, [1 × vocabulary].
  package var bias: Parameter?

  /// A head from its leaves.
  package init(weight: Parameter, scale: Float, bias: Parameter?) {
    self.weight = weight
    self.scale = scale
    self.bias = bias
  }
}

/// Every leaf of a backbone, by place: what a technique transforms.
package struct BackboneLeaves: Sendable {
  /// The stacks in the order in which they run.
  package var stacks: [StackLeaves]
  /// The language-model head of an encoder-decoder.
  package var head: LanguageModelHead?

  /// Leaves by place.
  package init(stacks: [StackLeaves], head: LanguageModelHead?) {
    self.stacks = stacks
    self.head = head
  }

  /// True when the head's matrix is the words' own.
  package var isTied: Bool { head?.weight.isSame(as: stacks[0].embedding.words) ?? false }

  /// The same values as leaves that are only read.
  package var frozen: BackboneLeaves {
    BackboneLeaves(
      stacks: stacks.map { stack in
        StackLeaves(
          embedding: StackEmbedding(
            words: stack.embedding.words.frozen, scale: stack.embedding.scale,
            positions: stack.embedding.positions?.frozen, positionOffset: stack.embedding.positionOffset,
            types: stack.embedding.types?.frozen, norm: stack.embedding.norm?.frozen),
          blocks: stack.blocks.map(\.frozen), relativeBias: stack.relativeBias?.frozen,
          finalNorm: stack.finalNorm?.frozen)
      },
      head: head.map {
        LanguageModelHead(weight: $0.weight.frozen, scale: $0.scale, bias: $0.bias?.frozen)
      })
  }
}
