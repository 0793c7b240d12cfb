import MeshModel
import ParallelPlanner
import TrainingCoordination

/// A job's notes as people are told them: its coordinator's words, with the pace around each change.
struct JobNotes: Sendable {
  fileprivate struct Entry: Sendable {
    var note: JobReport.Note
    var device: DeviceID?
  }

  private var entries: [Entry] = []
  private var pace: JobPace?
  private var epoch: UInt64?
  /// The next ordinal of the coordinator that was not taken.
  private var next: UInt32 = 0

  /// Nothing has happened.
  init() {}

  /// Takes in where the job is and what its coordinator has noted since the last call.
  ///
  /// `pace` makes the measuring once the job's package is here, and `at` is when this is, in seconds of a steady clock.
  mutating func take(
    _ coordinator: JobCoordinator, position: JobPace.Position?, pace make: () -> JobPace?, at seconds: Double
  ) {
    if pace == nil { pace = make() }
    let new = coordinator.notes.filter { $0.ordinal >= next }
    if let last = new.last { next = last.ordinal + 1 }
    for note in new { append(note, coordinator) }
    if let certificate = coordinator.certificate, certificate.stamp.epoch != epoch {
      let plan = certificate.proposal.plan
      pace?.begin(
        change: epoch == nil ? nil : new.last(where: \.isMeasured).map { Int($0.ordinal) },
        cachedEpochSeconds: plan.mode == .live ? nil : Double(plan.predicted.cachedEpoch) / 1e9)
      epoch = certificate.stamp.epoch
    }
    if let position { pace?.note(position, at: seconds) }
  }

  /// The notes with what is measured of them by now.
  func report(name: (DeviceID) -> String) -> [JobReport.Note] {
    entries.map { entry in
      var note = entry.note
      note.device = entry.device.map(name)
      if let change = pace?.change(note.number) { (note.before, note.after) = (change.before, change.after) }
      return note
    }
  }

  /// Whether it is told already that a device is not used.
  func tellRefusal(of device: DeviceID) -> Bool {
    entries.contains { $0.device == device && $0.note.kind == .notUsed }
  }

  private mutating func append(_ told: JobNote, _ coordinator: JobCoordinator) {
    var entry = Entry(
      note: JobReport.Note(number: Int(told.ordinal), kind: .recovered, seconds: told.seconds), device: nil)
    entry.note.planEpoch = told.epoch
    switch told.event {
    case .joined(let device): (entry.note.kind, entry.device) = (.joined, device)
    case .left(let device, let reason): entry.set(.left, device, reason)
    case .lost(let device, let reason): entry.set(.lost, device, reason)
    case .declined(let device, let reason): entry.set(.notUsed, device, reason)
    case .adopted(let device): entry.set(.adopted, device, "")
    case .paused(let reason): entry.set(.paused, nil, reason)
    case .recovered(let step, let seconds):
      entry.note.step = Int(clamping: step)
      entry.note.devices = coordinator.participants.count
      entry.note.tookSeconds = seconds
    case .replanned(_, let to, let cause, _):
      // Why the others are made stands in the notes beside them.
      guard cause == .straggler else { return }
      entry.set(.replanned, nil, "a device is slower or faster than was planned")
      entry.note.planEpoch = to
    }
    entries.append(entry)
    if entries.count > JobReport.noteLimit { entries.removeFirst() }
  }
}

extension JobNotes.Entry {
  fileprivate mutating func set(_ kind: JobReport.Note.Kind, _ device: DeviceID?, _ reason: String) {
    self.device = device
    note.kind = kind
    note.reason = reason.isEmpty ? nil : reason
  }
}

extension JobNote {
  /// Whether the pace before and after says something about this note.
  fileprivate var isMeasured: Bool {
    switch event {
    case .joined, .left, .lost: true
    case .replanned(_, _, let cause, _): cause == .straggler
    case .declined, .recovered, .paused, .adopted: false
    }
  }
}
