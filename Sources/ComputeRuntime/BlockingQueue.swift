import Glibc

/// A bounded queue between two operating-system threads: `push` waits while it is full, `pop` while it is empty.
///
/// - Safety: everything but the constant limit is read and written under the mutex, which lives at a fixed address until
///   `deinit`; nobody may be inside a call then.
package final class BlockingQueue<Element: Sendable>: @unchecked Sendable {
  private let limit: Int
  private var elements: [(element: Element, weight: Int)] = []
  private var first = 0
  private var weight = 0
  private var isEnded = false
  private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
  private let changed = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)

  /// A queue of elements whose weights together are at most `limit`; a heavier one goes alone, one without weight always.
  package init(limit: Int) {
    precondition(limit > 0, "a queue with the limit \(limit)")
    self.limit = limit
    check(pthread_mutex_init(mutex, nil), "pthread_mutex_init")
    check(pthread_cond_init(changed, nil), "pthread_cond_init")
  }

  deinit {
    pthread_cond_destroy(changed)
    pthread_mutex_destroy(mutex)
    changed.deallocate()
    mutex.deallocate()
  }

  /// Appends an element when there is room for it; false when the queue has ended.
  package func push(_ element: Element, weight: Int = 1) -> Bool {
    locked {
      while !isEnded, weight > 0, self.weight > 0, self.weight + weight > limit {
        pthread_cond_wait(changed, mutex)
      }
      guard !isEnded else { return false }
      elements.append((element, weight))
      self.weight += weight
      return true
    }
  }

  /// Takes the first element when there is one; nil when the queue has ended and nothing is left.
  package func pop() -> Element? {
    locked {
      while !isEnded, first == elements.count { pthread_cond_wait(changed, mutex) }
      guard first < elements.count else { return nil }
      let taken = elements[first]
      first += 1
      weight -= taken.weight
      if first == elements.count {
        elements.removeAll(keepingCapacity: true)
        first = 0
      } else if first > 64, first * 2 > elements.count {
        elements.removeFirst(first)
        first = 0
      }
      return taken.element
    }
  }

  /// Whether `pop` would return at once.
  package var isReady: Bool { locked { isEnded || first < elements.count } }

  /// Lets no element in any more; what is there can still be taken unless `discarding` is true.
  package func end(discarding: Bool = false) {
    locked {
      isEnded = true
      guard discarding else { return }
      elements.removeAll()
      (first, weight) = (0, 0)
    }
  }

  private func locked<Value>(_ body: () -> Value) -> Value {
    pthread_mutex_lock(mutex)
    defer {
      pthread_cond_broadcast(changed)
      pthread_mutex_unlock(mutex)
    }
    return body()
  }
}
