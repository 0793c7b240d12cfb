package import LanguageModels

/// What a published model is known to compute: the first values of its states and scores for two texts.
///
/// They are the first values of files that torchtext keeps as tests of its T5 against the reference implementation
/// (github.com/pytorch/text, commit a5e6106, test/torchtext_unittest/asset/t5.SIZE.{encoder,model,generation}.output.pt,
/// BSD-3-Clause), as is the tolerance.
package struct PublishedOutputs: Sendable, Equatable {
  /// Values of one row.
  package struct Row: Sendable, Equatable {
    /// Which states or scores.
    package var part: Part
    /// Which of the texts.
    package var text: Int
    /// Which token of the text; of the decoder there is one.
    package var token: Int
    /// The first values.
    package var values: [Float]

    /// The first values of a row.
    package init(_ part: Part, text: Int, token: Int, _ values: [Float]) {
      self.part = part
      self.text = text
      self.token = token
      self.values = values
    }
  }

  /// What a model computes for a text.
  package enum Part: String, Sendable, Equatable, CaseIterable {
    /// The encoder's states behind the last norm.
    case encoder = "encoder states"
    /// The decoder's state for its start token, behind the last norm.
    case decoder = "decoder state"
    /// The head's scores of the first token.
    case scores = "scores"
  }

  /// The model as people call it.
  package var name: String
  /// The texts.
  package var words: [String]
  /// The ids of each text.
  package var ids: [[Int32]]
  /// The known rows.
  package var rows: [Row]
  /// The id with the highest score, for each text.
  package var likeliest: [Int32]

  /// A difference of |found − expected| ≤ `absoluteTolerance` + `relativeTolerance` · |expected| is none.
  package static let absoluteTolerance: Float = 1e-4
  /// The part of a value that may differ: scores of −30 have fewer digits behind the point than states of 0.3.
  package static let relativeTolerance: Float = 2.5e-6

  /// Known outputs.
  package init(name: String, words: [String], ids: [[Int32]], rows: [Row], likeliest: [Int32]) {
    self.name = name
    self.words = words
    self.ids = ids
    self.rows = rows
    self.likeliest = likeliest
  }

  /// The known outputs of the published model of this shape; nil when none are known.
  package static func of(_ configuration: ModelConfiguration) -> PublishedOutputs? {
    guard case .t5(let t5) = configuration else { return nil }
    guard !t5.isGated, t5.isTied, t5.vocabulary == 32_128, t5.encoderLayers == t5.decoderLayers else {
      return nil
    }
    switch (t5.width, t5.encoderLayers, t5.heads, t5.hidden) {
    case (512, 6, 8, 2_048): return small
    case (768, 12, 12, 3_072): return base
    case (1_024, 24, 16, 4_096): return large
    default: return nil
    }
  }

  private init(t5 name: String, likeliest: [Int32], rows: [Row]) {
    self.init(
      name: name, words: ["Hello world", "Attention rocks!"], ids: [[8774, 296, 1], [20748, 12288, 55, 1]],
      rows: rows, likeliest: likeliest)
  }

  private static let small = PublishedOutputs(
    t5: "T5-Small", likeliest: [8774, 20748],
    rows: [
      Row(.encoder, text: 0, token: 0, [-0.1534849, 0.04223128, -0.2043965, -0.3624525, 0.007763817]),
      Row(.encoder, text: 0, token: 2, [0.07891832, 0.01410028, -0.1990549, 0.1346906, 0.08858224]),
      Row(.decoder, text: 0, token: 0, [0.0314803, 0.11712, -0.09078762, 0.0181312, -0.0001213437]),
      Row(.scores, text: 0, token: 0, [-14.34498, -5.241538, -9.985624, -4.113268, -15.10421]),
      Row(.encoder, text: 1, token: 0, [0.04130901, 0.02085942, -0.2363411, -0.101326, 0.004866438]),
      Row(.encoder, text: 1, token: 3, [0.1139416, 0.09895072, -0.06780185, -0.001651897, -0.06863037]),
      Row(.decoder, text: 1, token: 0, [0.08930914, 0.1626659, -0.07656781, -0.0889625, 0.00014573]),
      Row(.scores, text: 1, token: 0, [-9.608126, -6.301381, -8.547008, -2.444488, -11.66691]),
    ])

  private static let base = PublishedOutputs(
    t5: "T5-Base", likeliest: [32_099, 32_099],
    rows: [
      Row(.encoder, text: 0, token: 0, [-0.3666894, -0.2954782, -0.02997255, -0.1220634, 0.1369008]),
      Row(.encoder, text: 0, token: 2, [0.00393637, 0.03321011, 0.04109008, 0.04003685, 0.008638802]),
      Row(.decoder, text: 0, token: 0, [-0.006709552, 0.1097168, -0.1725293, -0.09758823, -0.02194473]),
      Row(.scores, text: 0, token: 0, [-33.81751, -27.75429, -28.87654, -18.52349, -32.85875]),
      Row(.encoder, text: 1, token: 0, [-0.5328817, -0.2467835, -0.4198271, 0.1217691, 0.6753172]),
      Row(.encoder, text: 1, token: 3, [-0.009959771, -0.01153049, 0.02986546, -0.002456672, 0.001520288]),
      Row(.decoder, text: 1, token: 0, [-0.06759745, 0.1750246, -0.1084059, -0.044965, 0.1230812]),
      Row(.scores, text: 1, token: 0, [-31.99654, -27.55225, -27.95694, -18.17381, -31.9957]),
    ])

  private static let large = PublishedOutputs(
    t5: "T5-Large", likeliest: [32_099, 32_099],
    rows: [
      Row(.encoder, text: 0, token: 0, [-0.03864862, -0.3273646, -0.4060241, -0.3811111, 0.2562383]),
      Row(.encoder, text: 0, token: 2, [-0.162674, 0.28101, 0.009071785, -0.07276212, 0.03131851]),
      Row(.decoder, text: 0, token: 0, [0.05036418, 0.04402618, -0.02253028, -0.005583658, -0.07475153]),
      Row(.scores, text: 0, token: 0, [-22.71155, -16.74852, -18.68807, -14.27052, -20.17932]),
      Row(.encoder, text: 1, token: 0, [-0.1250608, 0.367747, 0.1147784, -0.2304332, 0.3742477]),
      Row(.encoder, text: 1, token: 3, [0.007235325, 0.1371593, -0.001284674, 0.09112498, 0.09594573]),
      Row(.decoder, text: 1, token: 0, [0.01171554, 0.06377439, 0.004787981, 0.11014, -0.03878129]),
      Row(.scores, text: 1, token: 0, [-27.01268, -19.20579, -20.91148, -16.73452, -23.13122]),
    ])
}
