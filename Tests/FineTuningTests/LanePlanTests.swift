import FineTuning
import Testing

@Suite("A lane plan")
struct LanePlanTests {
  @Test("trains every sample exactly once in every epoch", arguments: [1, 2, 7, 16, 61, 128])
  func everySampleOnce(count: Int) {
    for (lanes, microBatch) in [(1, 1), (4, 4), (8, 2), (16, 1), (3, 5)] {
      let plan = LanePlan(sampleCount: count, laneCount: lanes, samplesPerMicroBatch: microBatch, seed: 5)
      for epoch in 0..<3 {
        let visited = plan.miniBatches(epoch: epoch).flatMap { $0 }.flatMap { plan.samples(of: $0) }
        #expect(
          visited.sorted() == Array(0..<count), "lanes \(lanes), micro-batch \(microBatch), epoch \(epoch)")
      }
    }
  }

  @Test("takes at most one micro-batch from every lane into a mini-batch")
  func oneMicroBatchALane() {
    let plan = LanePlan(sampleCount: 103, laneCount: 8, samplesPerMicroBatch: 2, seed: 1)
    for miniBatch in plan.miniBatches(epoch: 0) {
      #expect(Set(miniBatch.map(\.lane)).count == miniBatch.count)
      #expect(miniBatch.map(\.lane) == miniBatch.map(\.lane).sorted())
    }
  }

  @Test("keeps a sample in its lane and its micro-batch for the whole job")
  func fixedUnits() {
    let plan = LanePlan(sampleCount: 64, laneCount: 4, samplesPerMicroBatch: 4, seed: 9)
    let first = Set(plan.miniBatches(epoch: 0).flatMap { $0 })
    let second = plan.miniBatches(epoch: 1).flatMap { $0 }
    #expect(first == Set(second))
    #expect(plan.miniBatches(epoch: 0) != plan.miniBatches(epoch: 1))
  }

  @Test("is the same for the same seed and another for another seed")
  func seeded() {
    let plan = { LanePlan(sampleCount: 50, laneCount: 4, samplesPerMicroBatch: 3, seed: $0) }
    #expect(plan(3) == plan(3))
    #expect(plan(3).lanes != plan(4).lanes)
  }

  @Test("spreads samples so that lanes differ by at most one sample")
  func evenLanes() {
    let plan = LanePlan(sampleCount: 103, laneCount: 8, samplesPerMicroBatch: 2, seed: 1)
    let sizes = plan.lanes.map { $0.map(\.count).reduce(0, +) }
    #expect((sizes.max() ?? 0) - (sizes.min() ?? 0) <= 1)
  }
}
