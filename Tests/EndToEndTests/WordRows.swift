/// Rows whose label is decided by one word; lengths differ, order is mixed but fixed.
func wordRows(_ count: Int) -> String {
  let subjects = ["the harbour", "a small boat", "our neighbour", "the old baker", "rain"]
  let tails = ["", " in the morning", " and nobody said a word about it for a long time", " again"]
  var lines = ["sentence\tlabel"]
  for row in 0..<count {
    let isGood = (row * 7 + row / 3) % 2 == 0
    let subject = subjects[row % subjects.count]
    lines.append(
      "\(subject) was \(isGood ? "good" : "bad")\(tails[(row / 2) % tails.count]) \(row)\t\(isGood ? 1 : 0)"
    )
  }
  return lines.joined(separator: "\n") + "\n"
}
