import Collectives
import Testing

@Suite("Chunks of a ring")
struct RingChunksTests {
  @Test(
    "cover the vector once, in order, with near even lengths",
    arguments: [0, 1, 63, 64, 65, 1_000, 65_537], [1, 2, 3, 5, 8])
  func cover(count: Int, members: Int) {
    let chunks = RingChunks(count: count, members: members)
    var end = 0
    for chunk in 0..<members {
      let range = chunks.range(chunk)
      #expect(range.lowerBound == end)
      #expect(range.lowerBound % 64 == 0 || range.lowerBound == count)
      #expect(range.count <= count / members + 64)
      end = range.upperBound
    }
    #expect(end == count)
  }
}
