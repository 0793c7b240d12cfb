package import NeuralNetworks
package import TensorKernels

// One forward for every family, whole or layer by layer: the same calls in the same order for each row, so a
// backbone whose layers are read one after another from the disk gives the same bits as one in memory.

extension BackboneBatch {
  /// The extents of a stack's rows; nil when the batch does not run it.
  package func sequences(_ kind: StackKind) -> PackedSequences? {
    kind == .encoder ? encoder : decoder
  }
}

extension Backbone {
  /// The frozen leaves of one block.
  package func block(stack: Int, layer: Int) -> BlockParameters { stacks[stack].blocks[layer].parameters }
  /// The frozen table of relative position biases, [buckets × heads], if the stack has one.
  package func relativeBias(stack: Int) -> Parameter? { stacks[stack].relativeBias?.table }
  /// The frozen norm behind the last block, if the stack has one.
  package func finalNorm(stack: Int) -> NormParameters? { stacks[stack].finalNorm }

  /// Floats of the arena that `forward` needs for any batch within `capacity`.
  package func workspaceFloats(capacity: BackboneCapacity) -> Int {
    ForwardPlan(stacks, capacity, holdsStreams: true).floatCount
  }

  /// Floats of the arena that `runLayer` needs for any batch within `capacity`, whose rows lie elsewhere.
  package func layerWorkspaceFloats(capacity: BackboneCapacity) -> Int {
    ForwardPlan(stacks, capacity, holdsStreams: false).floatCount
  }

  /// Runs the model over a micro-batch on the calling thread; writes nothing outside `workspace`.
  ///
  /// `tap(stack, index, rows)` is called as soon as each tap is ready: index 0 is what enters the stack's
  /// first block, index i what leaves block i, before any final norm. `rows` is [tokens × width] and valid
  /// only during the call.
  package func forward(
    _ batch: BackboneBatch, workspace: Arena, tap: (_ stack: Int, _ index: Int, _ rows: Matrix) -> Void
  ) {
    let plan = ForwardPlan(stacks, BackboneCapacity(of: batch), holdsStreams: true)
    var encoded: Matrix?
    for (index, stack) in stacks.enumerated() {
      guard let sequences = batch.sequences(stack.shape.kind), let buffers = plan.buffers[index] else {
        break
      }
      let stream = workspace.matrix(
        plan.streams[index], rows: sequences.tokens, columns: stack.shape.block.width)
      embedTokens(of: batch, stack: index, into: stream)
      tap(index, 0, stream)
      let bias = stack.expandBias(span: sequences.longest, buffers, workspace)
      for layer in 0..<stack.shape.layers {
        stack.runLayer(
          layer, stream, sequences: sequences, bias: bias,
          encoder: encoderStates(encoded, batch, stack: index), buffers: buffers, workspace: workspace)
        tap(index, layer + 1, stream)
      }
      guard index + 1 < stacks.count, batch.decoder != nil else { break }
      finishStack(index, stream: stream)
      encoded = stream
    }
  }

  /// Runs one block in place over the rows of one micro-batch, on the calling thread.
  ///
  /// - Parameters:
  ///   - stream: what the block before left, or `embedTokens` for the first.
  ///   - encoded: the encoder's rows behind `finishStack`, for a decoder.
  ///   - workspace: at least `layerWorkspaceFloats` floats; nothing in it outlives the call.
  package func runLayer(
    _ layer: Int, stack index: Int, of batch: BackboneBatch, stream: Matrix, encoded: Matrix?,
    workspace: Arena
  ) {
    let stack = stacks[index]
    let plan = ForwardPlan(stacks, BackboneCapacity(of: batch), holdsStreams: false)
    guard let sequences = batch.sequences(stack.shape.kind), let buffers = plan.buffers[index] else {
      preconditionFailure("the batch has no rows for stack \(index)")
    }
    stack.runLayer(
      layer, stream, sequences: sequences,
      bias: stack.expandBias(span: sequences.longest, buffers, workspace),
      encoder: encoderStates(encoded, batch, stack: index), buffers: buffers, workspace: workspace)
  }

  /// Makes of a stack's last tap what the next stack reads: its final norm, in place.
  package func finishStack(_ stack: Int, stream: Matrix) {
    stacks[stack].finalNorm?.forward(stream, into: stream, statistics: nil)
  }

  private func encoderStates(_ rows: Matrix?, _ batch: BackboneBatch, stack: Int) -> EncoderStates? {
    guard stacks[stack].shape.kind == .decoder else { return nil }
    guard let rows else { preconditionFailure("a decoder runs before its encoder is finished") }
    return EncoderStates(rows: rows, sequences: batch.encoder)
  }
}

/// The workspace of a forward.
///
/// A later stack's buffers lie over the earlier one's, which are free by then; only the streams stay.
struct ForwardPlan {
  /// For each stack, its rows.
  private(set) var streams: [Int] = []
  /// For each stack, its temporary rows; nil where the capacity has no tokens for it.
  private(set) var buffers: [StackBuffers?] = []
  let floatCount: Int

  init(_ stacks: [FrozenStack], _ capacity: BackboneCapacity, holdsStreams: Bool) {
    var layout = ArenaLayout()
    for stack in stacks {
      let tokens = stack.shape.kind == .encoder ? capacity.encoderTokens : capacity.decoderTokens
      streams.append(layout.reserve(holdsStreams ? tokens * stack.shape.block.width : 0))
    }
    let shared = layout.mark()
    for stack in stacks {
      layout.rewind(to: shared)
      buffers.append(StackBuffers(stack, capacity: capacity, layout: &layout))
    }
    floatCount = layout.floatCount
  }
}
