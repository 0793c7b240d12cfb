import ArgumentParser
import HearthNode

/// `hearth jobs`.
struct JobsCommand: ReportingCommand {
  static let configuration = CommandConfiguration(
    commandName: "jobs",
    abstract: "List what the household trains, and what it trained lately.",
    discussion: """
      The newest job comes first, with the device that submitted it ('*': this one), where it is, its rate, its loss \
      and its devices. 'recovering' is a job that goes on with other devices than before, 'paused' one that waits for \
      devices; jobs that are paused or failed are followed by a line that says why. Every device of the household can \
      list them, watch them and stop them.

      While the daemon is down it ends with code 68.

      Example:
        hearth jobs
        hearth jobs --json
      """)

  @OptionGroup var reporting: ReportingOptions

  func run() throws {
    let jobs = try JobClient(Here.place()).jobs()
    try OutputStream.standard.write(
      reporting.json ? jsonLine(JobList(jobs: jobs)) + "\n" : JobReport.table(jobs))
  }
}

/// What `hearth jobs --json` writes.
private struct JobList: Encodable {
  var jobs: [JobReport]
}

/// `hearth watch`.
struct WatchCommand: ReportingCommand {
  static let configuration = CommandConfiguration(
    commandName: "watch",
    abstract: "Follow a job of the household to its end.",
    discussion: """
      Shows the plan, who computes what, samples a second, loss, memory, bytes of every link, the share of waiting, \
      and the time that is left; works on every device of the household. JOB is the start of an id as 'hearth jobs' \
      shows it, or a name; without it the job that is under way is meant.

      Devices may come and go: a line tells of each that joined (with samples a second and the time left before and \
      after), left, was lost or was not used and why, and of the step from which the job goes on. While too few devices \
      are here to agree on a plan, it shows 'paused: no quorum' and goes on by itself when they are back; 'hearth \
      adopt' is for those that will not be.

      Ends as the job does: 0 with an adapter, 68 when it could not go on, 130 when somebody stopped it. Ctrl-C ends \
      only the watching, with code 130. When this device's daemon ends, so does the watching, with code 68; the job \
      goes on.

      Example:
        hearth watch
        hearth watch 3fa9 --json
      """)

  @OptionGroup var reporting: ReportingOptions

  @Argument(help: ArgumentHelp("The job's id, the start of it, or its name.", valueName: "job"))
  var job: String?

  func run() throws {
    let client = JobClient(try Here.place())
    let chosen = try JobSelection.resolve(job, among: client.jobs())
    let flag = CancellationFlag()
    InterruptWatch.start(flag) {}
    var console = JobConsole(json: reporting.json, environment: Here.environment)
    defer { console.close() }
    guard
      let last = try client.follow(chosen.id, isCancelled: { flag.isCancelled }, show: { console.show($0) })
    else { throw JobFailure.detached(job: chosen.short) }
    try console.finish(last)
  }
}

/// `hearth stop`.
struct StopCommand: ReportingCommand {
  static let configuration = CommandConfiguration(
    commandName: "stop",
    abstract: "End a job of the household on all its devices.",
    discussion: """
      No adapter is written, and what devices kept for the job is removed. JOB is the start of an id as 'hearth jobs' \
      shows it, or a name; without it the job that is under way is meant. Any device of the household may stop a job.

      Example:
        hearth stop 3fa9
      """)

  @OptionGroup var reporting: ReportingOptions

  @Argument(help: ArgumentHelp("The job's id, the start of it, or its name.", valueName: "job"))
  var job: String?

  func run() throws {
    let client = JobClient(try Here.place())
    let chosen = try JobSelection.resolve(job, among: client.jobs())
    guard !chosen.state.isOver else {
      throw JobFailure.over(job: chosen.short, state: chosen.state.rawValue)
    }
    try client.stop(chosen.id)
    try OutputStream.standard.write(
      reporting.json ? jsonLine(NamedJob(chosen)) + "\n" : "job \(chosen.short) '\(chosen.name)' is stopped\n"
    )
  }
}
