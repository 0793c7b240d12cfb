import Determinism
import MeshSimulator
import Testing

@Suite struct DeviceClockTests {
  private func seconds(_ value: Double) -> MonotonicInstant {
    MonotonicInstant(nanoseconds: Int64(value * 1e9))
  }

  @Test func aClockThatIsTooFastByTwoHundredPartsPerMillionGainsSeventeenSecondsADay() {
    let clock = DeviceClock(start: .zero, drift: 200)
    let reading = clock.reading(at: seconds(86_400))
    // 86,400 s x 200e-6 = 17.28 s.
    #expect(reading.monotonic == seconds(86_417.28))
    #expect(reading.sinceBoot == reading.monotonic)
    #expect(reading.asleep == .zero)
  }

  @Test func whileTheMachineSleepsOnlyTheClockSinceBootGoesOn() {
    var clock = DeviceClock(start: seconds(5), base: .seconds(100), drift: 0)
    clock.suspend(at: seconds(10))
    #expect(clock.reading(at: seconds(40)).monotonic == seconds(105))
    #expect(clock.reading(at: seconds(40)).sinceBoot == seconds(135))
    clock.resume(at: seconds(40))
    let later = clock.reading(at: seconds(41))
    #expect(later.monotonic == seconds(106))
    #expect(later.asleep == .seconds(30))
    // A deadline that was two seconds away when the machine fell asleep is still two seconds away.
    #expect(clock.time(ofMonotonic: seconds(107)) == seconds(42))
  }

  @Test func theTimeOfADeadlineIsTheFirstAtWhichTheClockShowsIt() {
    var generator = SeededGenerator(seed: 8)
    for _ in 0..<2_000 {
      let drift = Int64(generator.uniform(below: 401)) - 200
      var clock = DeviceClock(
        start: MonotonicInstant(nanoseconds: Int64(generator.uniform(below: 1_000_000_000))),
        base: .milliseconds(generator.uniform(below: 100_000_000)), drift: drift)
      if generator.uniform(below: 2) == 0 {
        clock.suspend(at: seconds(2))
        clock.resume(at: seconds(2 + Double(generator.uniform(below: 100))))
      }
      let deadline = clock.reading(at: seconds(200)).monotonic
        .advanced(by: .nanoseconds(generator.uniform(below: 60_000_000_000)))
      let time = clock.time(ofMonotonic: deadline)
      #expect(clock.reading(at: time).monotonic >= deadline)
      let before = time.advanced(by: .nanoseconds(-1))
      #expect(clock.reading(at: before).monotonic < deadline)
    }
  }
}
