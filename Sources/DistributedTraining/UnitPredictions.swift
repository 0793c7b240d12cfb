import FineTuning

/// What a device predicted for one held-out unit.
struct UnitPrediction: Sendable, Equatable {
  var lossSum: Double
  /// One row a sample.
  var rows: [Float]
}

/// Gathers the predictions of all devices, so that metrics are those of one device.
struct EvaluationExchange {
  let context: RunContext
  /// Devices that compute predictions.
  let evaluators: [Int]
  /// Devices that want them.
  let audience: [Int]

  /// Sends this device's predictions and returns those of all units; nil on a device that is not in the audience.
  func gather(
    _ own: [(unit: Int, prediction: UnitPrediction)], epoch: Int
  ) throws(DistributedRunFailure) -> DistributedEvaluation? {
    let tag = JobTag(.predictions, step: UInt64(epoch))
    if evaluators.contains(context.place) {
      let message = message(own)
      for device in audience where device != context.place {
        try context.links.send(message, tag, to: device)
      }
    }
    guard audience.contains(context.place) else { return nil }
    var all = [UnitPrediction?](repeating: nil, count: context.job.validation.count)
    for part in own { all[part.unit] = part.prediction }
    for device in evaluators where device != context.place {
      try take(context.links.receive(tag, from: device, .predictions), from: device, into: &all)
    }
    return try evaluation(all, epoch: epoch)
  }

  private func message(_ own: [(unit: Int, prediction: UnitPrediction)]) -> [UInt8] {
    var writer = MessageWriter()
    writer.word(UInt32(own.count))
    for part in own {
      writer.word(UInt32(part.unit))
      writer.double(part.prediction.lossSum)
      part.prediction.rows.withUnsafeBufferPointer { writer.floats($0) }
    }
    return writer.bytes
  }

  private func take(
    _ message: [UInt8], from device: Int, into all: inout [UnitPrediction?]
  ) throws(DistributedRunFailure) {
    var reader = MessageReader(message, from: device, "predictions")
    for _ in 0..<(try reader.count(atMost: all.count)) {
      let unit = Int(try reader.word())
      guard unit < all.count else { throw reader.failure("unit \(unit) of \(all.count)") }
      let loss = try reader.double()
      var rows = [Float](
        repeating: 0, count: context.job.validation[unit].samples.count * context.job.outputs)
      var failure: DistributedRunFailure?
      rows.withUnsafeMutableBufferPointer { target in
        do throws(DistributedRunFailure) { try reader.floats(into: target) } catch { failure = error }
      }
      if let failure { throw failure }
      all[unit] = UnitPrediction(lossSum: loss, rows: rows)
    }
    try reader.finish()
  }

  /// Losses are added in the order of the units, rows placed by sample: the same bits as on one device.
  private func evaluation(
    _ all: [UnitPrediction?], epoch: Int
  ) throws(DistributedRunFailure) -> DistributedEvaluation {
    let job = context.job
    var evaluation = DistributedEvaluation(
      epoch: epoch, lossSum: 0, units: 0,
      predictions: [Float](repeating: 0, count: job.validationSamples * job.outputs))
    for (unit, prediction) in all.enumerated() {
      guard let prediction else { throw .unfitPlan("nobody has predicted held-out unit \(unit)") }
      let batch = job.validation[unit]
      evaluation.lossSum += prediction.lossSum
      evaluation.units += batch.units
      for (row, sample) in batch.samples.enumerated() {
        for column in 0..<job.outputs {
          evaluation.predictions[sample * job.outputs + column] = prediction.rows[row * job.outputs + column]
        }
      }
    }
    return evaluation
  }
}
