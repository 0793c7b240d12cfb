package import CryptoPrimitives
package import NeuralNetworks

/// What a device of a job does at the moment.
package enum DistributedPhase: String, Sendable, Codable {
  /// The cache is filled by forward passes alone.
  case filling
  /// An epoch that runs the backbone.
  case live
  /// Activations, parameters and moments go to those who need them next.
  case transition
  /// An epoch from cached activations.
  case cached
  /// The held-out samples are predicted.
  case evaluation
}

/// How far a phase has come.
package struct DistributedProgress: Sendable, Equatable, Codable {
  /// What is done.
  package var phase: DistributedPhase
  /// The epoch, from 1; the finished ones in an evaluation.
  package var epoch: Int
  /// Steps of the epoch that are done.
  package var step: Int
  /// Steps of the epoch.
  package var steps: Int
  /// Samples a second of all devices together, since the epoch began.
  package var samplesPerSecond: Double
  /// Mean loss of the epoch so far; nil while nothing is trained.
  package var loss: Double?
  /// Seconds until the epoch ends at this pace.
  package var etaSeconds: Double
  /// Share of the phase so far in which this device did not compute.
  package var waitShare = 0.0
  /// Bytes that this device has sent to all others since its run began.
  package var sentBytes: UInt64 = 0
  /// Bytes that it has received.
  package var receivedBytes: UInt64 = 0
}

/// What this device did with its time in a phase.
package struct DeviceTimes: Sendable, Equatable, Codable {
  /// Wall-clock seconds of the phase.
  package var seconds = 0.0
  /// Seconds that the driver waited for activations and gradients of other stages.
  package var boundaryWait = 0.0
  /// Seconds that it waited for the shares of other devices.
  package var shareWait = 0.0
  /// Seconds that it waited for pieces of the ring.
  package var ringWait = 0.0
  /// Seconds in the ring, waits included.
  package var ring = 0.0
  /// Seconds that it waited because the queue of taps was full, or for taps.
  package var tapWait = 0.0

  /// Share of the time in which it did not compute: the bubbles of a pipeline, and what the ring costs.
  package var waitShare: Double {
    seconds > 0 ? min(1, (boundaryWait + shareWait + ringWait + tapWait) / seconds) : 0
  }
}

/// Sums of gradients that a device has sent round its rings, and the bytes that they took.
package struct SumTraffic: Sendable, Equatable, Codable {
  /// Sums, each counted as often as it was sent.
  package private(set) var sums: UInt64 = 0
  /// Bytes of the messages, before encryption.
  package private(set) var bytes: UInt64 = 0

  /// Nothing.
  package init() {}

  /// Counts a message.
  package mutating func add(sums: Int, bytes: Int) {
    self.sums += UInt64(sums)
    self.bytes += UInt64(bytes)
  }

  /// Bits of one sum in the mean; nil when none was sent.
  package var bitsOfSum: Double? { sums > 0 ? 8 * Double(bytes) / Double(sums) : nil }

  static func + (left: SumTraffic, right: SumTraffic) -> SumTraffic {
    var sum = left
    sum.sums += right.sums
    sum.bytes += right.bytes
    return sum
  }

  /// What came since `earlier`.
  func since(_ earlier: SumTraffic) -> SumTraffic {
    var rest = self
    rest.sums -= earlier.sums
    rest.bytes -= earlier.bytes
    return rest
  }
}

/// A finished epoch, as this device measured it.
package struct DistributedEpoch: Sendable, Equatable, Codable {
  /// `live`, `cached` or `filling`.
  package var phase: DistributedPhase
  /// The epoch, from 1; 0 for a fill.
  package var index: Int
  /// Training samples a second of all devices together.
  package var samplesPerSecond: Double
  /// Mean training loss; 0 for a fill.
  package var loss: Double
  /// Steps that were computed a second time.
  package var repeatedSteps: Int
  /// Where the time went.
  package var times: DeviceTimes
  /// Bytes to and from every device of the plan in this epoch, by place.
  package var traffic: [LinkTraffic]
  /// What this device has sent round rings in it.
  package var sums = SumTraffic()
  /// Resident bytes of the process at its end.
  package var residentBytes: Int
}

/// The passage from the first phase to the cached epochs, as this device measured it.
package struct DistributedTransition: Sendable, Equatable, Codable {
  /// Wall-clock seconds from the end of the first phase.
  package var seconds: Double
  /// Bytes to and from every device of the plan in it, by place.
  package var traffic: [LinkTraffic]
  /// Samples whose activations are in this device's cache.
  package var cachedSamples: Int
  /// Resident bytes of the process before the backbone was released.
  package var residentBefore: Int
  /// Resident bytes afterwards.
  package var residentAfter: Int
}

/// The held-out samples under the parameters after some epochs: the same values on every device.
package struct DistributedEvaluation: Sendable, Equatable {
  /// Finished epochs.
  package var epoch: Int
  /// Sum of the losses of all units, as one device adds them.
  package var lossSum: Double
  /// Number of the losses.
  package var units: Int
  /// One row of predictions a held-out sample; empty for a language-model head.
  package var predictions: [Float]
}

/// What happens in a device's part of a job; events come in order, on the driver's thread.
package enum DistributedEvent: Sendable, Equatable {
  /// A phase begins.
  case phase(DistributedPhase)
  /// A step or a wave of units is done.
  case progress(DistributedProgress)
  /// The held-out samples were predicted.
  case evaluated(DistributedEvaluation)
  /// An epoch, or the fill, is done.
  case epoch(DistributedEpoch)
  /// The passage to the cached epochs is done, and the backbone is released.
  case transition(DistributedTransition)
  /// The devices know where they go on, and have what they need from each other.
  case handover(RunHandover)
  /// This device has the activations that the next plan wants of it, as far as there are any now.
  case learned
  /// This device has applied an optimizer step of the job; `secondsPerStep` are those in which it computed.
  case committed(step: Int, secondsPerStep: Double)
}

/// What came of a device's part of a job.
package struct DistributedResult: Sendable {
  /// How it ended.
  package var ending = RunEnding.finished
  /// True when this device has the final parameters; false when it only helped in the first phase.
  package var isComplete: Bool
  /// The trained parameters.
  package var parameters: ParameterTree
  /// BLAKE2b-256 of the flat vector.
  package var digest: ContentDigest
  /// Optimizer steps.
  package var steps: Int
  /// Epochs as this device measured them.
  package var epochs: [DistributedEpoch]
  /// The passage to the cached epochs; nil when there was none.
  package var transition: DistributedTransition?
  /// Held-out samples before training, if there are any.
  package var before: DistributedEvaluation?
  /// Held-out samples at the end, if there are any.
  package var after: DistributedEvaluation?
}
