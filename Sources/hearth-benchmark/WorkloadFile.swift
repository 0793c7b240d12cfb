import Determinism
import FineTuning
import FoundationEssentials
import LanguageModels

/// Mini-batches of sequence lengths, as scripts/benchmarks/workloads.py writes them.
///
/// Speed depends on lengths and not on words, so token ids are drawn from a seed.
struct WorkloadFile: Decodable {
  /// The name: "16x128", "mrpc", "stsb".
  let name: String
  /// Decoder tokens of every sample.
  let decoderTokens: Int
  /// Encoder lengths of the samples of each mini-batch.
  let batches: [[Int]]

  private enum CodingKeys: String, CodingKey {
    case name
    case decoderTokens = "decoder_tokens"
    case batches
  }

  /// Most tokens of a sequence of any workload.
  static let longestSequence = 512

  /// Ids below this are padding and the end of a text.
  private static let firstOrdinaryID = 2

  /// Reads a workload; every length must be positive.
  init(path: String) throws {
    let file = try JSONDecoder().decode(WorkloadFile.self, from: Data(contentsOf: URL(filePath: path)))
    let lengths = file.batches.joined()
    guard !file.batches.isEmpty, file.batches.allSatisfy({ !$0.isEmpty }),
      lengths.allSatisfy((1...Self.longestSequence).contains),
      file.decoderTokens > 0
    else {
      throw BenchmarkFailure.badWorkload(path)
    }
    self = file
  }

  /// The samples of one mini-batch with ids of draw `draw`: equal numbers give equal ids, so a cached step asks
  /// for exactly what was cached, and a live step of a new draw for something that no cache has.
  func samples(of batch: Int, draw: Int, vocabulary: Int, decoderStart: Int32, seed: UInt64)
    -> [TrainingSample]
  {
    var generator = SeededGenerator(seed: seed, 0x776f_726b, UInt64(batch), UInt64(draw))
    func ids(_ count: Int) -> [Int32] {
      (0..<count).map { _ in
        Int32(Self.firstOrdinaryID + generator.uniform(below: vocabulary - Self.firstOrdinaryID))
      }
    }
    return batches[batch].map { length in
      let labels = ids(decoderTokens)
      return TrainingSample(
        encoderIDs: ids(length), encoderTypes: [Int32](repeating: 0, count: length),
        decoderIDs: [decoderStart] + labels.dropLast(), target: .tokens(labels))
    }
  }
}

/// Why a measurement cannot be made.
enum BenchmarkFailure: Error, CustomStringConvertible {
  /// A workload without usable lengths.
  case badWorkload(String)
  /// A model that is no T5.
  case notT5(String)
  /// A kernel that does not tell what a process holds.
  case noMemoryFigures
  /// A line that is no command of the protocol.
  case unknownCommand(String)
  /// A number of side heads that the side network's head rules do not give.
  case wrongSideHeads(asked: Int, found: Int)
  /// A cache that has not all activations of a workload.
  case incompleteCache(String)

  var description: String {
    switch self {
    case .badWorkload(let path): "\(path) has no batches of positive lengths"
    case .notT5(let path): "\(path) is no T5 model; make one with 'hearth-benchmark make-model'"
    case .noMemoryFigures: "/proc/self/status does not tell what this process holds in memory"
    case .unknownCommand(let line): "unknown command '\(line)'"
    case .wrongSideHeads(let asked, let found):
      "--side-heads \(asked) cannot be: this backbone's side blocks have \(found) heads, or its own number with 0"
    case .incompleteCache(let path):
      "\(path) lacks samples of the workload; fill it with 'hearth-benchmark make-cache'"
    }
  }
}
