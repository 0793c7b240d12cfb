import CryptoPrimitives
package import DistributedTraining
import FoundationEssentials
import HearthStorage
import LanguageModels
import ParallelPlanner

/// How many bits gradient sums took on the wire in earlier jobs of this device, below the state directory.
///
/// Nothing that can be measured before a job says it: it is how large gradients are, block by block, and depends on the
/// weights and the technique. So what a job of a kind took is what the next one of its kind is planned with.
package struct LearnedSums {
  private static let maximumBytes = 4096
  private let directory: String

  private struct Kept: Codable {
    var bits: Int64
  }

  /// What was learned below that directory.
  package init(stateDirectory: String) { directory = stateDirectory + "/profiles" }

  /// What the last job of that kind took, in bits a sum; nil when there was none.
  package func bits(of shape: JobShape) -> Int64? {
    guard let bytes = try? readWholeFile(path(shape), limit: Self.maximumBytes),
      let kept = try? JSONDecoder().decode(Kept.self, from: Data(bytes)),
      PlanningLimits.sumBits.contains(kept.bits)
    else { return nil }
    return kept.bits
  }

  /// Keeps what a job has sent; one that sent nothing says nothing, and a disk that refuses costs nothing but accuracy.
  package func keep(_ traffic: SumTraffic, of shape: JobShape) {
    guard let bits = traffic.bitsOfSum else { return }
    let limits = PlanningLimits.sumBits
    let kept = Kept(bits: min(max(Int64(bits.rounded()), limits.lowerBound), limits.upperBound))
    guard let bytes = canonicalJSON(kept), (try? createDirectory(directory, isPrivate: true)) != nil
    else { return }
    try? AtomicFile.write(bytes, to: path(shape))
  }

  /// Texts of other lengths, or more of them in a unit, have sums of much the same size.
  private func path(_ shape: JobShape) -> String {
    var kind = shape
    (kind.samplesPerUnit, kind.encoderLength, kind.decoderLength) = (1, 1, 1)
    return "\(directory)/sums-\(kind.digest).json"
  }
}
