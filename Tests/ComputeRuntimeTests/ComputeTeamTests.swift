import ComputeRuntime
import Synchronization
import TensorKernels
import Testing

/// Counts per piece and per worker, written from many threads.
private final class Tally: Sendable {
  private let counts: Mutex<[Int]>

  init(_ count: Int) { counts = Mutex([Int](repeating: 0, count: count)) }

  func add(_ index: Int) { counts.withLock { $0[index] += 1 } }
  var all: [Int] { counts.withLock { $0 } }
}

@Suite struct ComputeTeamTests {
  @Test(arguments: [1, 2, 3, 4, 7, 16])
  func everyPieceRunsExactlyOnceWhateverTheCountAndTheWidth(width: Int) {
    let team = ComputeTeam(width: width)
    #expect(team.width == width)
    for count in [0, 1, 2, 3, 5, 8, 64, 257] {
      let pieces = Tally(count)
      let workers = Tally(width)
      team.forEach(count) { piece, worker in
        pieces.add(piece)
        workers.add(worker)
      }
      #expect(pieces.all == [Int](repeating: 1, count: count), "\(count) pieces, \(width) workers")
      #expect(workers.all.reduce(0, +) == count)
    }
  }

  @Test func aLoopHasEndedWhenForEachReturns() {
    let team = ComputeTeam(width: 4)
    // Plain memory, no lock: only the loop's own end makes these writes visible.
    let values = UnsafeMutableBufferPointer<Int>.allocate(capacity: 1_000)
    defer { values.deallocate() }
    for round in 0..<200 {
      values.initialize(repeating: -1)
      let base = Shared(values.baseAddress!)
      team.forEach(1_000) { piece, _ in base.pointer[piece] = piece &* round }
      #expect(values.indices.allSatisfy { values[$0] == $0 &* round }, "round \(round)")
    }
  }

  @Test func productsByOpenBLASOnSeveralThreadsGiveTheBitsOfSerialOnes() {
    let (pieces, m, n, k) = (12, 130, 257, 190)
    let operands = Arena(floatCount: pieces * (m * k + n * k))
    for index in 0..<operands.floatCount { operands.base[index] = Float((index * 7919) % 1013) / 1013 - 0.5 }
    let results = Arena(floatCount: 2 * pieces * m * n)
    let multiply: @Sendable (Int, Int) -> Void = { piece, half in
      let start = operands.base + piece * (m * k + n * k)
      matrixMultiplyByBLAS(
        Matrix(start, rows: m, columns: k), .none, Matrix(start + m * k, rows: n, columns: k), .transposed,
        into: Matrix(results.base + (half * pieces + piece) * m * n, rows: m, columns: n))
    }
    for piece in 0..<pieces { multiply(piece, 0) }
    let team = ComputeTeam(width: 4)
    for round in 0..<10 {
      team.forEach(pieces) { piece, _ in multiply(piece, 1) }
      let isEqual = (0..<pieces * m * n).allSatisfy {
        results.base[$0].bitPattern == results.base[pieces * m * n + $0].bitPattern
      }
      #expect(isEqual, "round \(round)")
    }
  }

  @Test func tenThousandShortLoopsLoseNoPiece() {
    let team = ComputeTeam(width: 3)
    let total = Atomic<Int>(0)
    for loop in 0..<10_000 {
      team.forEach(1 + loop % 5) { _, _ in total.add(1, ordering: .relaxed) }
    }
    #expect(total.load(ordering: .relaxed) == 2_000 * (1 + 2 + 3 + 4 + 5))
  }

  @Test func twoTeamsWorkSideBySide() async {
    let sums = Tally(2)
    await withTaskGroup(of: Void.self) { group in
      for index in 0..<2 {
        group.addTask {
          let team = ComputeTeam(width: 2)
          for _ in 0..<200 { team.forEach(10) { _, _ in sums.add(index) } }
        }
      }
    }
    #expect(sums.all == [2_000, 2_000])
  }

  @Test func runTakesBlockingWorkOffTheCooperativePoolAndReturnsItsValue() async throws {
    let team = ComputeTeam(width: 2)
    let sum = try await team.run { team in
      let total = Atomic<Int>(0)
      team.forEach(100) { piece, _ in total.add(piece, ordering: .relaxed) }
      return total.load(ordering: .relaxed)
    }
    #expect(sum == 4_950)
  }

  @Test func runHandsOnTheErrorOfItsWork() async {
    struct Refusal: Error {}
    let team = ComputeTeam(width: 1)
    await #expect(throws: Refusal.self) { try await team.run { _ in throw Refusal() } }
  }

  @Test func aLoopInsideALoopTraps() async {
    await #expect(processExitsWith: .failure) {
      let team = ComputeTeam(width: 2)
      team.forEach(2) { _, _ in team.forEach(2) { _, _ in } }
    }
  }

  @Test func aTeamOfNobodyTraps() async {
    await #expect(processExitsWith: .failure) { _ = ComputeTeam(width: 0) }
  }

  @Test func subnormalsAreFlushedOnEveryWorkerWhileALoopLasts() {
    let team = ComputeTeam(width: 4)
    let flushed = Tally(1)
    team.forEach(64) { _, _ in
      var value = Float.leastNormalMagnitude
      withUnsafeMutablePointer(to: &value) { halve($0) }
      if value == 0 { flushed.add(0) }
    }
    #expect(flushed.all == [64])
    // The caller was worker 0 for a while; afterwards its floating-point mode is its own again.
    var value = Float.leastNormalMagnitude
    withUnsafeMutablePointer(to: &value) { halve($0) }
    #expect(value != 0)
  }
}

/// Lets a loop write disjoint elements of one buffer.
///
/// - Safety: the buffer outlives the loop and no two pieces write the same element.
private struct Shared: @unchecked Sendable {
  let pointer: UnsafeMutablePointer<Int>
  init(_ pointer: UnsafeMutablePointer<Int>) { self.pointer = pointer }
}

/// Opaque to the optimiser, which would fold the division without the thread's floating-point mode.
@inline(never) private func halve(_ value: UnsafeMutablePointer<Float>) { value.pointee *= 0.5 }
