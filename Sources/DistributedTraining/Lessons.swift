import ActivationCache
import Collectives
import ComputeRuntime
import FineTuning
import ParallelPlanner
import Synchronization

/// The activations that devices will need under the next plan, on their way while the present one runs.
///
/// Nobody waits for them, and losing who wants them is no failure: each pair of devices has threads of its own, which read
/// and write the caches beside the driver and have the processors only when others leave them. A piece is sent when an
/// earlier one is acknowledged, so that steps find short queues. What is not there yet, or does not come, is handed over
/// when the next plan begins.
final class Lessons: Sendable {
  /// Bytes of a piece.
  static let pieceBytes = 256 << 10
  /// Pieces that are on their way at once.
  static let window = 4
  /// Names no unit: nothing more will come.
  private static let end = UInt32.max
  /// Most bytes of a unit's activations.
  private static let unitLimit = JobLinks.messageLimit

  private let links: JobLinks
  private let units: JobUnits
  private let capacity: MicroBatchCapacity
  /// The cache; nil when the run is over and nobody may touch it.
  private let open: Mutex<Open?>
  /// The units that each other device is to have and this one keeps, and the other way round.
  private let offered: [Int: [Int]]
  private let teachers: [Int]
  private let wanted: UnitSet
  private let progress: Mutex<(open: Int, failures: [DistributedRunFailure])>

  private struct Open: Sendable {
    let kept: KeptTaps
    /// Made when something is taught.
    var reader: CachedTaps?
  }

  /// Lessons between the owners of a plan and those of the next.
  init(
    _ context: RunContext, units: JobUnits, next: WorkDivision, kept: KeptTaps
  ) {
    links = context.links
    self.units = units
    capacity = context.job.capacity
    let division = context.division
    var offered: [Int: [Int]] = [:]
    var wanted = UnitSet(count: units.count)
    var teachers: Set<Int> = []
    if division.plan.mode != .live, next.plan.mode != .live {
      let there = units.held(in: kept.cache)
      for unit in 0..<units.count {
        let (teacher, student) = (units.owner(unit, division), units.owner(unit, next))
        guard teacher != student else { continue }
        if teacher == context.place { offered[student, default: []].append(unit) }
        if student == context.place {
          teachers.insert(teacher)
          if !there.contains(unit) { wanted.insert(unit) }
        }
      }
    }
    open = Mutex(Open(kept: kept))
    self.offered = offered
    self.wanted = wanted
    self.teachers = teachers.sorted()
    progress = Mutex((teachers.count, []))
  }

  /// Whether all that can be learned now has come.
  var isLearned: Bool { progress.withLock { $0.open == 0 } }

  /// Begins to teach and to learn beside the driver.
  func begin() {
    for student in offered.keys.sorted() {
      OperatingSystemThread.detached(name: "teacher-\(student)") { [self] in
        OperatingSystemThread.yieldToOthers()
        teach(student)
      }
    }
    for teacher in teachers {
      OperatingSystemThread.detached(name: "student-\(teacher)") { [self] in
        OperatingSystemThread.yieldToOthers()
        learn(from: teacher)
      }
    }
  }

  /// Learns everything, and returns when it has come; for a device that has nothing else to do.
  func learnAll() throws(DistributedRunFailure) {
    let threads = teachers.map { teacher in
      OperatingSystemThread(name: "student-\(teacher)") { [self] in learn(from: teacher) }
    }
    for thread in threads { thread.join() }
    let failures = progress.withLock { $0.failures }
    if failures.count == teachers.count, let failure = failures.first { throw failure }
    for case .training(let failure) in failures { throw .training(failure) }
  }

  /// The run is over: the caches are touched no more.
  ///
  /// Threads that wait for others end with the channel.
  func close() { open.withLock { $0 = nil } }

  // MARK: Teachers

  private func teach(_ student: Int) {
    do throws(DistributedRunFailure) {
      var reader = MessageReader(
        try links.receive(StateMessage.wanted.tag(), from: student, nil), from: student,
        "what a device lacks of the next plan")
      let wanted = try reader.set(of: units.count)
      try reader.finish()
      var sent = 0
      for unit in offered[student] ?? [] where wanted.contains(unit) {
        guard let taps = read(unit) else { continue }
        for start in stride(from: 0, to: taps.count, by: Self.pieceBytes) {
          let end = min(start + Self.pieceBytes, taps.count)
          try send(unit: UInt32(unit), total: taps.count, taps[start..<end], to: student, sent: &sent)
        }
      }
      try send(unit: Self.end, total: 0, [], to: student, sent: &sent)
    } catch {
      // A student that is lost will be handed what it lacks when it comes back.
    }
  }

  /// The activations of a unit; nil when they are not there, not any more, or the run is over.
  private func read(_ unit: Int) -> [UInt8]? {
    let batch = units.batches[unit]
    return open.withLock { open in
      guard let kept = open?.kept, kept.cache.resolve(batch.keys).isComplete else { return nil }
      let reader = open?.reader ?? CachedTaps(kept, capacity: capacity)
      open?.reader = reader
      return try? reader.read(batch)
    }
  }

  private func send(
    unit: UInt32, total: Int, _ bytes: ArraySlice<UInt8>, to student: Int, sent: inout Int
  ) throws(DistributedRunFailure) {
    if sent >= Self.window {
      _ = try links.receive(StateMessage.lessonTaken.tag(), from: student, nil)
    }
    var writer = MessageWriter()
    writer.word(unit)
    writer.word(UInt32(total))
    bytes.withUnsafeBytes { writer.raw($0) }
    try links.send(writer.bytes, StateMessage.lesson.tag(), to: student)
    sent += 1
  }

  // MARK: Students

  private func learn(from teacher: Int) {
    do throws(DistributedRunFailure) {
      var writer = MessageWriter()
      writer.set(wanted)
      try links.send(writer.bytes, StateMessage.wanted.tag(), to: teacher)
      while let (unit, taps) = try receive(from: teacher) { try keep(taps, of: unit) }
      progress.withLock { $0.open -= 1 }
    } catch {
      progress.withLock {
        $0.open -= 1
        $0.failures.append(error)
      }
    }
  }

  private func receive(from teacher: Int) throws(DistributedRunFailure) -> (Int, [UInt8])? {
    var taps: [UInt8] = []
    var first: UInt32?
    while true {
      var reader = MessageReader(
        try links.receive(StateMessage.lesson.tag(), from: teacher, nil), from: teacher,
        "activations for the next plan")
      let unit = try reader.word()
      let total = try reader.count(atMost: Self.unitLimit)
      if unit == Self.end { return nil }
      guard unit < units.count, wanted.contains(Int(unit)), first ?? unit == unit else {
        throw reader.failure("a piece of unit \(unit) in place of \(first.map { "\($0)" } ?? "a wanted one")")
      }
      first = unit
      taps += try reader.rest(atMost: total - taps.count)
      try links.send([], StateMessage.lessonTaken.tag(), to: teacher)
      if taps.count == total { return (Int(unit), taps) }
    }
  }

  private func keep(_ taps: [UInt8], of unit: Int) throws(DistributedRunFailure) {
    let failure: DistributedRunFailure? = open.withLock { open in
      guard let kept = open?.kept else { return .channel(.aborted("the run has ended"), during: "learning") }
      let assembly = TapAssembly(
        shape: kept.shape, element: kept.element, stages: [0..<kept.shape.depths.reduce(0, +)])
      do throws(TrainingFailure) {
        try assembly.append(units.batches[unit], parts: [taps], to: kept.cache)
        return nil
      } catch {
        return .training(error)
      }
    }
    if let failure { throw failure }
  }
}

extension MessageReader {
  /// Everything that is left of the message, at most `limit` bytes and at least one.
  mutating func rest(atMost limit: Int) throws(DistributedRunFailure) -> ArraySlice<UInt8> {
    guard remaining > 0, remaining <= limit else { throw failure("\(remaining) bytes in place of \(limit)") }
    return try raw(remaining)
  }
}
