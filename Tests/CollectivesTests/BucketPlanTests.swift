import Collectives
import Determinism
import Testing

@Suite("Buckets of a reduction")
struct BucketPlanTests {
  /// Leaves of a flat vector from its start, finished from the last to the first as a backward pass does.
  private func backwards(_ counts: [Int]) -> [(leaf: Int, range: Range<Int>)] {
    var start = 0
    var leaves: [(leaf: Int, range: Range<Int>)] = []
    for (leaf, count) in counts.enumerated() {
      leaves.append((leaf, start..<start + count))
      start += count
    }
    return leaves.reversed()
  }

  @Test("close with at least the wanted bytes, in the order in which leaves are finished")
  func grouping() {
    let plan = BucketPlan(leaves: backwards([10, 20, 30, 5, 5]), bytesPerSum: 8, minimumBytes: 100)
    #expect(plan.buckets.map(\.leaves) == [[4, 3, 2], [1], [0]])
    #expect(plan.buckets.map(\.selection.ranges) == [[30..<70], [10..<30], [0..<10]])
    #expect(plan.bucket(of: 3) == 0)
    #expect(plan.bucket(of: 5) == nil)
    #expect(BucketPlan(leaves: [], bytesPerSum: 4, minimumBytes: 1).buckets.isEmpty)
  }

  @Test("hold every leaf once and, but for the last, no bucket could have been closed earlier")
  func coverage() {
    for seed in UInt64(0)..<100 {
      var generator = SeededGenerator(seed: seed)
      let counts = (0..<1 + generator.uniform(below: 30)).map { _ in generator.uniform(below: 50) }
      let minimum = 1 + generator.uniform(below: 400)
      let plan = BucketPlan(leaves: backwards(counts), bytesPerSum: 4, minimumBytes: minimum)
      #expect(
        plan.buckets.flatMap(\.leaves) == Array(counts.indices.reversed()), "seed \(seed)")
      for bucket in plan.buckets.dropLast() {
        let bytes = bucket.leaves.reduce(0) { $0 + counts[$1] * 4 }
        #expect(bucket.selection.count * 4 == bytes, "seed \(seed)")
        #expect(bytes >= minimum, "seed \(seed)")
        #expect(bytes - (bucket.leaves.last.map { counts[$0] * 4 } ?? 0) < minimum, "seed \(seed)")
      }
    }
  }

  @Test("are released when all units have finished all their leaves, and in the order of the plan")
  func release() throws {
    let plan = BucketPlan(leaves: backwards([10, 10, 10]), bytesPerSum: 8, minimumBytes: 80)
    var step = BucketReadiness(plan, units: 2)
    #expect(step.start().isEmpty)
    #expect(try step.leafFinished(2, unit: 0).isEmpty)
    #expect(try step.leafFinished(1, unit: 0).isEmpty)
    #expect(try step.leafFinished(1, unit: 1).isEmpty, "bucket 1 is complete, but bucket 0 goes first")
    #expect(try step.leafFinished(2, unit: 1) == 0..<2)
    #expect(!step.isComplete)
    #expect(try step.leafFinished(0, unit: 1).isEmpty)
    #expect(try step.leafFinished(0, unit: 0) == 2..<3)
    #expect(step.isComplete)
  }

  @Test("whatever order threads report in, each bucket is released once and never before its last report")
  func anyOrder() throws {
    for seed in UInt64(0)..<200 {
      var generator = SeededGenerator(seed: seed)
      let counts = (0..<8).map { _ in 1 + generator.uniform(below: 9) }
      let units = 1 + generator.uniform(below: 4)
      let plan = BucketPlan(leaves: backwards(counts), bytesPerSum: 8, minimumBytes: 80)
      var reports = counts.indices.flatMap { leaf in (0..<units).map { (leaf, $0) } }
      generator.shuffle(&reports)
      var step = BucketReadiness(plan, units: units)
      var released = Array(step.start())
      var reported: [Int] = []
      for (leaf, unit) in reports {
        reported.append(leaf)
        for bucket in try step.leafFinished(leaf, unit: unit) {
          released.append(bucket)
          for leaf in plan.buckets[bucket].leaves {
            #expect(reported.filter { $0 == leaf }.count == units, "seed \(seed)")
          }
        }
      }
      #expect(released == Array(plan.buckets.indices), "seed \(seed)")
      #expect(step.isComplete, "seed \(seed)")
    }
  }

  @Test("all begin at once on a device that computes nothing in the step")
  func idle() {
    let plan = BucketPlan(leaves: backwards([10, 10]), bytesPerSum: 8, minimumBytes: 1)
    var step = BucketReadiness(plan, units: 0)
    #expect(step.start() == 0..<2)
    #expect(step.isComplete)
  }

  @Test("refuse reports that do not fit the step, and go on")
  func refusals() throws {
    let plan = BucketPlan(leaves: backwards([10]), bytesPerSum: 8, minimumBytes: 1)
    var step = BucketReadiness(plan, units: 2)
    _ = try step.leafFinished(0, unit: 1)
    #expect(failure(of: &step, 0, unit: 1) == .repeated(leaf: 0, unit: 1))
    #expect(failure(of: &step, 1, unit: 0) == .unknownLeaf(1))
    for unit in [-1, 2] {
      #expect(failure(of: &step, 0, unit: unit) == .unknownUnit(unit, units: 2))
    }
    #expect(try step.leafFinished(0, unit: 0) == 0..<1)
  }

  private func failure(
    of step: inout BucketReadiness, _ leaf: Int, unit: Int
  ) -> BucketReadiness.Failure? {
    do throws(BucketReadiness.Failure) {
      _ = try step.leafFinished(leaf, unit: unit)
      return nil
    } catch {
      return error
    }
  }
}
