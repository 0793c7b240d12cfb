/// What a device adds to a step beside sums of gradients; small, and sent to every other device of the step.
struct StepShare: Equatable {
  /// Losses of the micro-batches that it has computed, by position in the mini-batch.
  var losses: [(position: Int, loss: Double)]
  /// What its sums noticed.
  var evidence: [UInt32]
  /// Digest of a part of its parameters before the step.
  var digest: UInt32
  /// Whether the device asks all to stop after the step.
  var asksToStop = false

  static func == (left: StepShare, right: StepShare) -> Bool {
    left.evidence == right.evidence && left.digest == right.digest && left.asksToStop == right.asksToStop
      && left.losses.map(\.position) == right.losses.map(\.position)
      && left.losses.map(\.loss.bitPattern) == right.losses.map(\.loss.bitPattern)
  }

  /// The most words of evidence: one a leaf.
  static let evidenceLimit = 1 << 20

  var message: [UInt8] {
    var writer = MessageWriter()
    writer.word(digest)
    writer.word(UInt32(losses.count))
    for loss in losses {
      writer.word(UInt32(loss.position))
      writer.double(loss.loss)
    }
    writer.words(evidence)
    writer.word(asksToStop ? 1 : 0)
    return writer.bytes
  }

  init(losses: [(position: Int, loss: Double)], evidence: [UInt32], digest: UInt32, asksToStop: Bool) {
    self.asksToStop = asksToStop
    self.losses = losses
    self.evidence = evidence
    self.digest = digest
  }

  /// Reads a share of a step of `microBatches` micro-batches.
  init(_ message: [UInt8], from place: Int, microBatches: Int) throws(DistributedRunFailure) {
    var reader = MessageReader(message, from: place, "the share of a step")
    digest = try reader.word()
    losses = []
    for _ in 0..<(try reader.count(atMost: microBatches)) {
      let position = Int(try reader.word())
      guard position < microBatches else {
        throw reader.failure("a loss of micro-batch \(position) of \(microBatches)")
      }
      losses.append((position, try reader.double()))
    }
    evidence = try reader.words(atMost: Self.evidenceLimit)
    asksToStop = try reader.count(atMost: 1) == 1
    try reader.finish()
  }
}
