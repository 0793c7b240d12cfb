import Determinism
import Testing

@Suite struct MonotonicInstantTests {
  @Test("An instant is moved by a duration and back to the nanosecond")
  func movement() {
    var generator = SeededGenerator(seed: 1)
    for _ in 0..<10_000 {
      let start = MonotonicInstant(nanoseconds: Int64(bitPattern: generator.next()) >> 2)
      let duration = Duration.nanoseconds(Int64(bitPattern: generator.next()) >> 2)
      let end = start.advanced(by: duration)
      #expect(start.duration(to: end) == duration)
      #expect(end.advanced(by: .zero - duration) == start)
      #expect((start < end) == (duration > .zero))
    }
  }

  @Test("The law of InstantProtocol holds for any two instants, the clock's two ends too")
  func law() {
    var generator = SeededGenerator(seed: 2)
    var instants = [Int64.min, .min + 1, -1, 0, 1, .max - 1, .max].map { MonotonicInstant(nanoseconds: $0) }
    for _ in 0..<60 { instants.append(MonotonicInstant(nanoseconds: Int64(bitPattern: generator.next()))) }
    for first in instants {
      for second in instants {
        #expect(first.advanced(by: first.duration(to: second)) == second)
        #expect(first.duration(to: second) == .zero - second.duration(to: first))
        #expect((first < second) == (first.duration(to: second) > .zero))
      }
    }
  }

  @Test("Movement past an end of the clock stays at that end")
  func ends() {
    let last = MonotonicInstant(nanoseconds: .max)
    let first = MonotonicInstant(nanoseconds: .min)
    #expect(last.advanced(by: .nanoseconds(1)) == last)
    #expect(first.advanced(by: .nanoseconds(-1)) == first)
    // 1,000 years are more nanoseconds than 64 bits hold.
    #expect(MonotonicInstant.zero.advanced(by: .seconds(1000 * 365 * 86_400)) == last)
    #expect(MonotonicInstant.zero.advanced(by: .seconds(-1000 * 365 * 86_400)) == first)
    #expect(first.advanced(by: .seconds(1000 * 365 * 86_400)) == last)
  }

  @Test("Parts of a nanosecond are cut off towards zero")
  func truncation() {
    let half = Duration(secondsComponent: 0, attosecondsComponent: 500_000_000)
    #expect(MonotonicInstant.zero.advanced(by: half) == .zero)
    #expect(MonotonicInstant(nanoseconds: -5).advanced(by: half).nanoseconds == -5)
    #expect((half + half).wholeNanoseconds == 1)
    #expect((.zero - half).wholeNanoseconds == 0)
    #expect(
      Duration(secondsComponent: 2, attosecondsComponent: 999_999_999_999_999_999).wholeNanoseconds
        == 2_999_999_999)
    #expect(
      Duration(secondsComponent: -2, attosecondsComponent: -999_999_999_999_999_999).wholeNanoseconds
        == -2_999_999_999)
  }

  @Test("Whole nanoseconds stay at the ends of their range of 292 years")
  func wholeNanoseconds() {
    #expect(Duration.nanoseconds(Int64.max).wholeNanoseconds == .max)
    #expect(Duration.nanoseconds(Int64.min).wholeNanoseconds == .min)
    #expect((Duration.nanoseconds(Int64.max) + .nanoseconds(1)).wholeNanoseconds == .max)
    #expect((Duration.nanoseconds(Int64.min) - .nanoseconds(1)).wholeNanoseconds == .min)
    #expect(Duration.seconds(Int64.max).wholeNanoseconds == .max)
    #expect(Duration.seconds(Int64.min).wholeNanoseconds == .min)
    #expect(Duration.milliseconds(-1500).wholeNanoseconds == -1_500_000_000)
  }

  @Test("A duration in seconds", arguments: [(1500, 1.5), (-250, -0.25), (0, 0)])
  func seconds(_ milliseconds: Int, _ expected: Double) {
    #expect(Duration.milliseconds(milliseconds).inSeconds == expected)
  }

  @Test(
    "An instant is shown in seconds with nine decimals",
    arguments: [
      (0, "0.000000000s"), (1, "0.000000001s"), (-1, "-0.000000001s"), (1_500_000_000, "1.500000000s"),
      (-61_000_000_007, "-61.000000007s"), (.max, "9223372036.854775807s"), (.min, "-9223372036.854775808s"),
    ] as [(Int64, String)])
  func description(_ nanoseconds: Int64, _ expected: String) {
    #expect(MonotonicInstant(nanoseconds: nanoseconds).description == expected)
  }

  @Test("The time asleep is how far the two clocks have come apart")
  func asleep() {
    let start = ClockReading(
      monotonic: MonotonicInstant(nanoseconds: 5_000), sinceBoot: MonotonicInstant(nanoseconds: 5_000))
    #expect(start.asleep == .zero)
    var later = start
    later.monotonic = later.monotonic.advanced(by: .seconds(2))
    later.sinceBoot = later.sinceBoot.advanced(by: .seconds(3602))
    #expect(later.asleep - start.asleep == .seconds(3600))
    #expect(later != start && Set([later, start, later]).count == 2)
  }
}
