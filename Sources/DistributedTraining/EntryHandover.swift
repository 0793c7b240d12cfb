import Collectives
import ComputeRuntime
import FineTuning
import NeuralNetworks
import Synchronization

/// What is agreed when a plan epoch begins, and the transfers that follow from it.
struct EntryHandover {
  let context: RunContext
  let roles: RunRoles
  let units: JobUnits
  /// Everything that is trained.
  let leaves: VectorSelection
  let kept: KeptTaps?

  /// What came of it.
  struct Outcome {
    var handover: Handover
    /// What all states of the start have beside their vectors; nil at the job's very start.
    var head: StateHead?
    /// What this device needs of the state; nil when it needs none.
    var state: TrainingState?
    var needs: [HandoverNeed]
  }

  /// Tells the others what this device has, hears what they have, and gives and takes what is to be moved.
  ///
  /// - Returns: nil on a device without a role that is left out, because not all could hear it.
  func run(
    _ held: [TrainingState], needs: (Int) -> [HandoverNeed]
  ) throws(DistributedRunFailure) -> Outcome? {
    let own = DeviceInventory(held, units: units.held(in: kept?.cache))
    guard let all = try inventories(own) else { return nil }
    var wanted: [HandoverNeed] = []
    let handover: Handover
    do throws(HandoverFailure) {
      handover = try Handover(
        all.map(\.inventory), leaves: leaves, totalSteps: context.job.totalSteps
      ) { start in
        wanted = needs(start)
        return wanted
      }
    } catch {
      throw .handover(error)
    }
    var outcome = Outcome(
      handover: handover, head: try head(all, start: handover.start), state: nil, needs: wanted)
    if let head = outcome.head, wanted[context.place].selection.count > 0 {
      var state = TrainingState(head, zeroed: wanted[context.place].selection)
      for part in held where part.step == head.step { state.fill(from: part) }
      outcome.state = state
    }
    try move(held, &outcome)
    return outcome
  }

  // MARK: Inventories

  /// The other devices that take part in the exchange.
  private var others: [Int] {
    roles.roles.indices.filter { roles.roles[$0] != .learner && $0 != context.place }
  }

  /// Inventories by place, the same on every device: what a donor has counts only when all participants know it.
  private func inventories(_ own: DeviceInventory) throws(DistributedRunFailure) -> [DeviceInventory]? {
    var all = [DeviceInventory?](repeating: nil, count: roles.roles.count)
    all[context.place] = own
    let tag = StateMessage.inventory.tag()
    let message = own.message
    for device in others {
      _ = try optional(device) { () throws(DistributedRunFailure) in
        try context.links.send(message, tag, to: device)
      }
    }
    for device in others {
      all[device] = try optional(device) { () throws(DistributedRunFailure) in
        try DeviceInventory(
          context.links.receive(tag, from: device, .parameters), from: device, units: units.count,
          end: leaves.ranges.last?.upperBound ?? 0)
      }
    }
    let agreed = try agreedPlaces(known: Set(all.indices.filter { all[$0] != nil }))
    guard agreed.contains(context.place) else { return nil }
    if let missing = agreed.sorted().first(where: { all[$0] == nil }) {
      throw .channel(.lost(place: missing), during: "hearing what the devices of the plan have")
    }
    let none = DeviceInventory(units: units.count)
    return all.enumerated().map { agreed.contains($0.offset) ? $0.element ?? none : none }
  }

  /// The places whose inventories all participants have.
  private func agreedPlaces(known: Set<Int>) throws(DistributedRunFailure) -> Set<Int> {
    var agreed: Set<Int>?
    let tag = StateMessage.present.tag()
    if roles.roles[context.place] == .participant {
      agreed = known
      var writer = MessageWriter()
      writer.words(known.sorted().map { UInt32($0) })
      for device in others {
        _ = try optional(device) { () throws(DistributedRunFailure) in
          try context.links.send(writer.bytes, tag, to: device)
        }
      }
    }
    for device in roles.participants where device != context.place {
      var reader = MessageReader(
        try context.links.receive(tag, from: device, .parameters), from: device,
        "the devices whose inventories came")
      let theirs = Set(try reader.words(atMost: roles.roles.count).map(Int.init))
      try reader.finish()
      agreed = agreed?.intersection(theirs) ?? theirs
    }
    return agreed ?? []
  }

  /// Nil when a device without a role in the plan is lost: the others go on without it.
  private func optional<Value>(
    _ device: Int, _ body: () throws(DistributedRunFailure) -> Value
  ) throws(DistributedRunFailure) -> Value? {
    do throws(DistributedRunFailure) {
      return try body()
    } catch {
      guard roles.roles[device] != .participant, case .channel(.lost(device), _) = error else { throw error }
      return nil
    }
  }

  /// What the states of the start have beside their vectors, which must be the same wherever there is one.
  private func head(_ all: [DeviceInventory], start: Int) throws(DistributedRunFailure) -> StateHead? {
    guard start > 0 else { return nil }
    var head: StateHead?
    for (place, device) in all.enumerated() {
      for other in device.heads where other.step == start {
        guard head == nil || head == other else { throw .replicasDiffer(place: place, step: start) }
        head = other
      }
    }
    return head
  }

  // MARK: Transfers

  /// Makes the transfers: a thread gives, this one takes, both in the order that all devices have.
  private func move(_ held: [TrainingState], _ outcome: inout Outcome) throws(DistributedRunFailure) {
    let handover = outcome.handover
    let place = context.place
    let giver = HandoverGiver(
      links: context.links, held: held.filter { $0.step == handover.start },
      states: handover.states.filter { $0.from == place }, units: handover.units.filter { $0.from == place },
      batches: units.batches, kept: kept, capacity: context.job.capacity,
      abortsOnFailure: roles.roles[place] == .participant)
    do throws(DistributedRunFailure) {
      for transfer in handover.states where transfer.to == place { try take(transfer, into: &outcome.state) }
      for transfer in handover.units where transfer.to == place { try take(transfer) }
    } catch {
      if roles.roles[place] == .participant { context.links.abort(error.description) }
      giver.cancel()
      throw error
    }
    try giver.finish()
  }

  private func take(
    _ transfer: Handover.StateTransfer, into state: inout TrainingState?
  ) throws(DistributedRunFailure) {
    for piece in HandoverGiver.pieces(transfer.ranges) {
      let message = try context.links.receive(
        StateMessage.state.tag(), from: transfer.from, .parameters)
      var reader = MessageReader(message, from: transfer.from, "values of the state")
      try state?.fill(piece, from: &reader)
      try reader.finish()
    }
  }

  private func take(_ transfer: Handover.UnitTransfer) throws(DistributedRunFailure) {
    guard let kept else { preconditionFailure("units for a technique without activations") }
    let assembly = TapAssembly(
      shape: kept.shape, element: kept.element, stages: [0..<kept.shape.depths.reduce(0, +)])
    for unit in transfer.units {
      try context.checkCancellation(step: 0)
      if roles.roles[context.place] == .participant { try context.breakOffIfAsked() }
      let taps = try context.links.receive(
        StateMessage.unit.tag(unit: unit), from: transfer.from, .taps)
      do throws(TrainingFailure) {
        try assembly.append(units.batches[unit], parts: [taps], to: kept.cache)
      } catch {
        throw .training(error)
      }
    }
  }
}

/// Gives what a handover wants of this device, on a thread of its own.
final class HandoverGiver: Sendable {
  /// Elements of one message: their values and both moments are less than a piece of a link.
  static let pieceElements = 1 << 18

  private let failure = Mutex<DistributedRunFailure?>(nil)
  private let isCancelled = Atomic(false)
  private let thread = Mutex<OperatingSystemThread?>(nil)

  /// Starts; `finish` or `cancel` must be called.
  init(
    links: JobLinks, held: [TrainingState], states: [Handover.StateTransfer],
    units: [Handover.UnitTransfer], batches: [PackedMicroBatch], kept: KeptTaps?,
    capacity: MicroBatchCapacity, abortsOnFailure: Bool
  ) {
    guard !states.isEmpty || !units.isEmpty else { return }
    let started = OperatingSystemThread(name: "handover-out") { [self] in
      do throws(DistributedRunFailure) {
        for transfer in states { try give(transfer, held, links) }
        guard let kept, !units.isEmpty else { return }
        let taps = CachedTaps(kept, capacity: capacity)
        for transfer in units {
          for unit in transfer.units {
            guard !isCancelled.load(ordering: .relaxed) else { return }
            let message: [UInt8]
            do throws(TrainingFailure) { message = try taps.read(batches[unit]) } catch {
              throw .training(error)
            }
            try links.send(message, StateMessage.unit.tag(unit: unit), to: transfer.to)
          }
        }
      } catch {
        failure.withLock { $0 = error }
        if abortsOnFailure { links.abort(error.description) }
      }
    }
    thread.withLock { $0 = started }
  }

  private func give(
    _ transfer: Handover.StateTransfer, _ held: [TrainingState], _ links: JobLinks
  ) throws(DistributedRunFailure) {
    for piece in Self.pieces(transfer.ranges) {
      guard !isCancelled.load(ordering: .relaxed) else { return }
      var writer = MessageWriter()
      for vector in TrainingState.vectors {
        var start = piece.lowerBound
        while start < piece.upperBound {
          guard let (state, position, end) = Self.find(start, in: held) else {
            preconditionFailure("element \(start) is given and not held")
          }
          let upper = min(end, piece.upperBound)
          held[state][keyPath: vector][position..<position + upper - start].withUnsafeBytes { writer.raw($0) }
          start = upper
        }
      }
      try links.send(writer.bytes, StateMessage.state.tag(), to: transfer.to)
    }
  }

  /// A state that has an element of the vector: which, where in it, and how far it goes on.
  private static func find(_ element: Int, in held: [TrainingState]) -> (Int, Int, Int)? {
    for (index, state) in held.enumerated() {
      var position = 0
      for range in state.ranges {
        if range.contains(element) { return (index, position + element - range.lowerBound, range.upperBound) }
        position += range.count
      }
    }
    return nil
  }

  /// The messages of a transfer.
  static func pieces(_ ranges: [Range<Int>]) -> [Range<Int>] {
    ranges.flatMap { range in
      stride(from: range.lowerBound, to: range.upperBound, by: pieceElements).map {
        $0..<min($0 + pieceElements, range.upperBound)
      }
    }
  }

  /// Waits until everything is given.
  func finish() throws(DistributedRunFailure) {
    join()
    if let error = failure.withLock({ $0 }) { throw error }
  }

  /// Ends the thread after a failure elsewhere.
  func cancel() {
    isCancelled.store(true, ordering: .relaxed)
    join()
  }

  private func join() {
    thread.withLock { thread in
      defer { thread = nil }
      return thread
    }?.join()
  }
}

extension TrainingState {
  /// The three vectors, in the order of messages.
  static var vectors: [WritableKeyPath<TrainingState, [Float]>] {
    [\.values, \.firstMoments, \.secondMoments]
  }

  /// A piece of the three vectors, which must be in one range, as a message.
  func message(_ piece: Range<Int>) -> [UInt8] {
    guard let start = selection.position(of: piece.lowerBound) else {
      preconditionFailure("\(piece) is sent and not held")
    }
    var writer = MessageWriter()
    for vector in Self.vectors {
      self[keyPath: vector][start..<start + piece.count].withUnsafeBytes { writer.raw($0) }
    }
    return writer.bytes
  }

  /// Takes what another state of the same step has of this one's part of the vector.
  mutating func fill(from other: TrainingState) {
    let selection = self.selection
    var position = 0
    for range in other.ranges {
      // What both have is what is left of the range without what is left of it beside this part.
      let inside = VectorSelection([range]).subtracting(VectorSelection([range]).subtracting(selection))
      for part in inside.ranges {
        guard let target = selection.position(of: part.lowerBound) else { continue }
        let source = position + part.lowerBound - range.lowerBound
        values.replaceSubrange(target..<target + part.count, with: other.values[source..<source + part.count])
        firstMoments.replaceSubrange(
          target..<target + part.count, with: other.firstMoments[source..<source + part.count])
        secondMoments.replaceSubrange(
          target..<target + part.count, with: other.secondMoments[source..<source + part.count])
      }
      position += range.count
    }
  }

  /// Takes a piece of the three vectors from a message.
  mutating func fill(_ piece: Range<Int>, from reader: inout MessageReader) throws(DistributedRunFailure) {
    guard let target = selection.position(of: piece.lowerBound) else {
      preconditionFailure("\(piece) is taken and not needed")
    }
    for vector in Self.vectors {
      var failure: DistributedRunFailure?
      self[keyPath: vector].withUnsafeMutableBufferPointer { values in
        do throws(DistributedRunFailure) {
          try reader.floats(
            into: UnsafeMutableBufferPointer(rebasing: values[target..<target + piece.count]))
        } catch let error { failure = error }
      }
      if let failure { throw failure }
    }
  }
}
