import Determinism
import HearthNode
import MeshModel
import Testing
import TrainingCoordination

@Suite struct JobNotesTests {
  private let laptop: DeviceID
  private let nas: DeviceID

  init() throws {
    laptop = try #require(DeviceID(bytes: [UInt8](repeating: 1, count: DeviceID.byteCount)))
    nas = try #require(DeviceID(bytes: [UInt8](repeating: 2, count: DeviceID.byteCount)))
  }

  private func name(_ device: DeviceID) -> String { device == laptop ? "laptop" : "nas" }

  private func note(_ ordinal: UInt32, _ event: JobNote.Event) -> JobNote {
    JobNote(ordinal: ordinal, seconds: Double(ordinal), epoch: 1, event: event)
  }

  private func moment(
    _ notes: [JobNote], epoch: UInt64? = 1, step: Int? = nil, seconds: Double = 0
  ) -> JobNotes.Moment {
    var moment = JobNotes.Moment()
    (moment.notes, moment.epoch, moment.seconds) = (notes, epoch, seconds)
    (moment.cachedEpochSeconds, moment.participants) = (10, 2)
    moment.position = step.map { JobPace.Position(phase: .cachedEpoch, epoch: 2, step: $0, steps: 1000) }
    return moment
  }

  @Test("each of the coordinator's notes is taken once, also when its list has been cut at the front")
  func once() {
    var notes = JobNotes()
    let first = note(0, .lost(laptop, reason: "connection ended"))
    let second = note(1, .recovered(step: 412, seconds: 1.8))
    notes.take(moment([first]))
    notes.take(moment([first, second]))
    notes.take(moment([second, note(2, .declined(nas, reason: "it would not pay"))]))
    let told = notes.report(name: name)
    #expect(told.map(\.number) == [0, 1, 2])
    #expect(
      told.map(\.text) == [
        "laptop was lost (connection ended)", "recovered in 1.80 s; going on from step 412 with 2 devices",
        "nas was not used: it would not pay",
      ])
    #expect(notes.tellRefusal(of: nas) && !notes.tellRefusal(of: laptop))
  }

  @Test("the pace around a new plan belongs to the device that caused it; a plan without a cause is no note")
  func pace() throws {
    var notes = JobNotes()
    notes.measure(JobPace(samplesPerStep: 4, epochs: 2))
    notes.take(moment([]))
    for tick in 0...20 { notes.take(moment([], step: tick * 2, seconds: Double(tick) / 4)) }
    let joined = note(0, .joined(laptop))
    let replanned = note(1, .replanned(from: 1, to: 2, cause: .joined, samplesPerSecond: 32))
    notes.take(moment([joined, replanned], epoch: 2, seconds: 6))
    #expect(notes.report(name: name).map(\.kind) == [.joined])
    for tick in 0...20 {
      notes.take(
        moment([joined, replanned], epoch: 2, step: 41 + tick * 4, seconds: 7 + Double(tick) / 4))
    }
    let told = try #require(notes.report(name: name).first)
    // 8 steps of 4 samples a second before, 16 after.
    #expect(told.before?.samplesPerSecond == 32 && told.after?.samplesPerSecond == 64)
    #expect(told.paceText?.hasPrefix("laptop joined: 32.0 -> 64.0 samples/s, about ") == true)
  }

  @Test("shares that are measured anew are told as such, with their pace")
  func rebalanced() {
    var notes = JobNotes()
    notes.take(moment([]))
    notes.take(
      moment([note(0, .replanned(from: 1, to: 2, cause: .straggler, samplesPerSecond: nil))], epoch: 2))
    #expect(
      notes.report(name: name).map(\.text) == [
        "the work is divided anew (a device is slower or faster than was planned)"
      ])
  }

  @Test("so many notes are kept and no more")
  func bounded() {
    var notes = JobNotes()
    for ordinal in 0..<200 { notes.take(moment([note(UInt32(ordinal), .joined(laptop))])) }
    let told = notes.report(name: name)
    #expect(told.count == JobReport.noteLimit && told.last?.number == 199)
  }
}
