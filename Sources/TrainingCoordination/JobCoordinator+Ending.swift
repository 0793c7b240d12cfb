import CryptoPrimitives
import Determinism
import MeshModel

/// How the result comes to the owner.
extension JobCoordinator {
  /// The completion that the adapter is written from: this device's own if it holds everything.
  var bestCompletion: RunCompletion? {
    ([own] + completions.keys.sorted()).lazy.compactMap { self.completions[$0] }.first { $0.digest != nil }
  }

  /// The owner writes the adapter once every device of the plan is done, or has had the time to.
  mutating func deliverWhenDone(at now: MonotonicInstant) {
    guard isResultKnown else { return }
    let digests = Set(completions.values.compactMap(\.digest))
    guard digests.count == 1 else {
      return end(.failure(of: nil, "the devices trained \(digests.count) different adapters"))
    }
    guard isOwner, !delivery.isUnderWay, let best = bestCompletion else { return }
    // After a restart it opens the package first.
    guard ownReport != nil || declines[own] != nil else { return }
    let since = delivery.resultSince ?? now
    delivery.resultSince = since
    if !participants.allSatisfy({ completions[$0] != nil }),
      !hasPassed(JobLimits.completionWait, since: since, at: now)
    {
      return
    }
    if let due = delivery.retryAt, due > now { return wake(at: due) }
    // This device first: it has the result already.
    let holders = holders(at: now)
    guard !holders.isEmpty else { return }
    delivery.isUnderWay = true
    effects.append(.deliver(best, from: holders.filter { $0 == own } + holders.filter { $0 != own }))
  }

  /// Devices that are there and hold all trained values, ascending.
  private func holders(at now: MonotonicInstant) -> [DeviceID] {
    completions.keys.sorted().filter { completions[$0]?.digest != nil && isThere($0, at: now) }
  }

  mutating func delivered(_ adapter: ContentDigest) {
    guard isOwner, delivery.isUnderWay else { return drop() }
    end(.finished(adapter: adapter, results: bestCompletion?.results ?? []))
  }

  /// A device that holds the result may be away for a moment; a full disk stays full.
  mutating func deliveryFailed(_ reason: String, at now: MonotonicInstant) {
    delivery.isUnderWay = false
    if !holders(at: now).isEmpty { delivery.failures += 1 }
    if delivery.failures >= JobLimits.deliveries { return end(.failure(of: own, reason)) }
    delivery.retryAt = now.advanced(by: JobLimits.completionWait)
  }
}
