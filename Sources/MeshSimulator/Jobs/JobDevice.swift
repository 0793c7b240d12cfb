import CryptoPrimitives
import Determinism
import HouseholdTrust
import MeshModel
import TrainingCoordination

/// The stream between two devices under one plan epoch, as one of them sees it.
struct JobLinkEnd: Sendable {
  enum State: Hashable, Sendable {
    case dialling, open, lost
    /// The other device's run has come to its end.
    case finished
  }

  var state = State.dialling
  /// Which channel of the other device it leads to.
  var peer = 0
  /// What waits until the stream is there, or gets through again.
  var queue: [StandInMessage] = []
  /// Whether it is broken although nobody has noticed.
  var isTorn = false
  /// Since when nothing gets through.
  var stalledSince: MonotonicInstant?
}

/// A device's end of a channel of one plan epoch.
struct JobChannelEnd: Sendable {
  let number: Int
  let stamp: JobStamp
  let place: Int
  /// The devices by place.
  let devices: [Int]
  /// Places whose loss fails only their link.
  let optional: Set<Int>
  let opened: MonotonicInstant
  var links: [JobLinkEnd]
}

/// What a device computes at the moment.
struct JobTask: Sendable {
  let number: Int
  let channel: Int
  /// What was left of it at `since`, in seconds at the device's own pace.
  let seconds: Double
  let since: MonotonicInstant
}

/// What a process of a simulated device has in its memory.
struct JobProcess: Sendable {
  var coordinator: JobCoordinator?
  var run: StandInRun?
  var channel: JobChannelEnd?
  var task: JobTask?
  /// Counts tasks and changes of their pace.
  var tasks = 0
  /// The plan epoch of the last run that came to its end here.
  var finishedStamp: JobStamp?
  /// States that the last run left.
  var held: [StandInState] = []
  /// What the job came to, when it is whole here.
  var result: StandInState?
  var heard: [MonotonicInstant]
  /// Whom it takes for unreachable although it is not, and until when.
  var doubts: [MonotonicInstant]
  var membership: JobMembership
  var plannedWake: MonotonicInstant?
  /// Counts what is asked for, so that an old answer is not taken for a new one.
  var request = 0
  var lastCheckpoint: MonotonicInstant
}

/// A device of a simulated job: a machine with clocks and a disk, and at most one process on it.
struct JobDevice: Sendable {
  enum Machine: Hashable, Sendable { case off, on, asleep }

  /// Messages on control sessions that a stopped process's sockets hold.
  static let heldLimit = 512

  let index: Int
  let keys: DeviceKeys
  var clock: DeviceClock
  var chance: SeededGenerator
  var disk: JobDisk
  var machine = Machine.off
  var isStopped = false
  /// Counts starts of its process.
  var life = 0
  var process: JobProcess?
  /// What waits for a stopped process.
  var held: [JobEvent] = []
  /// Seconds that a unit takes.
  var unitSeconds: Double
  var slowness = 1
  /// Where its next write of the record ends it: before (false) or after it.
  var killsAtPersist: Bool?
  /// Why a person does not want it used; survives restarts.
  var pause: String?
  var misbehaviour: JobMisbehaviour?

  var id: DeviceID { keys.device }
  /// Whether its process does what comes.
  var isRunning: Bool { machine == .on && process != nil && !isStopped }
}

/// What goes over a stream between two devices.
struct JobBulkFrame: Sendable {
  enum Body: Sendable {
    case hello(isReply: Bool)
    case message(StandInMessage)
    /// The run at the other end has given up.
    case abort
    /// The run at the other end is over, and all that it had to say was said.
    case finish
    /// There is nobody at the other end.
    case reset
  }

  let from: Int
  let to: Int
  let stamp: JobStamp
  /// The sender's channel; for a reset, the channel that it is about.
  let channel: Int
  let body: Body
}

/// Something that is to happen in a job's run.
enum JobEvent: Sendable {
  case step(Int)
  case beat
  case wake(Int, life: Int)
  case control(JobMessage, from: Int, to: Int)
  case input(Int, life: Int, request: Int, JobAnswer)
  case computed(Int, life: Int, task: Int)
  case bulk(JobBulkFrame)
  /// What a stream that has ended still held comes out of a buffer.
  case late(JobBulkFrame, life: Int)
  case dial(Int, channel: Int)
  case stalled(Int, channel: Int, place: Int, since: MonotonicInstant)
  case lost(Int, channel: Int, place: Int)
  case written(Int, life: Int)
  case restart(Int)
  case farewell(Int, life: Int, until: MonotonicInstant)
  case judge
}

/// What a piece of work that a coordinator asked for comes to.
enum JobAnswer: Sendable {
  case prepared
  case planned(PlanRequest)
  case surveyed(UInt64)
  case fetched(JobStamp)
  case delivered(ContentDigest, from: Int)
  case stopped(JobStamp, RunStop)
}
