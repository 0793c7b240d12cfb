import Synchronization

/// What waits for an actor on a lane: in order, bounded, from any thread, and taken in as many at once as there are.
package final class Mailbox<Item: Sendable>: Sendable {
  private struct State {
    var items: [Item] = []
    var isClosed = false
  }

  private let limit: Int
  private let lane: MeshLane
  private let state = Mutex(State())

  /// An empty box of at most `limit` items whose lane is told of the first that comes.
  package init(limit: Int, lane: MeshLane) {
    self.limit = limit
    self.lane = lane
  }

  /// Adds an item; one for which there is no room, or which comes after the end, is dropped.
  package func put(_ item: Item) {
    let isFirst = state.withLock { state in
      guard !state.isClosed, state.items.count < limit else { return false }
      state.items.append(item)
      return state.items.count == 1
    }
    if isFirst { lane.ringBell() }
  }

  /// Everything that waits, oldest first.
  package func takeAll() -> [Item] {
    state.withLock { state in
      defer { state.items = [] }
      return state.items
    }
  }

  /// Takes nothing more; what waits is dropped.
  package func close() {
    state.withLock { state in
      state.isClosed = true
      state.items = []
    }
  }
}
