import Determinism
import MeshSimulator
import Testing

@Suite struct LinkTests {
  private func at(_ milliseconds: Int) -> MonotonicInstant {
    MonotonicInstant(nanoseconds: Int64(milliseconds) * 1_000_000)
  }

  private func link(_ change: (inout LinkConditions) -> Void) -> Link {
    var conditions = LinkConditions()
    conditions.minimumDelay = .milliseconds(1)
    conditions.meanExtraDelay = .zero
    conditions.bytesPerSecond = 1_000_000_000
    change(&conditions)
    return Link(conditions: conditions, generator: SeededGenerator(seed: 11))
  }

  @Test func vonNeumannsExponentialHasMeanOneVarianceOneAndTheRightTail() {
    var generator = SeededGenerator(seed: 1)
    let count = 200_000
    let samples = (0..<count).map { _ in generator.exponential() }
    let mean = samples.reduce(0, +) / Double(count)
    let variance = samples.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(count)
    // Standard errors: 1/sqrt(n) = 0.0022 of the mean, sqrt(8/n) = 0.0063 of the variance; five of each.
    #expect(abs(mean - 1) < 0.011)
    #expect(abs(variance - 1) < 0.032)
    // P(X > 3) = e^-3 = 0.049787, standard error 0.0005.
    let tail = Double(samples.count { $0 > 3 }) / Double(count)
    #expect(abs(tail - 0.049787) < 0.0025)
  }

  @Test func lossAndDuplicationHitTheShareThatIsAsked() {
    var lossy = link {
      $0.lossPerMillion = 50_000
      $0.duplicationPerMillion = 100_000
    }
    var lost = 0
    var doubled = 0
    let count = 100_000
    for number in 0..<count {
      switch lossy.send(byteCount: 100, at: at(number)) {
      case .lost: lost += 1
      case .arrives(let times): doubled += times.count - 1
      case .queueFull, .tooLarge: Issue.record("an empty link dropped a small packet")
      }
    }
    // Standard errors: 69 of 5,000 and 92 of 9,500; five of each.
    #expect(abs(lost - 5_000) < 345)
    #expect(abs(doubled - 9_500) < 460)
  }

  @Test func bandwidthDelaysWhatWaitsAndTheQueueDropsWhatIsTooMuch() {
    var narrow = link {
      $0.bytesPerSecond = 100_000
      $0.queueLimit = 3_000
    }
    // 1,000 bytes take 10 ms at 100,000 B/s; each waits for those before it.
    #expect(narrow.send(byteCount: 1_000, at: .zero) == .arrives([at(11)]))
    #expect(narrow.send(byteCount: 1_000, at: .zero) == .arrives([at(21)]))
    #expect(narrow.send(byteCount: 1_000, at: .zero) == .arrives([at(31)]))
    #expect(narrow.send(byteCount: 1_000, at: .zero) == .queueFull)
    #expect(narrow.send(byteCount: 1_000, at: at(30)) == .arrives([at(41)]))
  }

  @Test func packetsOverTheLargestSizeVanishAndStreamsAreCutToFit() {
    var tunnel = link { $0.largestPacket = 1_280 }
    #expect(tunnel.send(byteCount: 1_281, at: .zero) == .tooLarge)
    #expect(tunnel.send(byteCount: 1_280, at: .zero) != .tooLarge)
    #expect(tunnel.sendSegment(byteCount: 20_000, at: .zero) != .tooLarge)
  }

  @Test func aCloggedLinkDeliversEverythingAfterwards() {
    var clogged = link { _ in }
    clogged.clog(until: at(500))
    #expect(clogged.send(byteCount: 1_000, at: at(1)) == .arrives([at(501).advanced(by: .microseconds(1))]))
  }

  @Test func onlyReorderedPacketsAreOvertaken() {
    var orderly = link { $0.meanExtraDelay = .milliseconds(5) }
    var last = MonotonicInstant.zero
    for number in 0..<5_000 {
      guard case .arrives(let times) = orderly.send(byteCount: 100, at: at(number)) else { continue }
      #expect(times[0] >= last)
      last = times[0]
    }
    var disorderly = link { $0.reorderPerMillion = 200_000 }
    var arrivals: [MonotonicInstant] = []
    for number in 0..<1_000 {
      if case .arrives(let times) = disorderly.send(byteCount: 100, at: at(number)) { arrivals += times }
    }
    #expect(zip(arrivals, arrivals.dropFirst()).contains { $0 > $1 })
  }
}
