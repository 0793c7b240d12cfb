import LanguageModels
import NeuralNetworks
import TensorKernels

/// The frozen layers of a pipeline's stage, run over one micro-batch on one thread.
///
/// - Safety: one worker owns the buffers; the backbone is only read.
final class BackbonePart: @unchecked Sendable {
  private let backbone: any Backbone
  private let parts: [StackPart]
  private let streams: Arena
  /// Offset of each stack's rows; of the encoder's also where only a decoder's layers are here.
  private let offsets: [Int]
  private let workspace: Arena

  init(_ backbone: any Backbone, parts: [StackPart], capacity: MicroBatchCapacity) {
    self.backbone = backbone
    self.parts = parts
    var layout = ArenaLayout()
    offsets = Self.plan(backbone, parts, capacity, &layout)
    streams = Arena(floatCount: layout.floatCount)
    workspace = Arena(floatCount: backbone.layerWorkspaceFloats(capacity: BackboneCapacity(capacity)))
  }

  /// Floats of the buffers.
  static func floatCount(
    _ backbone: any Backbone, parts: [StackPart], capacity: MicroBatchCapacity
  ) -> Int {
    var layout = ArenaLayout()
    _ = plan(backbone, parts, capacity, &layout)
    return layout.floatCount + backbone.layerWorkspaceFloats(capacity: BackboneCapacity(capacity))
  }

  private static func plan(
    _ backbone: any Backbone, _ parts: [StackPart], _ capacity: MicroBatchCapacity,
    _ layout: inout ArenaLayout
  ) -> [Int] {
    let last = parts.last?.stack ?? 0
    return backbone.architecture.stacks.enumerated().map { index, stack in
      let tokens = stack.kind == .encoder ? capacity.encoderTokens : capacity.decoderTokens
      return layout.reserve(index <= last ? tokens * stack.block.width : 0)
    }
  }

  /// What the stage before sends: nothing to the first stage, the rows before a layer inside a stack, and to a decoder
  /// the encoder's final states before them.
  func rowsFromPrevious(_ batch: PackedMicroBatch) -> [Matrix] {
    let first = parts[0]
    let encoded = first.stack > 0 ? [stream(0, batch)] : []
    return encoded + (first.startsStack ? [] : [stream(first.stack, batch)])
  }

  /// What `run` leaves for the next stage, in the order of its `rowsFromPrevious`; nothing behind the last layer.
  func rowsForNext(_ batch: PackedMicroBatch) -> [Matrix] {
    guard let last = parts.last else { return [] }
    if last.stack == backbone.architecture.stacks.count - 1, last.endsStack { return [] }
    return (last.stack > 0 ? [stream(0, batch)] : []) + [stream(last.stack, batch)]
  }

  /// Runs the layers; `tap(stack, index, rows)` is called as in `Backbone.forward`.
  func run(_ batch: PackedMicroBatch, tap: (_ stack: Int, _ index: Int, _ rows: Matrix) -> Void) {
    let ids = BackboneBatch(
      encoderIDs: batch.encoderIDs, encoderTypes: batch.encoderTypes, encoder: batch.encoder,
      decoderIDs: batch.decoderIDs, decoder: batch.decoder)
    for part in parts {
      let stream = stream(part.stack, batch)
      if part.startsStack {
        backbone.embedTokens(of: ids, stack: part.stack, into: stream)
        tap(part.stack, 0, stream)
      }
      for layer in part.layers {
        backbone.runLayer(
          layer, stack: part.stack, of: ids, stream: stream,
          encoded: part.stack > 0 ? self.stream(0, batch) : nil, workspace: workspace)
        tap(part.stack, layer + 1, stream)
      }
      if part.endsStack, part.stack + 1 < backbone.architecture.stacks.count {
        backbone.finishStack(part.stack, stream: stream)
      }
    }
  }

  private func stream(_ stack: Int, _ batch: PackedMicroBatch) -> Matrix {
    let shape = backbone.architecture.stacks[stack]
    let tokens = shape.kind == .encoder ? batch.encoder.tokens : batch.decoder?.tokens ?? 0
    return streams.matrix(offsets[stack], rows: tokens, columns: shape.block.width)
  }
}

extension BackboneCapacity {
  /// What micro-batches within `capacity` need.
  init(_ capacity: MicroBatchCapacity) {
    self.init(
      encoderTokens: capacity.encoderTokens, longestEncoder: capacity.longestEncoder,
      decoderTokens: capacity.decoderTokens, longestDecoder: capacity.longestDecoder)
  }
}
