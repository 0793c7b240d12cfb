/// A small, splittable random generator whose whole stream is decided by its seed.
///
/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014).
/// Every draw of the project comes from one of these, so that a run can be repeated from its seed.
public struct SeededGenerator: RandomNumberGenerator, Sendable, Equatable {
  private var state: UInt64

  /// Starts the stream that belongs to `seed`.
  public init(seed: UInt64) {
    state = seed
  }

  /// Starts the stream of one named purpose inside a seed, for instance (job seed, "lane", 3, epoch).
  ///
  /// Each component is mixed in order; different component lists give independent streams.
  public init(seed: UInt64, _ components: UInt64...) {
    var mixed = SeededGenerator(seed: seed)
    for component in components {
      let spread = component &* 0x9E37_79B9_7F4A_7C15 &+ 0x632B_E59B_D9B4_E019
      mixed = SeededGenerator(seed: mixed.next() ^ spread)
    }
    self = mixed
  }

  /// The next 64 bits of the stream.
  public mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }

  /// A uniform integer in `0..<bound`; `bound` must be positive.
  public mutating func uniform(below bound: Int) -> Int {
    precondition(bound > 0, "uniform(below: \(bound)) needs a positive bound")
    return Int(next().multipliedFullWidth(by: UInt64(bound)).high)
  }

  /// A uniform float in [0, 1) with 24 bits.
  public mutating func uniformFloat() -> Float {
    Float(next() >> 40) * 0x1p-24
  }

  /// A sample of the standard normal distribution, as the sum of twelve uniforms minus six.
  ///
  /// The Irwin–Hall sum needs no logarithm or cosine, so its bits do not depend on a maths library;
  /// its tails end at ±6, which is what weight initialisation wants.
  public mutating func normalFloat() -> Float {
    var sum: Float = -6
    for _ in 0..<12 { sum += uniformFloat() }
    return sum
  }

  /// Shuffles in place (Fisher–Yates) with this generator only.
  public mutating func shuffle<Element>(_ elements: inout [Element]) {
    guard elements.count > 1 else { return }
    for index in stride(from: elements.count - 1, to: 0, by: -1) {
      elements.swapAt(index, uniform(below: index + 1))
    }
  }
}
