import DistributedTraining
import Testing

@Suite("Tags of messages")
struct JobTagTests {
  @Test("kinds have the numbers of the protocol, none twice")
  func kinds() {
    #expect(JobMessageKind.allCases.map(\.rawValue) == Array(1...9))
  }
}
