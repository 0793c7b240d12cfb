import DistributedTraining
import Testing

/// The devices named by `complete` have the parameters, losses and predictions of one device, bit for bit.
func expectSame(
  _ outcomes: [DeviceOutcome], _ reference: TinyJob.Reference, complete: [Int], _ comment: Comment
) {
  for place in complete {
    guard let result = outcomes[place].result else {
      Issue.record("\(comment), device \(place): \(String(describing: outcomes[place].failure))")
      continue
    }
    #expect(result.isComplete)
    #expect(TinyJob.bits(result.parameters) == reference.vector, "\(comment), device \(place)")
    #expect(result.before?.predictions == reference.before)
    #expect(result.after?.predictions == reference.after)
    if let loss = reference.lossBefore { #expect(result.before?.lossSum == loss) }
    if let loss = reference.lossAfter { #expect(result.after?.lossSum == loss) }
    let trained = result.epochs.filter { $0.phase != .filling }
    #expect(
      trained.map(\.loss) == Array(reference.losses.suffix(trained.count)), "\(comment), device \(place)")
  }
}
