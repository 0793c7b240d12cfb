import Foundation
import Testing

/// Devices that come and go while a job runs: real daemons of one machine, killed and started like real ones.
///
/// Every job must end with the adapter that one device makes when nobody disturbs it.
@Suite(.timeLimit(.minutes(10)), .serialized) struct HouseholdChurnTests {
  /// A job: long enough that what happens after its second epoch happens in its midst, short for one device.
  private struct Job {
    let epochs: Int
    /// The digest of the adapter that one device makes in peace.
    let quietDigest: Result<String, any Error>

    init(epochs: Int) {
      self.epochs = epochs
      quietDigest = Result { () throws -> String in
        var digest = ""
        try withDevices("quiet") { devices in
          let words = try devices[0].trainingWords(
            output: "out", rows: Self.rows, extra: ["--alone"] + Self.sizes + ["--epochs", "\(epochs)"])
          let alone = try devices[0].run(words)
          #expect(alone.exitCode == 0, "\(alone.errors)")
          digest = try #require(try alone.lastEvent["adapter_digest"] as? String)
        }
        return digest
      }
    }

    private static let rows = 240
    private static let sizes = ["--batch", "8", "--micro-batch", "1", "--max-length", "16"]

    /// Submits the job and returns in its cached phase, with the devices that compute then beside the submitting one.
    ///
    /// All devices read the cache, whether or not the planner finds links and processors of a busy machine fast enough.
    func begin(
      on device: HouseholdDevice
    ) throws -> (training: HearthProcess.Running, others: [String]) {
      let training = try device.start(
        try device.trainingWords(
          output: "out", rows: Self.rows,
          extra: ["--planner", "eddl", "--cached-epochs", "all"] + Self.sizes + ["--epochs", "\(epochs)"]))
      var others: [String] = []
      let cached = training.waitForLine(limit: .max) { line in
        if line.contains(#""event":"planned""#), let plan = try? HouseholdDevice.object(line) {
          let devices = plan["cached_devices"] as? [[String: Any]] ?? []
          others = devices.compactMap { $0["name"] as? String }.filter { $0 != device.name }
        }
        return line.contains(#""event":"epoch""#) && line.contains(#""cached""#)
      }
      try #require(cached != nil, "no epoch from the cache: \(training.wait().errors)")
      return (training, others)
    }

    /// Expects the quiet run's adapter at the end of a command that follows the job.
    func expectQuietAdapter(_ running: HearthProcess.Running) throws {
      let end = running.wait()
      #expect(end.exitCode == 0, "\(end.errors)")
      #expect(try end.lastEvent["adapter_digest"] as? String == quietDigest.get(), "\(end.errors)")
    }
  }

  private static let short = Job(epochs: 400)
  /// Long enough that a device comes, or comes back, in its midst.
  private static let long = Job(epochs: 900)

  /// The first note of one of these kinds, of a device if one is named, among the lines of a command that follows a job.
  private static func note(
    _ kinds: String..., of device: String? = nil, in running: HearthProcess.Running
  ) throws -> [String: Any] {
    var seen: [String] = []
    var found: [String: Any] = [:]
    let line = running.waitForLine(limit: .max) { line in
      guard line.contains(#""event":"note""#), let note = try? HouseholdDevice.object(line) else {
        return false
      }
      seen.append(line)
      found = note
      return kinds.contains(note["kind"] as? String ?? "")
        && (device == nil || note["device"] as? String == device)
    }
    try #require(line != nil, "no note \(kinds) of \(device ?? "anybody"): \(seen); \(running.wait().errors)")
    return found
  }

  /// The only job that a device knows.
  private static func onlyJob(on device: HouseholdDevice) throws -> [String: Any] {
    let jobs = try #require(try device.run("jobs", "--json").lastEvent["jobs"] as? [[String: Any]])
    #expect(jobs.count == 1)
    return try #require(jobs.first)
  }

  @Test("a device that is killed in the cached phase costs a moment: the job goes on", arguments: [2, 3])
  func lostDevice(count: Int) throws {
    try withHousehold(named: Array(["desk", "laptop", "tablet"].prefix(count))) { devices in
      let (training, others) = try Self.short.begin(on: devices[0])
      let victim = try #require(
        devices.first { others.contains($0.name) }, "nobody helps in the cached phase")
      _ = try victim.down(SIGKILL)
      let lost = try Self.note("lost", of: victim.name, in: training)
      #expect(lost["reason"] as? String != nil, "\(lost)")
      let recovered = try Self.note("recovered", in: training)
      #expect((recovered["took_seconds"] as? Double ?? 99) < 30, "\(recovered)")
      try Self.short.expectQuietAdapter(training)
    }
  }

  @Test("the owner's daemon is killed: its job waits or goes on, and hands the adapter over when it is back")
  func lostOwner() throws {
    try withHousehold("desk", "laptop", "tablet") { devices in
      let (desk, laptop, tablet) = (devices[0], devices[1], devices[2])
      let (training, _) = try Self.short.begin(on: desk)
      let watch = try laptop.start(["watch", "--json"])
      let id = try #require(try Self.onlyJob(on: desk)["id"] as? String)
      _ = try desk.down(SIGKILL)
      let left = training.wait()
      #expect(left.exitCode == 68 && left.errors.contains("hearth watch"), "\(left.errors)")
      try desk.up(knowing: [laptop, tablet])
      let again = try desk.start(["watch", String(id.prefix(8)), "--json"])
      try Self.short.expectQuietAdapter(again)
      let watched = watch.wait()
      #expect(watched.exitCode == 0, "\(watched.errors)")
      let inspected = try desk.run("inspect", "\(desk.home)-out", "--json")
      #expect(inspected.exitCode == 0, "\(inspected.errors)")
    }
  }

  @Test(
    "devices that come in the midst of a job, back from a crash or newly paired, are used or told why not")
  func joined() throws {
    try withHousehold("desk", "laptop", outside: ["tablet"]) { devices in
      let (desk, laptop, tablet) = (devices[0], devices[1], devices[2])
      let (training, others) = try Self.long.begin(on: desk)
      #expect(others == ["laptop"])
      _ = try laptop.down(SIGKILL)
      _ = try Self.note("recovered", in: training)
      try laptop.up(knowing: [desk])
      // Whether a small job is worth a second device is the planner's to say; it must be said.
      func isTold(_ name: String) throws {
        let told = try Self.note("joined", "not_used", of: name, in: training)
        #expect(told["kind"] as? String == "joined" || told["reason"] as? String != nil, "\(told)")
      }
      try isTold("laptop")
      try tablet.join(desk)
      try tablet.up(knowing: [desk, laptop])
      try isTold("tablet")
      try Self.long.expectQuietAdapter(training)
    }
  }

  @Test("a person pauses a device in the midst of a job and resumes it: both are told, and nothing is lost")
  func pausedDevice() throws {
    try withHousehold("desk", "laptop") { devices in
      let (desk, laptop) = (devices[0], devices[1])
      let (training, others) = try Self.long.begin(on: desk)
      #expect(others == ["laptop"])
      let pause = try laptop.run("pause", "--reason", "video call")
      #expect(pause.exitCode == 0 && pause.output.contains("handed over"), "\(pause.errors)")
      let left = try Self.note("left", of: "laptop", in: training)
      #expect((left["reason"] as? String ?? "").contains("video call"), "\(left)")
      let report = try desk.waitForReport("the pause") { $0["laptop"]?["is_paused"] as? Bool == true }
      #expect(report["laptop"]?["is_available"] as? Bool == false)
      #expect(try laptop.run("resume").exitCode == 0)
      _ = try Self.note("joined", "not_used", of: "laptop", in: training)
      try Self.long.expectQuietAdapter(training)
    }
  }

  @Test("every daemon is killed and started again: the job goes on from what lies on their disks")
  func powerCut() throws {
    try withHousehold("desk", "laptop", "tablet") { devices in
      let (training, _) = try Self.short.begin(on: devices[0])
      for device in devices { _ = try device.down(SIGKILL) }
      #expect(training.wait().exitCode == 68)
      for (index, device) in devices.enumerated() { try device.up(knowing: Array(devices.prefix(index))) }
      let watch = try devices[0].start(["watch", "--json"])
      try Self.short.expectQuietAdapter(watch)
    }
  }

  @Test("too few devices to agree: the job waits and says so, is adopted only with --force, and then goes on")
  func adopted() throws {
    try withHousehold("desk", "laptop") { devices in
      let (desk, laptop) = (devices[0], devices[1])
      #expect(try desk.run("household", "promote", "laptop").exitCode == 0)
      let (training, others) = try Self.short.begin(on: desk)
      #expect(others == ["laptop"])
      let watch = try laptop.start(["watch", "--json"])
      // The owner's vote weighs 3 and the other's 2.
      _ = try desk.down(SIGKILL)
      #expect(training.wait().exitCode == 68)
      let paused = try Self.note("paused", in: watch)
      #expect((paused["reason"] as? String ?? "").contains("weight 2 of 5"), "\(paused)")
      #expect(try laptop.run("jobs").output.contains("paused: no quorum"))
      let refused = try laptop.run("adopt")
      #expect(refused.exitCode == 64 && refused.errors.contains("--force"), "\(refused.errors)")
      let adopted = try laptop.run("adopt", "--force")
      #expect(adopted.exitCode == 0, "\(adopted.errors)")
      _ = try Self.note("adopted", of: "laptop", in: watch)
      // The adapter is written where the rows came from.
      try desk.up(knowing: [laptop])
      try Self.short.expectQuietAdapter(try desk.start(["watch", "--json"]))
      #expect(watch.wait().exitCode == 0)
    }
  }
}

/// Pausing and adopting while no job runs.
@Suite(.timeLimit(.minutes(5))) struct HouseholdPauseTests {
  @Test("a pause outlasts a restart, is shown on every device, and keeps jobs away until resume")
  func pause() throws {
    try withHousehold("desk", "laptop") { devices in
      let (desk, laptop) = (devices[0], devices[1])
      let paused = try laptop.run("pause", "--reason", "video call", "--json")
      #expect(paused.exitCode == 0, "\(paused.errors)")
      #expect(try paused.lastEvent["reason"] as? String == "paused by its person: video call")
      try desk.waitForReport("the pause") { $0["laptop"]?["is_paused"] as? Bool == true }
      #expect(try desk.run("peers").output.contains("laptop: paused"))
      _ = try laptop.down()
      #expect(try laptop.run("peers").output.contains("video call"), "also while the daemon is down")
      try laptop.up(knowing: [desk])
      let report = try laptop.waitForReport("desk") { $0.isConnected("desk") }
      #expect(report["laptop"]?["pause_reason"] as? String == "paused by its person: video call")
      try desk.waitForReport("laptop back") {
        $0.isConnected("laptop") && $0["laptop"]?["is_paused"] as? Bool == true
      }
      let alone = try desk.run(try desk.trainingWords(output: "alone", extra: ["--epochs", "1"]))
      #expect(alone.exitCode == 0 && alone.errors.contains("no other device"), "\(alone.errors)")
      let resumed = try laptop.run("resume")
      #expect(resumed.exitCode == 0 && resumed.output.contains("takes part in jobs again"))
      try desk.waitForReport("the resumption") { $0["laptop"]?["is_available"] as? Bool == true }
    }
  }

  @Test("while the daemon is down a pause is kept for the next start; without a household it is refused")
  func offline() throws {
    try withDevices("desk") { devices in
      let desk = devices[0]
      #expect(try desk.run("pause").exitCode == 66)
      _ = try desk.createHousehold()
      let paused = try desk.run("pause")
      #expect(paused.exitCode == 0 && paused.output.contains("next 'hearth up'"), "\(paused.errors)")
      try desk.up()
      #expect(try desk.run("peers").output.contains("paused (paused by its person)"))
      #expect(try desk.run("resume").exitCode == 0)
      let long = try desk.run("pause", "--reason", String(repeating: "x", count: 201))
      #expect(long.exitCode == 64 && long.errors.contains("--reason"), "\(long.errors)")
    }
  }

  @Test("a job that does not wait, or is none, cannot be adopted")
  func nothingToAdopt() throws {
    try withHousehold("desk") { devices in
      let none = try devices[0].run("adopt", "--force")
      #expect(none.exitCode == 64 && none.errors.contains("no job is under way"), "\(none.errors)")
      let help = try devices[0].run("adopt", "--help")
      #expect(help.exitCode == 0 && help.output.contains("danger"))
    }
  }
}
