/// Arrays in ascending order without repetition stand for sets here, so that no hash order reaches an output.
extension Array {
  /// The first place from which on `isHigh` holds; it must hold from some place to the end.
  func partition(_ isHigh: (Element) -> Bool) -> Int {
    var low = 0
    var high = count
    while low < high {
      let middle = (low + high) / 2
      if isHigh(self[middle]) { high = middle } else { low = middle + 1 }
    }
    return low
  }
}

extension Array where Element: Comparable {
  /// Whether the element is in.
  func sortedContains(_ element: Element) -> Bool {
    let place = partition { $0 >= element }
    return place < count && self[place] == element
  }

  /// Puts the element in its place, unless it is in.
  mutating func sortedInsert(_ element: Element) {
    let place = partition { $0 >= element }
    if place == count || self[place] != element { insert(element, at: place) }
  }

  /// Takes the element out, if it is in.
  mutating func sortedRemove(_ element: Element) {
    let place = partition { $0 >= element }
    if place < count, self[place] == element { remove(at: place) }
  }
}
