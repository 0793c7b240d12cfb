import ParallelPlanner

/// The models of PAC's tenth figure with equal layers, as the paper's own splits treat them.
///
/// Weights are those of the real layers in float32 (9.44 M and 7.08 M parameters of a T5-Base decoder and
/// encoder layer, and so on), so memory is real; times are equal for every layer.
enum FigureTenModel: String, CaseIterable, Sendable {
  case t5Base, bartLarge, t5Large

  /// Layers of each stack, weights of an encoder and a decoder layer, of the embedding, and of a layer's side
  /// block.
  private var sizes: (layers: Int, encoder: Int64, decoder: Int64, embedding: Int64, side: Int64) {
    switch self {
    case .t5Base: (12, 7_078_000 * 4, 9_437_000 * 4, 24_674_000 * 4, 203_000 * 4)
    case .bartLarge: (12, 12_596_000 * 4, 16_796_000 * 4, 51_471_000 * 4, 379_000 * 4)
    case .t5Large: (24, 12_583_000 * 4, 16_777_000 * 4, 32_899_000 * 4, 369_000 * 4)
    }
  }

  var costs: ModelCosts {
    let (layers, encoder, decoder, embedding, side) = sizes
    return ModelCosts(
      name: rawValue, kinds: ["layer"],
      layers: (0..<2 * layers).map { layer in
        LayerCosts(
          kind: 0, frozenBytes: layer < layers ? encoder : decoder, trainableBytes: side,
          retainedBytes: 20_000, forwardBoundaryBytes: 48_000, backwardBoundaryBytes: 5_000,
          fillBoundaryBytes: 48_000)
      },
      shared: [SharedWeights(bytes: embedding, layers: Array(0..<2 * layers))], canCache: false)
  }
}
