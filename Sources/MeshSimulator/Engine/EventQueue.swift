package import Determinism

/// What is to happen, ordered by its time; what has the same time happens in the order in which it was planned.
///
/// A binary heap over (time, sequence): no two entries are equal, so the order never depends on the heap's shape.
package struct EventQueue<Event: Sendable>: Sendable {
  private struct Entry: Sendable {
    let time: MonotonicInstant
    let sequence: UInt64
    let event: Event

    func precedes(_ other: Entry) -> Bool {
      time == other.time ? sequence < other.sequence : time < other.time
    }
  }

  private var heap: [Entry] = []
  private var planned: UInt64 = 0

  /// A queue of nothing.
  package init() {}

  /// How many events are still to happen.
  package var count: Int { heap.count }

  /// When the next event happens; nil when nothing is planned.
  package var nextTime: MonotonicInstant? { heap.first?.time }

  /// Plans an event.
  package mutating func plan(_ event: Event, at time: MonotonicInstant) {
    heap.append(Entry(time: time, sequence: planned, event: event))
    planned += 1
    var child = heap.count - 1
    while child > 0 {
      let parent = (child - 1) / 2
      guard heap[child].precedes(heap[parent]) else { return }
      heap.swapAt(child, parent)
      child = parent
    }
  }

  /// Takes the next event.
  package mutating func next() -> (time: MonotonicInstant, event: Event)? {
    guard let first = heap.first else { return nil }
    let last = heap.removeLast()
    if !heap.isEmpty {
      heap[0] = last
      sink()
    }
    return (first.time, first.event)
  }

  private mutating func sink() {
    var parent = 0
    while true {
      var least = parent
      for child in [2 * parent + 1, 2 * parent + 2]
      where child < heap.count && heap[child].precedes(heap[least]) {
        least = child
      }
      if least == parent { return }
      heap.swapAt(parent, least)
      parent = least
    }
  }
}
