import NeuralNetworks
import TensorKernels

/// The workspace of an encoder-decoder's forward.
///
/// The decoder's buffers lie over the encoder's, which are free by then; only the encoder's stream stays.
struct StackPairPlan {
  let encoderStream: Int
  let decoderStream: Int
  let encoder: StackBuffers
  let decoder: StackBuffers?
  let floatCount: Int

  init(_ stacks: [FrozenStack], _ capacity: BackboneCapacity) {
    let width = stacks[0].shape.block.width
    var layout = ArenaLayout()
    encoderStream = layout.reserve(capacity.encoderTokens * width)
    decoderStream = layout.reserve(capacity.decoderTokens * width)
    let shared = layout.mark()
    encoder = StackBuffers(
      stacks[0], capacity: BlockCapacity(tokens: capacity.encoderTokens),
      longest: capacity.longestEncoder, layout: &layout)
    layout.rewind(to: shared)
    decoder =
      capacity.decoderTokens == 0
      ? nil
      : StackBuffers(
        stacks[1],
        capacity: BlockCapacity(
          tokens: capacity.decoderTokens, encoderTokens: capacity.encoderTokens,
          longestEncoder: capacity.longestEncoder),
        longest: capacity.longestDecoder, layout: &layout)
    floatCount = layout.floatCount
  }

  /// Stops the program when the workspace is too small for the batch: our own bug.
  func check(_ workspace: Arena) {
    precondition(
      floatCount <= workspace.floatCount,
      "a workspace of \(workspace.floatCount) floats, the batch needs \(floatCount)")
  }
}
