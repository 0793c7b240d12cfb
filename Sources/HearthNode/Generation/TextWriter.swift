import ComputeRuntime
import FineTuning
import LanguageModels
import TensorKernels

/// An encoder-decoder, adapted or not, that writes texts; made once, used for any number of chunks.
package final class TextWriter {
  private let model: OpenedModel
  private let writers: WritingTeam
  private let maximumLength: Int

  /// Opens the model, and the adapter if one is asked for, and plans the memory of every worker.
  package init(_ request: GenerationRequest) throws {
    let adapter = try request.adapterDirectory.map {
      try OpenedAdapter($0, modelDirectory: request.modelDirectory)
    }
    let directory = request.modelDirectory ?? adapter?.description.modelDirectory ?? ""
    model = try adapter?.model ?? OpenedModel(directory: directory)
    guard let backbone = model.backbone as? any EncoderDecoderBackbone else {
      throw GenerationFailure.noDecoder(path: directory, family: model.architecture.name.uppercased())
    }
    if let adapter, adapter.technique.head != .languageModel {
      throw GenerationFailure.noWriter(adapter: request.adapterDirectory ?? "")
    }
    let settings = request.settings(for: adapter?.description)
    let maximumLength = min(
      request.maximumLength ?? adapter?.description.maximumLength ?? GenerationRequest.defaultMaximumLength,
      model.architecture.maximumLength ?? .max)
    self.maximumLength = maximumLength
    let machine = MachineProfile.current()
    let threads = max(1, request.threads ?? machine.usableCores)
    let each =
      adapter?.technique.generatorBytes(backbone, settings: settings, maximumSource: maximumLength)
      ?? TextGenerator.byteCount(backbone, settings: settings, maximumSource: maximumLength)
    guard threads * each <= machine.availableMemory else {
      throw GenerationFailure.memory(needed: threads * each, available: machine.availableMemory)
    }
    _ = BLASCore.select()
    writers = WritingTeam(ComputeTeam(width: threads)) {
      guard let adapter else {
        return TextGenerator(backbone, settings: settings, maximumSource: maximumLength)
      }
      return adapter.technique.generator(
        backbone, parameters: adapter.parameters, settings: settings, maximumSource: maximumLength)
    }
  }

  /// Writes one text for each input, in order; a text does not depend on the others or on the threads.
  package func write(_ inputs: [PredictionInput]) throws -> [GeneratedText] {
    let encoded = try inputs.map {
      try model.tokenizer.encode($0.text, pair: $0.pair, maxLength: maximumLength)
    }
    let written = try writers.write(encoded.map { ($0.ids, $0.types) }) ?? []
    return zip(encoded, written).map { source, found in
      GeneratedText(
        text: model.tokenizer.decode(found.ids), tokens: found.ids.count, isCut: found.isCut,
        truncatedInput: source.truncatedTokens > 0)
    }
  }
}
