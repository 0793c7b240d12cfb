/// The layers of "--taps": numbers and ranges, counted from 0, for instance "0,2,5-7".
package enum TapSelection {
  /// Highest layer number that is understood.
  package static let highestLayer = 999

  /// The layers in ascending order, or nil when the text is not a list of layers.
  package static func parse(_ text: String) -> [Int]? {
    var layers: [Int] = []
    for part in text.split(separator: ",", omittingEmptySubsequences: false) {
      let ends = part.split(separator: "-", omittingEmptySubsequences: false).map {
        $0.allSatisfy(\.isNumber) ? Int($0) : nil
      }
      guard ends.count <= 2, let first = ends.first ?? nil, let last = ends.last ?? nil,
        first <= last, last <= highestLayer
      else { return nil }
      layers += Array(first...last)
    }
    let sorted = layers.sorted()
    for (layer, next) in zip(sorted, sorted.dropFirst()) where layer == next { return nil }
    return sorted
  }
}
