package import ComputeRuntime
import FineTuning
import FoundationEssentials
import HearthStorage
import LanguageModels
package import NeuralNetworks

/// The texts that a seq2seq adapter has to write for the held-out rows, and whether it does.
package struct HeldOutTexts: Sendable, Equatable {
  /// Most bytes of the file that keeps them for the owner of a job.
  private static let fileBytes = 1 << 30

  /// The texts, one a held-out sample.
  package var texts: [String]

  /// The texts of a run's held-out rows.
  package init(_ texts: [String]) { self.texts = texts }

  /// Reads what `write` wrote.
  package init(contentsOf path: String) throws {
    let bytes = try readWholeFile(path, limit: Self.fileBytes)
    texts = try JSONDecoder().decode([String].self, from: Data(bytes))
  }

  /// Keeps them in a file that only this user reads: they never leave the device.
  package func write(to path: String) throws {
    try AtomicFile.write(Array(try JSONEncoder().encode(texts)), to: path, permissions: 0o600)
  }

  /// The share of texts that the adapted model writes as the rows have them, greedily; nil when `finished`, which
  /// hears how many samples are done, wants no more.
  package func exactMatch(
    _ run: PreparedRun, model: OpenedModel, parameters: ParameterTree, team: ComputeTeam,
    finished: (Int) -> Bool = { _ in true }
  ) throws -> Double? {
    guard let backbone = model.backbone as? any EncoderDecoderBackbone, let settings = run.writerSettings
    else { preconditionFailure("held-out texts need a model that writes") }
    let writers = WritingTeam(team) {
      run.technique.generator(
        backbone, parameters: parameters, settings: settings, maximumSource: run.maximumLength)
    }
    let written = try writers.write(
      run.validationSamples.map { ($0.encoderIDs, $0.encoderTypes) }, finished: finished)
    guard let written else { return nil }
    return FineTuning.exactMatch(predicted: written.map { model.tokenizer.decode($0.ids) }, actual: texts)
  }
}
