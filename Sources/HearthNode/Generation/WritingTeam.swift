import ComputeRuntime
import FineTuning
import LanguageModels
import Synchronization
import TensorKernels

/// What writes a text for an input text, on one thread at a time.
protocol TextGenerating: Sendable {
  /// What the model writes for an input text.
  func generate(_ encoderIDs: [Int32], types: [Int32]) throws(TrainingFailure) -> WrittenIDs
}

extension TextGenerator: TextGenerating {}
extension SideTextGenerator: TextGenerating {}

/// Writes texts on all threads of a team, each with its own generator.
final class WritingTeam {
  private let team: ComputeTeam
  private let generators: [any TextGenerating]

  /// A team whose every thread writes with its own generator.
  init(_ team: ComputeTeam, generator: () -> any TextGenerating) {
    self.team = team
    generators = (0..<team.width).map { _ in generator() }
  }

  /// Writes one text for each input, in order; a text does not depend on the others or on the threads.
  ///
  /// - Parameter finished: called with the number of texts now and then; returning false ends the work with nil.
  func write(
    _ inputs: [(ids: [Int32], types: [Int32])], finished: (Int) -> Bool = { _ in true }
  ) throws(TrainingFailure) -> [WrittenIDs]? {
    let written = Mutex([WrittenIDs](repeating: WrittenIDs(ids: [], isCut: false), count: inputs.count))
    let failure = Mutex<TrainingFailure?>(nil)
    let generators = generators
    let wave = team.width * 4
    for start in stride(from: 0, to: inputs.count, by: wave) {
      let end = min(inputs.count, start + wave)
      team.forEach(end - start) { piece, worker in
        let input = inputs[start + piece]
        do throws(TrainingFailure) {
          let found = try generators[worker].generate(input.ids, types: input.types)
          written.withLock { $0[start + piece] = found }
        } catch {
          failure.withLock { $0 = $0 ?? error }
        }
      }
      if let error = failure.withLock({ $0 }) { throw error }
      guard finished(end) else { return nil }
    }
    return written.withLock { $0 }
  }
}
