import Determinism
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

  // MARK: Length

  /// Lengths like those of MRPC's pairs: a sum of even draws, 19 to 84 tokens, mean 53.
  private func pairLengths(_ count: Int, seed: UInt64) -> [Int] {
    var generator = SeededGenerator(seed: seed)
    return (0..<count).map { _ in
      19 + (0..<5).reduce(0) { sum, _ in sum + generator.uniform(below: 14) }
    }
  }

  /// How much of the time `devices` equal devices compute when each takes as many neighbouring lanes in every step.
  private func balance(_ plan: LanePlan, _ lengths: [Int], devices: Int, epochs: Int) -> Double {
    var (all, longest) = (0, 0)
    for miniBatch in (0..<epochs).flatMap({ plan.miniBatches(epoch: $0) }) {
      var work = Array(repeating: 0, count: devices)
      for unit in miniBatch {
        work[unit.lane * devices / plan.lanes.count] += plan.samples(of: unit).reduce(0) { $0 + lengths[$1] }
      }
      all += work.reduce(0, +)
      longest += work.max() ?? 0
    }
    return Double(all) / Double(devices * longest)
  }

  @Test("keeps 8 devices at least 97 % busy on lengths like MRPC's", arguments: [64, 500, 3668])
  func balanced(count: Int) {
    for (lanes, microBatch) in [(8, 2), (8, 4)] {
      for seed in 1...5 as ClosedRange<UInt64> {
        let lengths = pairLengths(count, seed: seed)
        let plan = LanePlan(lengths: lengths, laneCount: lanes, samplesPerMicroBatch: microBatch, seed: seed)
        #expect(
          balance(plan, lengths, devices: 8, epochs: 5) >= 0.97, "\(lanes) x \(microBatch), seed \(seed)")
        #expect(balance(plan, lengths, devices: 2, epochs: 5) >= 0.99)
        let blind = LanePlan(
          sampleCount: count, laneCount: lanes, samplesPerMicroBatch: microBatch, seed: seed)
        #expect(balance(blind, lengths, devices: 8, epochs: 5) < 0.95, "else nothing was to be gained")
      }
    }
  }

  @Test(
    "trains every sample exactly once an epoch whatever the lengths are", arguments: [1, 7, 61, 128, 500])
  func everySampleOfAnyLength(count: Int) {
    var generator = SeededGenerator(seed: 12)
    let lengths = (0..<count).map { _ in generator.uniform(below: 4) == 0 ? 512 : generator.uniform(below: 90)
    }
    for (lanes, microBatch) in [(1, 1), (4, 4), (8, 2), (16, 1), (3, 5), (8, .max)] {
      let plan = LanePlan(lengths: lengths, laneCount: lanes, samplesPerMicroBatch: microBatch, seed: 5)
      #expect(plan.lanes.allSatisfy { $0.allSatisfy { (1...microBatch).contains($0.count) } })
      #expect(plan.bands.flatMap { $0 } == Array(0..<plan.stepsPerEpoch))
      for epoch in 0..<3 {
        let miniBatches = plan.miniBatches(epoch: epoch)
        #expect(miniBatches.count == plan.stepsPerEpoch)
        #expect(miniBatches.flatMap { $0 }.flatMap { plan.samples(of: $0) }.sorted() == Array(0..<count))
      }
    }
  }

  @Test("mixes in a mini-batch only micro-batches of which none is over 1/16 longer than another")
  func bands() {
    let lengths = pairLengths(2000, seed: 4)
    let plan = LanePlan(lengths: lengths, laneCount: 8, samplesPerMicroBatch: 1, seed: 4)
    #expect(plan.bands.count > 5 && plan.bands.contains { $0.count > 10 })
    for band in plan.bands where band.count > 1 {
      let sums = plan.lanes.flatMap { lane in
        band.clamped(to: 0..<lane.count).map { lane[$0].reduce(0) { $0 + lengths[$1] } }
      }
      #expect(16 * (sums.max() ?? 0) <= 17 * (sums.min() ?? 0))
    }
    let first = plan.miniBatches(epoch: 0)
    #expect(first.map { $0.map(\.index) } != plan.miniBatches(epoch: 1).map { $0.map(\.index) })
    #expect(first.contains { Set($0.map(\.index)).count > 4 }, "lanes are permuted each by itself")
    for miniBatch in first {
      let bands = Set(miniBatch.map { unit in plan.bands.firstIndex { $0.contains(unit.index) } })
      #expect(bands.count == 1)
    }
  }

  @Test("has smaller micro-batches than a blind deal, so that buffers are smaller")
  func smallerBuffers() {
    let lengths = pairLengths(3668, seed: 1)
    func longest(_ plan: LanePlan) -> Int {
      plan.lanes.flatMap { $0 }.map { $0.reduce(0) { $0 + lengths[$1] } }.max() ?? 0
    }
    let plan = LanePlan(lengths: lengths, laneCount: 8, samplesPerMicroBatch: 2, seed: 1)
    let blind = LanePlan(sampleCount: 3668, laneCount: 8, samplesPerMicroBatch: 2, seed: 1)
    #expect(10 * longest(plan) < 8 * longest(blind))
  }

  @Test("gives every step about as many samples when they do not fill the last one")
  func noLonelySample() {
    let plan = LanePlan(sampleCount: 17, laneCount: 8, samplesPerMicroBatch: 2, seed: 1)
    #expect(plan.miniBatches(epoch: 0).allSatisfy { $0.count == 8 })
    let sizes = plan.miniBatches(epoch: 0).map { $0.reduce(0) { $0 + plan.samples(of: $1).count } }
    #expect(sizes.sorted() == [8, 9])
  }
}
