/// Cuts the ends of one or two lists of tokens to `room` tokens together, the longer one first.
///
/// The rule is that of the tokenizers library, including who keeps the odd token: the shorter list is kept
/// whole while it fits into half of the room; otherwise each keeps half, and the longer keeps the odd one.
/// Returns how many tokens were cut.
func truncateLongestFirst(_ first: inout [Int32], _ second: inout [Int32], room: Int) -> Int {
  let total = first.count + second.count
  guard total > room else { return 0 }
  let shorter = min(first.count, second.count)
  let keptShorter = min(shorter, room / 2)
  let keptLonger = room - keptShorter
  if first.count > second.count {
    first.removeLast(first.count - keptLonger)
    second.removeLast(second.count - keptShorter)
  } else {
    first.removeLast(first.count - keptShorter)
    second.removeLast(second.count - keptLonger)
  }
  return total - room
}
