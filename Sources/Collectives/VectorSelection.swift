/// The part of a flat vector that a ring reduces, as ranges of it: the members of a stage reduce their own leaves only.
///
/// The ring sees one vector without gaps; this says where its elements are in the flat one.
package struct VectorSelection: Sendable, Hashable {
  /// The ranges of the flat vector, ascending, none empty, none touching the next.
  package let ranges: [Range<Int>]
  /// Elements before each range, and all of them.
  private let starts: [Int]

  /// Selects `ranges` of the flat vector, which are in ascending order and do not overlap.
  package init(_ ranges: [Range<Int>]) {
    var joined: [Range<Int>] = []
    for range in ranges where !range.isEmpty {
      guard let last = joined.last else {
        joined.append(range)
        continue
      }
      precondition(
        last.upperBound <= range.lowerBound, "\(range) is selected after \(last)")
      if last.upperBound == range.lowerBound {
        joined[joined.count - 1] = last.lowerBound..<range.upperBound
      } else {
        joined.append(range)
      }
    }
    self.ranges = joined
    starts = joined.reduce(into: [0]) { $0.append($0[$0.count - 1] + $1.count) }
  }

  /// Selects a whole vector.
  package init(whole count: Int) { self.init([0..<count]) }

  /// Selects what is in any of `ranges`, which may be in any order and overlap.
  package init(union ranges: [Range<Int>]) {
    var joined: [Range<Int>] = []
    for range in ranges.sorted(by: { $0.lowerBound < $1.lowerBound }) where !range.isEmpty {
      if let last = joined.last, range.lowerBound <= last.upperBound {
        joined[joined.count - 1] = last.lowerBound..<max(last.upperBound, range.upperBound)
      } else {
        joined.append(range)
      }
    }
    self.init(joined)
  }

  /// What is selected here and not in `other`.
  package func subtracting(_ other: VectorSelection) -> VectorSelection {
    var left: [Range<Int>] = []
    var index = 0
    for range in ranges {
      var start = range.lowerBound
      while index < other.ranges.count, other.ranges[index].upperBound <= start { index += 1 }
      var next = index
      while next < other.ranges.count, other.ranges[next].lowerBound < range.upperBound {
        let hole = other.ranges[next]
        if start < hole.lowerBound { left.append(start..<hole.lowerBound) }
        start = max(start, hole.upperBound)
        next += 1
      }
      if start < range.upperBound { left.append(start..<range.upperBound) }
    }
    return VectorSelection(left)
  }

  /// Whether the whole of `range` is selected.
  package func contains(_ range: Range<Int>) -> Bool {
    guard !range.isEmpty, !ranges.isEmpty else { return range.isEmpty }
    var (low, high) = (0, ranges.count - 1)
    while low < high {
      let middle = (low + high + 1) / 2
      if ranges[middle].lowerBound <= range.lowerBound { low = middle } else { high = middle - 1 }
    }
    return ranges[low].lowerBound <= range.lowerBound && range.upperBound <= ranges[low].upperBound
  }

  /// Elements that are selected.
  package var count: Int { starts[starts.count - 1] }

  /// Where the selected elements `range` are in the flat vector, in order.
  package func flatRanges(_ range: Range<Int>) -> [Range<Int>] {
    precondition(
      range.lowerBound >= 0 && range.upperBound <= count, "elements \(range) of \(count) selected ones")
    var found: [Range<Int>] = []
    var index = holder(of: range.lowerBound)
    var position = range.lowerBound
    while position < range.upperBound {
      let end = min(range.upperBound, starts[index + 1])
      let shift = ranges[index].lowerBound - starts[index]
      found.append(position + shift..<end + shift)
      position = end
      index += 1
    }
    return found
  }

  /// The number among the selected elements of the flat vector's element `flat`; nil when it is not selected.
  package func position(of flat: Int) -> Int? {
    var (low, high) = (0, ranges.count - 1)
    while low < high {
      let middle = (low + high + 1) / 2
      if ranges[middle].lowerBound <= flat { low = middle } else { high = middle - 1 }
    }
    guard low <= high, ranges[low].contains(flat) else { return nil }
    return starts[low] + flat - ranges[low].lowerBound
  }

  /// The last range whose first element is at or before the selected element `position`.
  private func holder(of position: Int) -> Int {
    var (low, high) = (0, max(0, ranges.count - 1))
    while low < high {
      let middle = (low + high + 1) / 2
      if starts[middle] <= position { low = middle } else { high = middle - 1 }
    }
    return low
  }
}
