import HearthStorage
import LanguageModels

/// The outputs of a model beside the published ones.
package struct Verification: Sendable, Equatable, Encodable {
  /// One thing that was compared.
  package struct Comparison: Sendable, Equatable, Encodable {
    /// What it is, for people.
    package var what: String
    /// How many values were compared.
    package var values: Int
    /// The largest difference; for ids, how many differ.
    package var largestDifference: Double
    /// True when all values agree within the tolerance.
    package var agrees: Bool
  }

  /// Directory of the model.
  package var modelDirectory: String
  /// The published model that it is compared with.
  package var published: String
  /// Everything that was compared.
  package var comparisons: [Comparison]

  /// True when everything agrees.
  package var agrees: Bool { comparisons.allSatisfy(\.agrees) }

  /// How the command ends when something differs.
  package var failure: VerificationFailure? {
    guard let first = comparisons.first(where: { !$0.agrees }) else { return nil }
    return .differs(path: modelDirectory, published: published, what: first.what, by: first.largestDifference)
  }

  /// Compares what a model computed with what the published one is known to compute.
  package init(
    modelDirectory: String, recorded: RecordedOutputs, tokenized: [[Int32]], published: PublishedOutputs
  ) {
    precondition(
      recorded.texts.count == published.ids.count && tokenized.count == published.ids.count,
      "\(recorded.texts.count) records and \(tokenized.count) tokenized texts of \(published.ids.count)")
    self.modelDirectory = modelDirectory
    self.published = published.name
    comparisons = published.words.indices.map {
      Self.ids("token ids of \"\(published.words[$0])\"", tokenized[$0], published.ids[$0])
    }
    comparisons += published.rows.map { row in
      Self.values(
        "\(row.part.rawValue) of \"\(published.words[row.text])\", token \(row.token + 1)",
        recorded.values(row.part, text: row.text, token: row.token), row.values)
    }
    comparisons += published.likeliest.enumerated().map { text, expected in
      Self.ids(
        "likeliest first token of \"\(published.words[text])\"", [recorded.texts[text].likeliest], [expected])
    }
  }

  private static func ids(_ what: String, _ found: [Int32], _ expected: [Int32]) -> Comparison {
    let shared = zip(found, expected).count { $0 != $1 }
    let differing = shared + abs(found.count - expected.count)
    return Comparison(
      what: what, values: expected.count, largestDifference: Double(differing), agrees: differing == 0)
  }

  private static func values(_ what: String, _ found: ArraySlice<Float>, _ expected: [Float]) -> Comparison {
    var largest: Float = found.count < expected.count ? .infinity : 0
    var agrees = found.count >= expected.count
    for (value, wanted) in zip(found, expected) {
      let difference = abs(value - wanted)
      // A NaN is beyond every tolerance, and the largest difference of all.
      largest = difference.isNaN ? .infinity : max(largest, difference)
      let allowed =
        PublishedOutputs.absoluteTolerance + PublishedOutputs.relativeTolerance * abs(wanted)
      if !(difference <= allowed) { agrees = false }
    }
    return Comparison(
      what: what, values: expected.count, largestDifference: Double(largest), agrees: agrees)
  }

  private enum Keys: String, CodingKey {
    case modelDirectory, published, comparisons, agrees, absoluteTolerance, relativeTolerance
  }

  /// The form that `--json` writes.
  package func encode(to encoder: any Encoder) throws {
    var keys = encoder.container(keyedBy: Keys.self)
    try keys.encode(modelDirectory, forKey: .modelDirectory)
    try keys.encode(published, forKey: .published)
    try keys.encode(comparisons, forKey: .comparisons)
    try keys.encode(agrees, forKey: .agrees)
    try keys.encode(PublishedOutputs.absoluteTolerance, forKey: .absoluteTolerance)
    try keys.encode(PublishedOutputs.relativeTolerance, forKey: .relativeTolerance)
  }

  /// What a person reads.
  package var text: String {
    let rows = comparisons.map { comparison in
      [
        comparison.agrees ? "agrees" : "DIFFERS", comparison.what, "\(comparison.values) values",
        "largest difference \(comparison.largestDifference)",
      ]
    }
    let verdict =
      agrees
      ? "'\(modelDirectory)' computes what the published \(published) computes"
      : "'\(modelDirectory)' differs from the published \(published)"
    return (tableLines(rows) + [verdict]).joined(separator: "\n") + "\n"
  }
}

extension RecordedOutputs {
  /// The values of one row.
  fileprivate func values(_ part: PublishedOutputs.Part, text: Int, token: Int) -> ArraySlice<Float> {
    switch part {
    case .encoder: texts[text].encoder.dropFirst(token * width).prefix(width)
    case .decoder: texts[text].decoder[...]
    case .scores: texts[text].scores[...]
    }
  }
}

/// Why a model is not found to be the published one.
package enum VerificationFailure: UserFacingFailure, Equatable {
  /// No outputs of such a model are known.
  case nothingKnown(path: String, model: String)
  /// A value differs from the published one.
  case differs(path: String, published: String, what: String, by: Double)

  /// Decides the exit code.
  package var reason: ExitReason {
    switch self {
    case .nothingKnown: .badData
    case .differs: .mismatch
    }
  }

  /// One line: what was wrong, where, and the next step.
  package var description: String {
    switch self {
    case .nothingKnown(let path, let model):
      "model directory '\(path)' holds \(model), of which no golden values are known; they are known for "
        + "T5-Small, T5-Base and T5-Large (v1.0)"
    case .differs(let path, let published, let what, let by):
      "model directory '\(path)' differs from the published \(published), first in the \(what) by \(by); "
        + "fetch it again, unless it was fine-tuned"
    }
  }
}

/// Compares the model in a directory with the published one of its shape.
package func verifyModel(_ directory: String) throws -> Verification {
  let configuration = try ModelDirectory.loadConfiguration(ModelFolder(directory))
  guard let published = PublishedOutputs.of(configuration) else {
    throw VerificationFailure.nothingKnown(path: directory, model: configuration.shapeText)
  }
  let model = try OpenedModel(directory: directory)
  guard let backbone = model.backbone as? any EncoderDecoderBackbone else {
    preconditionFailure("\(published.name) has no decoder")
  }
  let longest = published.ids.map(\.count).max() ?? 0
  let tokenized = try published.words.map {
    try model.tokenizer.encode($0, pair: nil, maxLength: longest + 16).ids
  }
  // The known ids are computed with, so that a wrong tokenizer does not hide what the weights do.
  return Verification(
    modelDirectory: directory, recorded: RecordedOutputs(of: backbone, ids: published.ids),
    tokenized: tokenized, published: published)
}

extension ModelConfiguration {
  /// "T5 v1.1, 12 + 12 layers, width 768".
  fileprivate var shapeText: String {
    switch self {
    case .bert(let bert): "BERT, \(bert.layers) layers, width \(bert.width)"
    case .t5(let t5):
      "T5 \(t5.isGated ? "v1.1" : "v1.0"), \(t5.encoderLayers) + \(t5.decoderLayers) layers, width \(t5.width)"
    case .bart(let bart):
      "BART, \(bart.encoder.layers) + \(bart.decoder.layers) layers, width \(bart.width)"
    }
  }
}
