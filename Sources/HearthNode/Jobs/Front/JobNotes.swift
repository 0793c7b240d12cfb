package import MeshModel
package import TrainingCoordination

/// A job's notes as people are told them: its coordinator's words, with the pace around each change.
package struct JobNotes: Sendable {
  /// Where a job is on this device at a moment.
  package struct Moment: Sendable {
    /// What the coordinator has noted, the newest last.
    package var notes: [JobNote] = []
    /// The plan epoch in force; nil before the first.
    package var epoch: UInt64?
    /// What its plan predicts of an epoch from the cache; nil without a cache.
    package var cachedEpochSeconds: Double?
    /// Devices that compute under it.
    package var participants = 0
    /// Where the training is; nil while nothing is trained.
    package var position: JobPace.Position?
    /// Seconds of a steady clock.
    package var seconds = 0.0

    /// A moment before anything is known.
    package init() {}
  }

  private struct Entry: Sendable {
    var note: JobReport.Note
    var device: DeviceID?

    mutating func set(_ kind: JobReport.Note.Kind, _ device: DeviceID?, _ reason: String) {
      self.device = device
      note.kind = kind
      note.reason = reason.isEmpty ? nil : reason
    }
  }

  private var entries: [Entry] = []
  private var pace: JobPace?
  private var epoch: UInt64?
  /// The next ordinal of the coordinator that was not taken.
  private var next: UInt32 = 0

  /// Nothing has happened.
  package init() {}

  /// Whether paces are measured, which needs the job's package.
  package var isMeasuring: Bool { pace != nil }

  /// Measures paces from now on.
  package mutating func measure(_ pace: JobPace) { self.pace = pace }

  /// Takes in where the job is and what its coordinator has noted since the last call.
  package mutating func take(_ moment: Moment) {
    let new = moment.notes.filter { $0.ordinal >= next }
    if let last = new.last { next = last.ordinal + 1 }
    for note in new { append(note, participants: moment.participants) }
    if let epoch = moment.epoch, epoch != self.epoch {
      // What a plan changes is noted when it comes into force; the change is known by what caused it.
      let subject = new.last { $0.event.isCause } ?? new.last { $0.event.isRebalancing }
      pace?.begin(
        change: self.epoch == nil ? nil : subject.map { Int($0.ordinal) },
        cachedEpochSeconds: moment.cachedEpochSeconds)
      self.epoch = epoch
    }
    if let position = moment.position { pace?.note(position, at: moment.seconds) }
  }

  /// The notes with what is measured of them by now.
  package func report(name: (DeviceID) -> String) -> [JobReport.Note] {
    entries.map { entry in
      var note = entry.note
      note.device = entry.device.map(name)
      if let change = pace?.change(note.number) { (note.before, note.after) = (change.before, change.after) }
      return note
    }
  }

  /// Whether it is told already that a device is not used.
  package func tellRefusal(of device: DeviceID) -> Bool {
    entries.contains { $0.device == device && $0.note.kind == .notUsed }
  }

  private mutating func append(_ told: JobNote, participants: Int) {
    var entry = Entry(
      note: JobReport.Note(number: Int(told.ordinal), kind: .recovered, seconds: told.seconds), device: nil)
    entry.note.planEpoch = told.epoch
    switch told.event {
    case .joined(let device): entry.set(.joined, device, "")
    case .left(let device, let reason): entry.set(.left, device, reason)
    case .lost(let device, let reason): entry.set(.lost, device, reason)
    case .declined(let device, let reason): entry.set(.notUsed, device, reason)
    case .adopted(let device): entry.set(.adopted, device, "")
    case .paused(let reason): entry.set(.paused, nil, reason)
    case .recovered(let step, let seconds):
      entry.note.step = Int(clamping: step)
      entry.note.devices = participants
      entry.note.tookSeconds = seconds
    case .replanned(_, let to, _, _):
      // Why the others are made stands in the notes beside them.
      guard told.event.isRebalancing else { return }
      entry.set(.replanned, nil, "a device is slower or faster than was planned")
      entry.note.planEpoch = to
    }
    entries.append(entry)
    if entries.count > JobReport.noteLimit { entries.removeFirst() }
  }
}

extension JobNote.Event {
  /// Whether a device came or went, for which there is another plan.
  fileprivate var isCause: Bool {
    switch self {
    case .joined, .left, .lost: true
    case .declined, .replanned, .recovered, .paused, .adopted: false
    }
  }

  /// Whether the work is divided anew between the same devices.
  fileprivate var isRebalancing: Bool {
    switch self {
    case .replanned(_, _, let cause, _): cause == .straggler
    case .joined, .left, .lost, .declined, .recovered, .paused, .adopted: false
    }
  }
}
