package import CryptoPrimitives
import PipelineSchedules

extension Plan {
  /// Version of the order of fields below.
  private static let digestVersion: UInt32 = 1

  /// What devices compare to agree on a plan: equal plans have equal digests on every machine.
  package var digest: ContentDigest {
    var hasher = ContentHasher()
    hasher.update("hearth plan")
    hasher.update(Plan.digestVersion)
    hasher.update(mode.rawValue)
    hasher.update(microBatches)
    hasher.update(stages.count)
    for stage in stages {
      hasher.update(stage.layers.lowerBound)
      hasher.update(stage.layers.upperBound)
      hasher.update(stage.members.count)
      for member in stage.members {
        hasher.update(member.device)
        hasher.update(member.units)
        hasher.update(member.memoryBytes)
      }
      hasher.update(stage.times.forward)
      hasher.update(stage.times.backward)
      hasher.update(stage.times.reduction)
    }
    hasher.update(boundaries.count)
    for boundary in boundaries {
      hasher.update(boundary.forward)
      hasher.update(boundary.backward)
    }
    hasher.update(cached.count)
    for member in cached {
      hasher.update(member.device)
      hasher.update(member.units)
      hasher.update(member.memoryBytes)
      hasher.update(member.cacheBytes)
    }
    let times = predicted
    for time in [
      times.step, times.firstEpoch, times.redistribution, times.cachedStep, times.cachedEpoch, times.total,
    ] {
      hasher.update(time)
    }
    return hasher.finalize()
  }
}
