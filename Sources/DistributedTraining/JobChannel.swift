/// What a message between the devices of a job is about; the raw values are the wire's.
package enum JobMessageKind: UInt8, Hashable, Sendable, CaseIterable {
  /// Activations, to the next stage.
  case forward = 1
  /// Gradients, to the stage before.
  case backward = 2
  /// Taps of a stage's layers, to the owner of the sample's lane.
  case taps = 3
  /// A chunk of gradient sums that grows on its way round the ring.
  case reduceScatter = 4
  /// A finished chunk of gradient sums.
  case allGather = 5
  /// What each device adds to a step beside sums: losses, outcomes, squares.
  case share = 6
  /// Values of trained parameters, or of the optimizer's moments.
  case parameters = 7
  /// Predictions of held-out samples.
  case predictions = 8
  /// What devices have when a plan epoch begins, and what is handed over then or prepared for the next plan.
  case state = 9
}

/// Names one message of a plan epoch between two devices; sender and receiver derive it from the plan alone.
package struct JobTag: Hashable, Sendable {
  /// What it is about.
  package var kind: JobMessageKind
  /// The optimizer step, or the number of a pass that trains nothing.
  package var step: UInt64
  /// The lane, or the bucket of a reduction.
  package var unit: UInt32
  /// The stage, the hop of a ring, or 0.
  package var part: UInt32

  /// A tag.
  package init(_ kind: JobMessageKind, step: UInt64, unit: UInt32 = 0, part: UInt32 = 0) {
    self.kind = kind
    self.step = step
    self.unit = unit
    self.part = part
  }
}

/// Why a channel gave up.
package enum JobChannelFailure: Error, Equatable, Sendable, CustomStringConvertible {
  /// The job was stopped, here or elsewhere; the reason is for people.
  case aborted(String)
  /// The connection to a device of the plan ended, or it was silent for too long.
  case lost(place: Int)

  /// What happened.
  package var description: String {
    switch self {
    case .aborted(let reason): reason
    case .lost(let place): "the connection to device \(place) of the plan ended"
    }
  }
}

/// Messages between the devices of one plan epoch, by their places in the plan.
///
/// `send` and `receive` block the calling thread, which is never one of the cooperative pool: `send` while the link's queue is
/// full, `receive` until the message is there. Messages with one tag from one device arrive in the order in which they
/// were sent. After a failure every call fails, but for one: a device without a part in the plan may be lost without the
/// others; calls that name it throw `lost` with its place, all others go on. Any thread may call.
package protocol JobChannel: AnyObject, Sendable {
  /// This device's place in the plan's household.
  var place: Int { get }
  /// Hands a message over; returns when the link has taken it, not when it has arrived.
  func send(_ message: [UInt8], _ tag: JobTag, to place: Int) throws(JobChannelFailure)
  /// The next message with this tag from that device.
  func receive(_ tag: JobTag, from place: Int) throws(JobChannelFailure) -> [UInt8]
  /// The same if it is there already; nil at once if not.
  func poll(_ tag: JobTag, from place: Int) throws(JobChannelFailure) -> [UInt8]?
  /// Ends the channel for good, here and at every other device: every call that waits fails; later calls change nothing.
  func abort(_ reason: String)
}
