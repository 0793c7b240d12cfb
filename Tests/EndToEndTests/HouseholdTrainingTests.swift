import Foundation
import Testing

/// Training on several daemons of one machine, each with a state, a port and a process of its own.
@Suite(.timeLimit(.minutes(5)), .serialized) struct HouseholdTrainingTests {
  private static func events(_ result: HearthProcess.Result, _ name: String) throws -> [[String: Any]] {
    try result.events.filter { $0["event"] as? String == name }
  }

  @Test(
    "two and three devices make the adapter that one makes, bit for bit, however they share the work",
    arguments: [
      (2, "tiny-bert", ["--planner", "ecofl", "--epochs", "3"]),
      (2, "tiny-bert", ["--planner", "eddl", "--first-epoch", "fill", "--epochs", "3"]),
      (3, "tiny-t5", ["--planner", "eddl", "--epochs", "3"]),
      (2, "tiny-bert", ["--technique", "lora", "--rank", "4", "--planner", "eddl", "--epochs", "2"]),
    ])
  func sameBits(count: Int, model: String, options: [String]) throws {
    let names = Array(["desk", "laptop", "tablet"].prefix(count))
    try withHousehold(named: names) { devices in
      let desk = devices[0]
      let aloneOptions = options.filter {
        !["--planner", "ecofl", "eddl", "--first-epoch", "fill"].contains($0)
      }
      let alone = try desk.run(
        try desk.trainingWords(model, output: "alone", extra: aloneOptions + ["--alone"]))
      #expect(alone.exitCode == 0, "\(alone.errors)")
      let together = try desk.run(try desk.trainingWords(model, output: "together", extra: options))
      #expect(together.exitCode == 0, "\(together.errors)")
      #expect(together.errors.contains("training with "), "\(together.errors)")
      let (one, many) = (try alone.lastEvent, try together.lastEvent)
      let digest = try #require(one["adapter_digest"] as? String)
      #expect(many["adapter_digest"] as? String == digest, "\(together.errors)")
      #expect(many["steps"] as? Int == one["steps"] as? Int)
      #expect(
        (many["metric"] as? [String: Any])?["after"] as? Double == (one["metric"] as? [String: Any])?["after"]
          as? Double)

      let planned = try #require(try Self.events(together, "planned").first)
      #expect((planned["plan_digest"] as? String)?.count == 64)
      let seen = try #require(try Self.events(together, "devices").last?["devices"] as? [[String: Any]])
      #expect(seen.compactMap { $0["name"] as? String }.sorted() == names.sorted())

      // The adapter directory is that of a run on one device.
      let evaluation = try desk.run(
        "evaluate", "--adapter", "\(desk.home)-together", "--data", "\(desk.home)-rows.tsv", "--json")
      #expect(evaluation.exitCode == 0, "\(evaluation.errors)")
      #expect(try evaluation.lastEvent["adapter_digest"] as? String == digest)

      // Every device knows of it.
      for device in devices {
        let jobs = try #require(try device.run("jobs", "--json").lastEvent["jobs"] as? [[String: Any]])
        #expect(jobs.map { $0["state"] as? String } == ["finished"], "\(device.name)")
        #expect(jobs.first?["owner"] as? String == "desk")
      }
    }
  }

  @Test(
    "Ctrl-C leaves a job to the household; any device watches it and stops it, and its id may be cut short")
  func detachWatchStop() throws {
    try withHousehold("desk", "laptop") { devices in
      let (desk, laptop) = (devices[0], devices[1])
      let training = try desk.start(
        try desk.trainingWords(output: "long", extra: ["--planner", "eddl", "--epochs", "10000"]))
      #expect(training.waitForLine(limit: 100_000) { $0.contains(#""event":"epoch""#) } != nil)
      kill(training.process.processIdentifier, SIGINT)
      let left = training.wait()
      #expect(left.exitCode == 130 && left.errors.contains("hearth watch"), "\(left.errors)")

      let jobs = try #require(try laptop.run("jobs", "--json").lastEvent["jobs"] as? [[String: Any]])
      let id = try #require(jobs.first?["id"] as? String)
      #expect(jobs.first?["state"] as? String == "training")
      #expect(try laptop.run("jobs").output.contains(String(id.prefix(8))))
      let watch = try laptop.start(["watch", String(id.prefix(4)), "--json"])
      #expect(watch.waitForLine(limit: 100_000) { $0.contains(#""event":"epoch""#) } != nil)
      let unknown = try laptop.run("stop", "nothing")
      #expect(unknown.exitCode == 64 && unknown.errors.contains("hearth jobs"), "\(unknown.errors)")
      let stop = try laptop.run("stop", String(id.prefix(4)))
      #expect(stop.exitCode == 0 && stop.output.contains("is stopped"), "\(stop.errors)")
      let watched = watch.wait()
      #expect(watched.exitCode == 130 && watched.errors.contains("was stopped"), "\(watched.errors)")
      let again = try laptop.run("stop", String(id.prefix(4)))
      #expect(again.exitCode == 64 && again.errors.contains("stopped already"), "\(again.errors)")

      // The command that began it has gone long ago; its output is free all the same once its device knows.
      _ = try desk.run("watch", String(id.prefix(4)))
      let next = try desk.run(
        try desk.trainingWords(output: "long", extra: ["--epochs", "1"]))
      #expect(next.exitCode == 0, "\(next.errors)")
    }
  }

  @Test("what only this device can do runs here and says why; options that contradict each other are refused")
  func alone() throws {
    try withHousehold("desk", "laptop") { devices in
      let desk = devices[0]
      let bounded = try desk.run(
        try desk.trainingWords(output: "bounded", extra: ["--epochs", "1", "--memory-budget", "1GiB"]))
      #expect(bounded.exitCode == 0 && bounded.errors.contains("laptop cannot help"), "\(bounded.errors)")
      let both = try desk.run(
        try desk.trainingWords(output: "both", extra: ["--alone", "--planner", "pac"]))
      #expect(both.exitCode == 64 && both.errors.contains("--planner"), "\(both.errors)")
      let none = try desk.run("watch")
      #expect(none.exitCode == 64 && none.errors.contains("no job is under way"), "\(none.errors)")
      #expect(try desk.run("jobs").output.contains("no jobs"))
    }
  }

  @Test("without the daemon jobs are not listed, and training goes on alone with a word about it")
  func daemonDown() throws {
    try withDevices("desk") { devices in
      let desk = devices[0]
      _ = try desk.createHousehold()
      for command in ["jobs", "watch", "stop"] {
        let result = try desk.run(command)
        #expect(result.exitCode == 68 && result.errors.contains("hearth up"), "\(result.errors)")
      }
      let result = try desk.run(
        try desk.trainingWords(output: "alone", extra: ["--epochs", "1"]))
      #expect(result.exitCode == 0 && result.errors.contains("daemon is not running"), "\(result.errors)")
    }
  }
}
