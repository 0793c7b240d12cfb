package import LanguageModels
package import ParallelPlanner

/// How long something takes a device for one unit, in nanoseconds.
package struct UnitDuration: Sendable, Codable, Hashable {
  /// While one thread works and the others wait.
  package var alone: Int64
  /// While every thread works on a unit of its own; never less.
  package var together: Int64

  /// A duration; negative ones, which differences of measurements may give, count as nothing.
  package init(alone: Int64, together: Int64) {
    self.alone = max(0, alone)
    self.together = max(self.alone, together)
  }

  /// Nothing.
  package static let none = UnitDuration(alone: 0, together: 0)

  static func + (left: UnitDuration, right: UnitDuration) -> UnitDuration {
    UnitDuration(alone: left.alone + right.alone, together: left.together + right.together)
  }

  func map(_ change: (Int64) -> Int64) -> UnitDuration {
    UnitDuration(alone: change(alone), together: change(together))
  }

  /// What `bytes` take where this is the time of a mebibyte.
  func forBytes(_ bytes: Int) -> UnitDuration {
    func scaled(_ time: Int64) -> Int64 { Int64(Int128(time) * Int128(bytes) / Int128(1 << 20)) }
    return UnitDuration(alone: scaled(alone), together: scaled(together))
  }

  /// The times of 1 to `units` units on `threads` threads: rounds of as many units as there are threads.
  ///
  /// A last round that is not full takes between one thread's time and the time of all.
  package func table(units: Int, threads: Int) -> [Int64] {
    (1...units).map { count in
      let (rounds, rest) = count.quotientAndRemainder(dividingBy: threads)
      let whole = Int64(rounds) * together
      guard rest > 0 else { return whole }
      let slope = threads > 1 ? (together - alone) * Int64(rest - 1) / Int64(threads - 1) : 0
      return whole + alone + slope
    }
  }
}

/// The times of one part of a model: a block of a stack, what embeds its input, or the head.
package struct PartTimes: Sendable, Codable, Hashable {
  /// The backbone's forward pass, with the encoding of its taps.
  package var forward = UnitDuration.none
  /// The backbone's backward pass; nothing where it is frozen.
  package var backward = UnitDuration.none
  /// The side network's forward pass.
  package var sideForward = UnitDuration.none
  /// The side network's backward pass.
  package var sideBackward = UnitDuration.none

  /// A part that takes no time.
  package init() {}

  func map(_ change: (Int64) -> Int64) -> PartTimes {
    var times = PartTimes()
    times.forward = forward.map(change)
    times.backward = backward.map(change)
    times.sideForward = sideForward.map(change)
    times.sideBackward = sideBackward.map(change)
    return times
  }
}

/// What one device was measured to take for the parts of a model under a technique, with the code that trains.
package struct PartTimings: Sendable, Codable, Hashable {
  /// The times of one stack's parts.
  package struct Stack: Sendable, Codable, Hashable {
    /// `encoder` or `decoder`.
    package var kind: String
    /// One block, with the side block that reads it.
    package var block: PartTimes
    /// What stands before the first block.
    package var embedding: PartTimes

    /// The times of one stack.
    package init(kind: StackKind, block: PartTimes, embedding: PartTimes) {
      self.kind = kind.rawValue
      self.block = block
      self.embedding = embedding
    }
  }

  /// Threads that worked together.
  package var threads: Int
  /// The stacks of the model.
  package var stacks: [Stack]
  /// Everything behind the last block.
  package var head: PartTimes
  /// A mebibyte of taps into the cache: checksum, copy and index.
  package var cacheWrite: UnitDuration
  /// A mebibyte of taps out of the cache, in memory already.
  package var cacheRead: UnitDuration
  /// Clipping and update of a million trained values by all threads, once a step, in nanoseconds.
  package var updateOfMillion: Int64
  /// Processor time of a mebibyte of packed sums that goes round a ring, with one that comes, in nanoseconds; nil when it
  /// was not measured.
  package var exchangeOfMebibyte: Int64?
  /// Time of a mebibyte of memory that is written to for the first time, in nanoseconds; nil when it was not measured.
  package var freshMebibyte: Int64?
  /// Time of a mebibyte of a mapped file that is read for the first time and in memory already, in nanoseconds; nil when it
  /// was not measured.
  package var mappedMebibyte: Int64?
  /// Time for which a message waits in the mean because the device's quota of the processor is used up, in nanoseconds; nil
  /// without a quota.
  package var standstill: Int64?

  /// What was measured.
  package init(
    threads: Int, stacks: [Stack], head: PartTimes, cacheWrite: UnitDuration, cacheRead: UnitDuration,
    updateOfMillion: Int64, exchangeOfMebibyte: Int64? = nil, freshMebibyte: Int64? = nil,
    mappedMebibyte: Int64? = nil, standstill: Int64? = nil
  ) {
    self.threads = threads
    self.stacks = stacks
    self.head = head
    self.cacheWrite = cacheWrite
    self.cacheRead = cacheRead
    self.updateOfMillion = updateOfMillion
    self.exchangeOfMebibyte = exchangeOfMebibyte
    self.freshMebibyte = freshMebibyte
    self.mappedMebibyte = mappedMebibyte
    self.standstill = standstill
  }

  /// Times for `units` units and fewer of every kind of layer of a model.
  package func unitTimes(_ work: [KindWork], units: Int) -> [UnitTimes] {
    work.map { kind in
      let stack = stacks.first { $0.kind == kind.stack.rawValue }
      var parts = [stack?.block ?? PartTimes()]
      if kind.embeds { parts.append(stack?.embedding ?? PartTimes()) }
      if kind.ends { parts.append(head) }
      let carriesSide = kind.hasSide || kind.embeds || kind.ends
      var (fill, side, back, sideBack) = (
        UnitDuration.none, UnitDuration.none, UnitDuration.none, UnitDuration.none
      )
      for (index, part) in parts.enumerated() {
        fill = fill + part.forward
        back = back + part.backward
        // A block without a side block may still carry the embedding's or the head's part of the side network.
        guard carriesSide, index > 0 || kind.hasSide else { continue }
        side = side + part.sideForward
        sideBack = sideBack + part.sideBackward
      }
      fill = fill + cacheWrite.forBytes(kind.cacheBytes)
      let cached = side + sideBack + cacheRead.forBytes(kind.cacheBytes)
      func table(_ duration: UnitDuration) -> [Int64] { duration.table(units: units, threads: threads) }
      return UnitTimes(
        forward: table(fill + side), backward: table(back + sideBack), fill: table(fill),
        cached: table(cached))
    }
  }

  /// What daemons tell each other takes the processor as many bytes of a ring each second as this, and this for each other
  /// device.
  ///
  /// Measured in households of two and eight devices on a fifth of a processor each, and of two on whole ones: 3.0, 5.4
  /// and 2.5 ms a second, where a mebibyte of a ring took 2.9, 2.5 and 2.2 ms (docs/PERFORMANCE.md).
  private static let talkBytes = (base: 900_000, device: 190_000)

  /// The same times in a household of so many devices, whose talk takes some of the processor.
  package func amongst(devices: Int) -> PartTimings {
    guard devices > 1, let exchange = exchangeOfMebibyte, exchange > 0 else { return self }
    let bytes = Self.talkBytes.base + Self.talkBytes.device * (devices - 1)
    // A device that could do nothing else would be no use to plan with.
    let talk = min(500_000_000, Int64(Int128(exchange) * Int128(bytes) >> 20))
    func longer(_ time: Int64) -> Int64 {
      Int64(Int128(time) * 1_000_000_000 / Int128(1_000_000_000 - talk))
    }
    var timings = self
    for place in stacks.indices {
      timings.stacks[place].block = stacks[place].block.map(longer)
      timings.stacks[place].embedding = stacks[place].embedding.map(longer)
    }
    timings.head = head.map(longer)
    timings.cacheWrite = cacheWrite.map(longer)
    timings.cacheRead = cacheRead.map(longer)
    timings.updateOfMillion = longer(updateOfMillion)
    timings.exchangeOfMebibyte = longer(exchange)
    return timings
  }

  /// The rate of updates in bytes of one copy of the trained weights a second.
  package var updateBytesPerSecond: Int64 {
    guard updateOfMillion > 0 else { return PlanningLimits.bytes }
    return max(PlanningLimits.slowestBytesPerSecond, 4_000_000 * 1_000_000_000 / updateOfMillion)
  }

  /// The rate of rings that the processor keeps up with, in bytes sent a second.
  package var exchangeBytesPerSecond: Int64 { Self.rate(exchangeOfMebibyte) }

  /// The rate of the first touch of memory.
  package var freshBytesPerSecond: Int64 { Self.rate(freshMebibyte) }

  /// The rate of the first touch of weights.
  package var mappedBytesPerSecond: Int64 { Self.rate(mappedMebibyte) }

  private static func rate(_ mebibyte: Int64?) -> Int64 {
    guard let mebibyte, mebibyte > 0 else { return PlanningLimits.bytes }
    return max(PlanningLimits.slowestBytesPerSecond, (1 << 20) * 1_000_000_000 / mebibyte)
  }

  /// What is wrong with numbers that came from outside; nil when nothing is.
  package var problem: String? {
    guard (1...256).contains(threads) else {
      return "it has \(threads) threads; 1 to 256 can be planned with"
    }
    guard (1...2).contains(stacks.count), Set(stacks.map(\.kind)).count == stacks.count else {
      return "it has times of \(stacks.count) stacks"
    }
    let parts = stacks.flatMap { [$0.block, $0.embedding] } + [head]
    let all =
      parts.flatMap { [$0.forward, $0.backward, $0.sideForward, $0.sideBackward] } + [cacheWrite, cacheRead]
    // A kind of layer adds up to three parts and two transfers of up to some mebibytes.
    let most = PlanningLimits.layerNanoseconds / 16
    for duration in all
    where !(0...most).contains(duration.alone) || !(duration.alone...most).contains(duration.together) {
      return "a part takes \(duration.alone) to \(duration.together) ns; at most \(most) can be planned with"
    }
    guard (0...most).contains(updateOfMillion) else { return "an update takes \(updateOfMillion) ns" }
    guard (0...most).contains(exchangeOfMebibyte ?? 0) else {
      return "an exchange takes \(exchangeOfMebibyte ?? 0) ns a mebibyte"
    }
    guard (0...most).contains(standstill ?? 0) else { return "it stands still for \(standstill ?? 0) ns" }
    for touch in [freshMebibyte ?? 0, mappedMebibyte ?? 0] where !(0...most).contains(touch) {
      return "the first touch of a mebibyte takes \(touch) ns"
    }
    return nil
  }
}
