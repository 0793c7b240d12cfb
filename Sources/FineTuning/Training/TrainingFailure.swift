package import ActivationCache

/// Why a training or prediction step could not be finished.
package enum TrainingFailure: Error, Equatable, CustomStringConvertible {
  /// Activations that the cache's element type cannot hold.
  case activationOverflow(stack: String, tap: Int, values: Int, element: String)
  /// Gradients stayed out of range (or were not numbers) however small the fixed-point exponent was made.
  case diverged(step: Int)
  /// A sample's activations are neither in the cache nor can they be computed any more.
  case activationsMissing(samples: Int)
  /// Reading or writing the activation cache failed.
  case cache(CacheFailure)
  /// State on disk that does not fit this run.
  case foreignState(String)
  /// The exchange with the other devices of the job failed.
  case exchange(String)
  /// What another device sent for a stage's layers has not the length that the micro-batch and the layers say.
  case malformedBoundary(content: String, firstLayer: Int, lastLayer: Int, bytes: Int, expected: Int)

  /// One line: what was wrong, where, and the next step.
  package var description: String {
    switch self {
    case .activationOverflow(let stack, let tap, let values, let element):
      "\(values) activations of \(stack) tap \(tap) do not fit \(element); use --cache float32"
    case .diverged(let step):
      "training diverged at step \(step): gradients are not finite; use a smaller --learning-rate"
    case .activationsMissing(let samples):
      "activations of \(samples) samples are not in the cache and the backbone has been released; "
        + "start again with --resume, which recomputes them"
    case .cache(let failure): failure.description
    case .foreignState(let detail), .exchange(let detail): detail
    case .malformedBoundary(let content, let first, let last, let bytes, let expected):
      "another device sent \(bytes) bytes of \(content) for layers \(first) to \(last), expected \(expected); "
        + "all devices must run the same version of hearth: update them and start again"
    }
  }
}
