import ArgumentParser
import HearthNode

/// `hearth pause`.
struct PauseCommand: ReportingCommand {
  static let configuration = CommandConfiguration(
    commandName: "pause",
    abstract: "Take this device out of the household's jobs: I need it now.",
    discussion: """
      Its part of a job that runs is handed over to the other devices behind the step in flight: no work is lost, and \
      the adapter stays the same bit for bit. New jobs leave the device out and say why. It stays in the household, and \
      its own jobs go on on the other devices. When it is the last device of a job, the job waits until it or another one \
      is back.

      This lasts until 'hearth resume', also over restarts of the daemon and of the machine. 'hearth peers', 'hearth \
      jobs' and 'hearth watch' show it. 'hearth up --pause-on-battery' does it by itself while the mains are away.

      Example:
        hearth pause
        hearth pause --reason "video call until three"
        hearth resume
      """)

  @OptionGroup var reporting: ReportingOptions

  @Option(
    help: ArgumentHelp(
      "What the household is told, at most \(DevicePause.reasonBytes) bytes of one line.", valueName: "text"))
  var reason: String?

  func validate() throws {
    guard let reason, DevicePause.plain(reason) != reason else { return }
    throw ValidationError(
      "--reason is '\(DevicePause.plain(reason))' with more than is shown; give one line of at most "
        + "\(DevicePause.reasonBytes) bytes without spaces at its ends")
  }

  func run() throws {
    let report = try PauseClient(try Here.place()).pause(reason ?? "")
    try OutputStream.standard.write(reporting.json ? jsonLine(report) + "\n" : report.text)
  }
}

/// `hearth resume`.
struct ResumeCommand: ReportingCommand {
  static let configuration = CommandConfiguration(
    commandName: "resume",
    abstract: "Let this device take part in the household's jobs again.",
    discussion: """
      Ends 'hearth pause'. Jobs that are under way look at once whether it pays to use the device, and 'hearth watch' \
      says what came of it. On a device that 'hearth up --pause-on-battery' has paused it counts until mains power \
      comes back.

      To go on with a run on one device that was interrupted, see 'hearth train --resume'.

      Example:
        hearth resume
      """)

  @OptionGroup var reporting: ReportingOptions

  func run() throws {
    let report = try PauseClient(try Here.place()).resume()
    try OutputStream.standard.write(reporting.json ? jsonLine(report) + "\n" : report.text)
  }
}

/// `hearth adopt`.
struct AdoptCommand: ReportingCommand {
  static let configuration = CommandConfiguration(
    commandName: "adopt",
    abstract: "Let a job go on with the devices that are here when too few are here to agree.",
    discussion: """
      A plan counts when most of a job's devices agree on it. When fewer are left, the job waits: 'hearth watch' shows \
      'paused: no quorum', because the others may be at work on it where this device cannot see them. When you know \
      that they are off, broken or gone for good, adopt the job: it goes on from the last step that the devices here \
      have, with a vote of their own.

      The danger: when the others are at work after all, both sides train. The two meet later, what was adopted wins, \
      and what the others did since is thrown away; the adapter that they may have written is the same bit for bit, so \
      time is lost and nothing else. Look at 'hearth peers' before, and at the other devices if you can.

      Takes an admin's device, and --force, which says that you read this. JOB is the start of an id as 'hearth jobs' \
      shows it, or a name; without it the job that is under way is meant.

      Example:
        hearth adopt 3fa9 --force
      """)

  @OptionGroup var reporting: ReportingOptions

  @Argument(help: ArgumentHelp("The job's id, the start of it, or its name.", valueName: "job"))
  var job: String?

  @Flag(help: "The other devices are known to be off or gone.")
  var force = false

  func run() throws {
    let client = JobClient(try Here.place())
    let chosen = try JobSelection.resolve(job, among: client.jobs())
    guard !chosen.state.isOver else {
      throw JobFailure.over(job: chosen.short, state: chosen.state.rawValue)
    }
    guard chosen.state == .paused else {
      throw JobFailure.notPaused(job: chosen.short, state: chosen.state.rawValue)
    }
    guard force else { throw JobFailure.adoptionNotForced(job: chosen.short, state: chosen.stateText) }
    try client.adopt(chosen.id)
    try OutputStream.standard.write(
      reporting.json
        ? jsonLine(NamedJob(chosen)) + "\n"
        : "job \(chosen.short) '\(chosen.name)' goes on with the devices that are here; 'hearth watch \(chosen.short)' shows it\n"
    )
  }
}

/// What `hearth stop --json` and `hearth adopt --json` write.
struct NamedJob: Encodable {
  var job: String
  var name: String

  init(_ report: JobReport) {
    job = report.id
    name = report.name
  }
}
