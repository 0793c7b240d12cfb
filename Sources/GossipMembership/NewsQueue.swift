import MeshModel

/// The news that wait to be passed on, each so many times (SWIM §4.1, the dissemination component).
///
/// Its size is bounded: it holds one record or a few accusations for every member.
struct NewsQueue: Hashable, Sendable {
  private struct Entry: Hashable, Sendable {
    var news: News
    var bytes: [UInt8]
    var timesSent: Int
    var age: UInt64
  }

  private var entries: [Entry] = []
  private var nextAge: UInt64 = 0

  /// Whether nothing waits.
  var isEmpty: Bool { entries.isEmpty }

  /// How much waits.
  var count: Int { entries.count }

  /// Adds news and takes out what they override.
  mutating func add(_ news: News) {
    entries.removeAll { Self.overrides(news, $0.news) }
    entries.append(Entry(news: news, bytes: news.wireBytes, timesSent: 0, age: nextAge))
    nextAge += 1
  }

  /// Takes out everything about a device.
  mutating func remove(_ device: DeviceID) { entries.removeAll { $0.news.device == device } }

  /// The news that fit into `byteCount` bytes beside what is in the message, the least sent and newest first.
  ///
  /// Each is counted as sent once more, and goes when it has been sent `limit` times.
  mutating func take(byteCount: Int, count: Int, limit: Int, besides present: [News]) -> [News] {
    guard !entries.isEmpty else { return [] }
    let order = entries.indices.sorted {
      (entries[$0].timesSent, entries[$1].age) < (entries[$1].timesSent, entries[$0].age)
    }
    var left = byteCount
    var taken: [News] = []
    for index in order where entries[index].bytes.count <= left && !present.contains(entries[index].news) {
      guard taken.count < count else { break }
      left -= entries[index].bytes.count
      entries[index].timesSent += 1
      taken.append(entries[index].news)
    }
    entries.removeAll { $0.timesSent >= limit }
    return taken
  }

  private static func overrides(_ news: News, _ old: News) -> Bool {
    guard news.device == old.device else { return false }
    if case .accusation(let new) = news, case .accusation(let known) = old,
      new.incarnation == known.incarnation,
      !new.isFinal, !known.isFinal
    {
      return new.accuser == known.accuser
    }
    return true
  }
}
