package import Determinism
package import MeshModel

/// Decides which connections from strangers are served: a rate for each source, and few at a time.
///
/// When all places are taken, the source that holds most of them loses its oldest, so that a flood from some
/// addresses keeps nobody else out.
package struct AdmissionControl {
  /// The name of an admitted connection until it is released.
  package struct Ticket: Hashable, Sendable {
    fileprivate let number: UInt64
  }

  /// What is to be done with a connection.
  package enum Verdict: Equatable {
    /// Serve it; close the other one.
    case admitted(Ticket, evicting: Ticket?)
    /// Close it.
    case rateLimited
  }

  private struct Bucket {
    /// Connections that it may open now, in nanoseconds of refilling.
    var credit: Int64
    var filled: MonotonicInstant
  }

  private let limits: TransportLimits
  private var buckets: [NetworkAddress.Host: Bucket] = [:]
  private var shared: Bucket
  /// In the order of their admission.
  private var open: [(ticket: Ticket, source: NetworkAddress.Host)] = []
  private var admissions: UInt64 = 0

  private var cost: Int64 { 1_000_000_000 / Int64(limits.connectionsPerSecond) }
  private var full: Int64 { cost * Int64(limits.connectionBurst) }

  /// The control of a listener, without connections.
  package init(limits: TransportLimits, at now: MonotonicInstant) {
    self.limits = limits
    shared = Bucket(credit: 0, filled: now)
    shared.credit = full
  }

  /// Connections that are admitted and not released.
  package var openCount: Int { open.count }
  /// Sources whose rate is remembered.
  package var rememberedCount: Int { buckets.count }

  /// Judges a connection from `source`.
  package mutating func admit(source: NetworkAddress.Host, at now: MonotonicInstant) -> Verdict {
    guard takeCredit(of: source, at: now) else { return .rateLimited }
    var evicted: Ticket?
    if open.count >= limits.unauthenticatedConnections { evicted = removeFromGreediest() }
    let ticket = Ticket(number: admissions)
    admissions += 1
    open.append((ticket, source))
    return .admitted(ticket, evicting: evicted)
  }

  /// Gives back the place of a connection that has proved itself or is closed; nothing when it was evicted.
  package mutating func release(_ ticket: Ticket) {
    open.removeAll { $0.ticket == ticket }
  }

  private mutating func takeCredit(of source: NetworkAddress.Host, at now: MonotonicInstant) -> Bool {
    if buckets[source] == nil {
      if buckets.count >= limits.rememberedSources {
        // A full bucket says the same as none.
        buckets = buckets.filter { refilled($0.value, at: now).credit < full }
      }
      if buckets.count >= limits.rememberedSources { return take(&shared, at: now) }
      buckets[source] = Bucket(credit: full, filled: now)
    }
    return take(&buckets[source, default: shared], at: now)
  }

  private func refilled(_ bucket: Bucket, at now: MonotonicInstant) -> Bucket {
    let passed = max(0, bucket.filled.duration(to: now).wholeNanoseconds)
    return Bucket(credit: min(full, bucket.credit + min(passed, full)), filled: now)
  }

  private func take(_ bucket: inout Bucket, at now: MonotonicInstant) -> Bool {
    bucket = refilled(bucket, at: now)
    guard bucket.credit >= cost else { return false }
    bucket.credit -= cost
    return true
  }

  private mutating func removeFromGreediest() -> Ticket? {
    var held: [NetworkAddress.Host: Int] = [:]
    for entry in open { held[entry.source, default: 0] += 1 }
    let most = held.values.max() ?? 0
    // The first in the order of admission, whatever order the dictionary has.
    guard let index = open.firstIndex(where: { held[$0.source] == most }) else { return nil }
    return open.remove(at: index).ticket
  }
}
