import Collectives
import FineTuning
import NeuralNetworks

/// Every state of training that this device has: what lets the job go on wherever it is broken off.
///
/// Between two steps the trainer's own buffers are the newest state: an update is applied on the driver's thread, without
/// anything that could fail in between, so a step is in them wholly or not at all. The exponents are copied, because a
/// step changes its sums' before it is complete.
///
/// - Safety: the driver's thread alone uses it.
final class HeldStates {
  /// What this device brought along, or was handed: given up when all others have gone on from there.
  private var kept: [TrainingState]
  private var live: Live?
  /// A stage's state before its last step: other devices may be a step behind.
  private var undo: TrainingState?
  /// All stages' state at the last gathering, and at the one before until all devices have completed the last.
  private var gathered: [TrainingState] = []

  private struct Live {
    let trainer: MiniBatchTrainer
    let selection: VectorSelection
    let keepsUndo: Bool
    var head: StateHead
  }

  init(_ held: [TrainingState]) { kept = held }

  /// All states, newest first.
  var all: [TrainingState] {
    var states = kept + gathered
    if let undo { states.append(undo) }
    if let live, live.trainer.optimizer.step == live.head.step {
      states.append(TrainingState(live.trainer, live.selection, live.head))
    }
    var seen: Set<HeldState> = []
    return states.enumerated().sorted { ($1.element.step, $0.offset) < ($0.element.step, $1.offset) }
      .map(\.element).filter { seen.insert(HeldState(step: $0.step, selection: $0.selection)).inserted }
  }

  /// All states, newest first, for whom comes next: what trained here ends, and its memory becomes the state's.
  func surrender() -> [TrainingState] {
    guard let live, live.trainer.optimizer.step == live.head.step else { return all }
    // The trainer's own may be several times what memory has room for beside itself.
    let newest = TrainingState(moving: live.trainer, live.selection, live.head)
    self.live = nil
    kept.append(newest)
    return all
  }

  /// The newest state's step, or 0.
  var newestStep: Int {
    max(live?.head.step ?? 0, undo?.step ?? 0, (kept + gathered).map(\.step).max() ?? 0)
  }

  /// The state at hand; nil while nothing trains.
  var current: TrainingState? { live.map { TrainingState($0.trainer, $0.selection, $0.head) } }

  /// What was handed over; states that are parts of it are not kept twice.
  func take(_ state: TrainingState) {
    kept.removeAll {
      $0.step == state.step && $0.selection.subtracting(state.selection).count == 0
    }
    kept.insert(state, at: 0)
  }

  /// A trainer has the state `head` of a part of the vector, and goes on from it.
  ///
  /// - Parameter keepsUndo: whether others have other parts, so that a step may be committed here and not there.
  func begin(_ trainer: MiniBatchTrainer, _ selection: VectorSelection, _ head: StateHead, keepsUndo: Bool) {
    live = Live(trainer: trainer, selection: selection, keepsUndo: keepsUndo, head: head)
  }

  /// A step begins.
  func beginStep() {
    guard let live, live.keepsUndo else { return }
    if undo == nil {
      undo = TrainingState(live.trainer, live.selection, live.head)
    } else {
      undo?.copy(live.trainer, live.head)
    }
  }

  /// A step is applied here: all devices have begun it, and have completed what was before.
  func commit(_ head: StateHead) {
    live?.head = head
    kept = []
    if gathered.count > 1 { gathered.removeLast(gathered.count - 1) }
  }

  /// A gathering is complete on this device.
  func gather(_ state: TrainingState) { gathered.insert(state, at: 0) }

  /// Nothing trains here any more: what there is, is copied.
  func settle() {
    kept = all
    live = nil
    undo = nil
    gathered = []
  }

  /// Another trainer has everything from now on.
  func replace(
    by trainer: MiniBatchTrainer, _ selection: VectorSelection, _ head: StateHead
  ) {
    begin(trainer, selection, head, keepsUndo: false)
    undo = nil
    gathered = []
  }

  var head: StateHead? { live?.head }
}

/// What a state has beside its vectors; the same on all devices.
struct StateHead: Equatable, Sendable {
  var step: Int
  var exponents: [Int32]
  var lossSum: Double
  var lossUnits: Int
}

extension TrainingState {
  var head: StateHead {
    StateHead(step: step, exponents: exponents, lossSum: lossSum, lossUnits: lossUnits)
  }

  /// A state whose vectors are to be filled.
  init(_ head: StateHead, zeroed selection: VectorSelection) {
    let zeros = [Float](repeating: 0, count: selection.count)
    self.init(
      step: head.step, exponents: head.exponents, ranges: selection.ranges, values: zeros,
      firstMoments: zeros, secondMoments: zeros, lossSum: head.lossSum, lossUnits: head.lossUnits)
  }

  /// A copy of what a trainer has of a part of the vector.
  init(_ trainer: MiniBatchTrainer, _ selection: VectorSelection, _ head: StateHead) {
    self.init(head, zeroed: selection)
    copy(trainer, head)
  }

  /// What a trainer that ends has of a part of the vector, piece by piece: its memory goes as the state's comes.
  init(moving trainer: MiniBatchTrainer, _ selection: VectorSelection, _ head: StateHead) {
    let (tree, optimizer, ranges) = (trainer.parameters, trainer.optimizer, selection.ranges)
    self.init(
      step: head.step, exponents: head.exponents, ranges: ranges,
      values: Self.moved(Self.values(trainer), ranges, tree.discard),
      firstMoments: Self.moved(optimizer.firstMoments, ranges, optimizer.discardFirstMoments),
      secondMoments: Self.moved(optimizer.secondMoments, ranges, optimizer.discardSecondMoments),
      lossSum: head.lossSum, lossUnits: head.lossUnits)
  }

  /// Overwrites a state of the same part of the vector.
  mutating func copy(_ trainer: MiniBatchTrainer, _ head: StateHead) {
    (step, exponents) = (head.step, head.exponents)
    (lossSum, lossUnits) = (head.lossSum, head.lossUnits)
    Self.copy(Self.values(trainer), ranges, to: &values)
    Self.copy(trainer.optimizer.firstMoments, ranges, to: &firstMoments)
    Self.copy(trainer.optimizer.secondMoments, ranges, to: &secondMoments)
  }

  /// Makes a trainer go on from this state; parts of the vector that are not in it stay as they are.
  func restore(_ trainer: MiniBatchTrainer) throws(DistributedRunFailure) {
    do throws(TrainingFailure) {
      try trainer.restore(step: step, exponents: exponents)
    } catch {
      throw .training(error)
    }
    write(values, to: Self.values(trainer))
    write(firstMoments, to: trainer.optimizer.firstMoments)
    write(secondMoments, to: trainer.optimizer.secondMoments)
  }

  /// Writes the parameters' values alone.
  func write(values tree: ParameterTree) {
    write(values, to: UnsafeMutableBufferPointer(start: tree.vector, count: tree.vectorCount))
  }

  private static func values(_ trainer: MiniBatchTrainer) -> UnsafeMutableBufferPointer<Float> {
    UnsafeMutableBufferPointer(start: trainer.parameters.vector, count: trainer.parameters.vectorCount)
  }

  /// Floats that are moved before their memory is given up: 4 MiB.
  private static let movedFloats = 1 << 20

  private static func moved(
    _ vector: UnsafeMutableBufferPointer<Float>, _ ranges: [Range<Int>], _ discard: (Range<Int>) -> Void
  ) -> [Float] {
    [Float](unsafeUninitializedCapacity: ranges.reduce(0) { $0 + $1.count }) { target, count in
      for range in ranges {
        for start in stride(from: range.lowerBound, to: range.upperBound, by: movedFloats) {
          let piece = start..<min(start + movedFloats, range.upperBound)
          _ = UnsafeMutableBufferPointer(rebasing: target[count..<count + piece.count])
            .initialize(fromContentsOf: vector[piece])
          count += piece.count
          discard(piece)
        }
      }
    }
  }

  private static func copy(
    _ vector: UnsafeMutableBufferPointer<Float>, _ ranges: [Range<Int>], to values: inout [Float]
  ) {
    values.withUnsafeMutableBufferPointer { target in
      var position = 0
      for range in ranges {
        _ = UnsafeMutableBufferPointer(rebasing: target[position..<position + range.count])
          .update(fromContentsOf: vector[range])
        position += range.count
      }
    }
  }

  private func write(_ values: [Float], to vector: UnsafeMutableBufferPointer<Float>) {
    values.withUnsafeBufferPointer { source in
      var position = 0
      for range in ranges {
        _ = UnsafeMutableBufferPointer(rebasing: vector[range])
          .update(fromContentsOf: source[position..<position + range.count])
        position += range.count
      }
    }
  }
}
