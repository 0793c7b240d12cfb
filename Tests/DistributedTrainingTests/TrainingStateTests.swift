import Determinism
import DistributedTraining
import Testing

@Suite("A saved state of training")
struct TrainingStateTests {
  static func state(seed: UInt64) -> TrainingState {
    var generator = SeededGenerator(seed: seed)
    var ranges: [Range<Int>] = []
    var end = Int(generator.uniform(below: 3))
    for _ in 0..<Int(generator.uniform(below: 5)) {
      let low = end + 1 + Int(generator.uniform(below: 7))
      end = low + 1 + Int(generator.uniform(below: 20))
      ranges.append(low..<end)
    }
    let count = ranges.reduce(0) { $0 + $1.count }
    func floats() -> [Float] { (0..<count).map { _ in generator.normalFloat() } }
    return TrainingState(
      step: Int(generator.uniform(below: 1000)),
      exponents: (0..<3).map { _ in Int32(generator.uniform(below: 90)) - 45 },
      ranges: ranges, values: floats(), firstMoments: floats(), secondMoments: floats(),
      lossSum: Double(generator.normalFloat()), lossUnits: Int(generator.uniform(below: 50)))
  }

  @Test("comes back from its bytes, whatever it holds", arguments: 0..<40)
  func roundTrip(seed: Int) throws {
    let state = Self.state(seed: UInt64(seed))
    #expect(try TrainingState(decoding: state.encoded) == state)
  }

  @Test("a changed bit anywhere, a missing end or a longer one is noticed")
  func damage() {
    let bytes = Self.state(seed: 11).encoded
    for bit in stride(from: 0, to: bytes.count * 8, by: 13) {
      var damaged = bytes
      damaged[bit / 8] ^= 1 << (bit % 8)
      #expect(throws: TrainingStateFailure.digest) { try TrainingState(decoding: damaged) }
    }
    for count in 0..<bytes.count {
      #expect(throws: TrainingStateFailure.self) { try TrainingState(decoding: Array(bytes[..<count])) }
    }
    #expect(throws: TrainingStateFailure.digest) { try TrainingState(decoding: bytes + [0]) }
  }

  @Test("counts over their limits and ranges out of order are refused although the digest is right")
  func limits() {
    var state = Self.state(seed: 11)
    state.ranges = [4..<6, 6..<8]
    state.values = [0, 1, 2, 3]
    (state.firstMoments, state.secondMoments) = (state.values, state.values)
    #expect(throws: TrainingStateFailure.malformed("the ranges are not in order")) {
      try TrainingState(decoding: state.encoded)
    }
    state.ranges = [4..<8]
    state.secondMoments.append(1)
    #expect(throws: TrainingStateFailure.malformed("4 bytes too many")) {
      try TrainingState(decoding: state.encoded)
    }
    state.secondMoments = []
    #expect(throws: TrainingStateFailure.self) { try TrainingState(decoding: state.encoded) }
    state.step = TrainingState.stepLimit + 1
    #expect(
      throws: TrainingStateFailure.limit(
        "steps", count: UInt64(state.step), limit: TrainingState.stepLimit)
    ) { try TrainingState(decoding: state.encoded) }
  }
}
