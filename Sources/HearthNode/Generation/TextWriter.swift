import ComputeRuntime
import LanguageModels
import Synchronization
import TensorKernels

/// An encoder-decoder that writes texts; made once, used for any number of chunks.
package final class TextWriter {
  private let model: OpenedModel
  private let team: ComputeTeam
  /// One generator a worker.
  private let generators: [TextGenerator]
  private let maximumLength: Int

  /// Opens the model and plans the memory of every worker.
  package init(_ request: GenerationRequest) throws {
    model = try OpenedModel(directory: request.modelDirectory)
    guard let backbone = model.backbone as? any EncoderDecoderBackbone else {
      throw GenerationFailure.noDecoder(
        path: request.modelDirectory, family: model.architecture.name.uppercased())
    }
    let maximumLength = min(request.maximumLength, model.architecture.maximumLength ?? .max)
    self.maximumLength = maximumLength
    let machine = MachineProfile.current()
    let threads = max(1, request.threads ?? machine.usableCores)
    let needed =
      threads
      * TextGenerator.byteCount(backbone, settings: request.settings, maximumSource: maximumLength)
    guard needed <= machine.availableMemory else {
      throw GenerationFailure.memory(needed: needed, available: machine.availableMemory)
    }
    team = ComputeTeam(width: threads)
    generators = (0..<threads).map { _ in
      TextGenerator(backbone, settings: request.settings, maximumSource: maximumLength)
    }
  }

  /// Writes one text for each input, in order; a text does not depend on the others or on the threads.
  package func write(_ inputs: [PredictionInput]) throws -> [GeneratedText] {
    let encoded = try inputs.map {
      try model.tokenizer.encode($0.text, pair: $0.pair, maxLength: maximumLength)
    }
    let written = Written(count: encoded.count)
    let generators = generators
    team.forEach(encoded.count) { piece, worker in
      let found = generators[worker].generate(encoded[piece].ids, types: encoded[piece].types)
      written.set(found, at: piece)
    }
    return zip(encoded, written.all).map { source, found in
      GeneratedText(
        text: model.tokenizer.decode(found.ids), tokens: found.ids.count, isCut: found.isCut,
        truncatedInput: source.truncatedTokens > 0)
    }
  }

  /// What the workers wrote, each at its own place.
  private final class Written: Sendable {
    private let values: Mutex<[WrittenIDs]>

    init(count: Int) {
      values = Mutex([WrittenIDs](repeating: WrittenIDs(ids: [], isCut: false), count: count))
    }

    func set(_ value: WrittenIDs, at index: Int) { values.withLock { $0[index] = value } }

    var all: [WrittenIDs] { values.withLock { $0 } }
  }
}
