import Determinism
import NeuralNetworks
import TensorKernels

/// The fixed sentences on which the error of int8 products is measured.
///
/// They are the program's, not the user's, so that a backbone's identity says nothing of private texts.
package enum CalibrationText {
  /// Tokens of the longest sequence.
  static let longest = 32

  private static let sentences = [
    "the people of the small town met in the evening and talked about the price of bread and fish",
    "a film that is neither long nor short, with a good story, poor music and two brilliant actors",
    "the court said on monday that the company must pay twelve million dollars to its former owner",
    "two dogs run along the beach while a young woman with a red hat takes a picture of them",
    "however, it is not clear whether the new law will have any effect before the next election",
    "he opened the door, looked at the rain outside, and decided to stay at home for another hour",
    "why did nobody tell us that the train to the north leaves at seven instead of half past eight?",
    "water boils at one hundred degrees, but high in the mountains it does so a few degrees earlier",
  ]

  /// One batch over the sentences, as the backbone reads them.
  ///
  /// Sentences that the tokenizer cannot encode are left out; without any, the ids are drawn.
  package static func batch(_ tokenizer: any Tokenizer, _ architecture: BackboneArchitecture) -> BackboneBatch
  {
    encoded(tokenizer, architecture) ?? drawn(architecture)
  }

  private static func drawn(_ architecture: BackboneArchitecture) -> BackboneBatch {
    let length = min(longest, architecture.maximumLength ?? longest)
    var generator = SeededGenerator(seed: 0x6361_6C69)
    func ids(_ count: Int) -> [Int32] {
      (0..<count).map { _ in Int32(generator.uniform(below: architecture.vocabulary)) }
    }
    let texts = sentences.count
    let target = max(1, length / 2)
    let encoderIDs = ids(texts * length)
    let decoderIDs = architecture.decoderStartID.map { start in
      (0..<texts).flatMap { _ in [start] + ids(target - 1) }
    }
    return BackboneBatch(
      encoderIDs: encoderIDs, encoder: PackedSequences(lengths: Array(repeating: length, count: texts)),
      decoderIDs: decoderIDs ?? [],
      decoder: decoderIDs.map { _ in PackedSequences(lengths: Array(repeating: target, count: texts)) })
  }

  private static func encoded(_ tokenizer: any Tokenizer, _ architecture: BackboneArchitecture)
    -> BackboneBatch?
  {
    let length = min(longest, architecture.maximumLength ?? longest)
    guard length >= tokenizer.minimumLength(withPair: false) else { return nil }
    var texts: [EncodedText] = []
    var targets: [[Int32]] = []
    for sentence in sentences {
      guard let text = try? tokenizer.encode(sentence, pair: nil, maxLength: length) else { continue }
      if let start = architecture.decoderStartID {
        guard
          let target = try? tokenizer.encodeTarget(sentence, decoderStartID: start, maxLength: length / 2)
        else { continue }
        targets.append(target.decoderIDs)
      }
      texts.append(text)
    }
    guard !texts.isEmpty else { return nil }
    return BackboneBatch(
      encoderIDs: texts.flatMap(\.ids),
      encoderTypes: texts.contains { $0.types.contains { $0 != 0 } } ? texts.flatMap(\.types) : [],
      encoder: PackedSequences(lengths: texts.map(\.ids.count)), decoderIDs: targets.flatMap { $0 },
      decoder: targets.isEmpty ? nil : PackedSequences(lengths: targets.map(\.count)))
  }
}
