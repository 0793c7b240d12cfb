import Foundation
import HearthNode
import TensorKernels
import Testing

/// A directory that is gone after the test.
private final class Scratch {
  let path: String

  init() throws {
    path = NSTemporaryDirectory() + "hearth-training-\(UUID().uuidString)"
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  /// Rows whose label is decided by their words, so that a model can learn them.
  func rows(_ count: Int = 60) throws -> String {
    let words = ["good", "bad", "film", "plot", "the", "a", "great", "poor", "story", "cast"]
    let lines = (0..<count).map { index -> String in
      let text = (0..<3 + index % 9).map { words[(index * 7 + $0 * $0 * 3) % words.count] }
      return text.joined(separator: " ") + " \(index)\t" + (index % 2 == 0 ? "yes" : "no")
    }
    let file = path + "/rows.tsv"
    try lines.joined(separator: "\n").write(toFile: file, atomically: true, encoding: .utf8)
    return file
  }
}

private let fixtures = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
  .deletingLastPathComponent().appendingPathComponent("Fixtures").path

/// Events of a run, and a stop after a chosen number of steps.
private final class Recorder {
  var events: [RunEvent] = []
  let flag = CancellationFlag()
  private let stopAfter: Int?
  private var steps = 0

  init(stopAfter: Int? = nil) { self.stopAfter = stopAfter }

  func report(_ event: RunEvent) {
    events.append(event)
    guard case .progress(let progress) = event, progress.phase != .evaluation else { return }
    steps += 1
    if steps == stopAfter { flag.cancel() }
  }

  var modes: [EpochMode] {
    events.compactMap { if case .epoch(_, let summary) = $0 { summary.mode } else { nil } }
  }
}

@Suite("A training run")
struct TrainingTests {
  private func request(
    _ model: String, scratch: Scratch, output: String = "run", epochs: Int = 3
  ) throws -> TrainRequest {
    var request = TrainRequest(
      modelDirectory: fixtures + "/" + model, dataFile: try scratch.rows(), task: .classify,
      output: scratch.path + "/" + output)
    request.data.header = false
    request.data.textColumn = "1"
    request.data.labelColumn = "2"
    request.epochs = epochs
    request.batch = 8
    request.microBatch = 2
    request.maxLength = 24
    request.reduction = 2
    request.threads = 1
    return request
  }

  private func digest(_ request: TrainRequest, recorder: Recorder = Recorder()) throws -> String {
    try train(request, cancellation: recorder.flag, report: recorder.report).adapterDigest
  }

  @Test(
    "fills the cache in its first epoch and needs no backbone afterwards",
    arguments: ["tiny-bert", "tiny-t5", "tiny-bart"])
  func liveThenCached(model: String) throws {
    let scratch = try Scratch()
    let recorder = Recorder()
    let summary = try train(
      try request(model, scratch: scratch), cancellation: recorder.flag, report: recorder.report)
    #expect(recorder.modes == [.live, .cached, .cached])
    #expect(summary.cacheBytes > 0)
    let released = recorder.events.contains { if case .backboneReleased = $0 { true } else { false } }
    #expect(released)
    guard case .finished(let last)? = recorder.events.last else {
      Issue.record("the last event is not .finished")
      return
    }
    #expect(last == summary)
    let losses = summary.epochs.map(\.loss)
    #expect(losses[2] < losses[0], "losses \(losses)")
  }

  @Test("gives the same adapter with 1, 2 and 3 threads", arguments: ["tiny-bert", "tiny-t5", "tiny-bart"])
  func threads(model: String) throws {
    let scratch = try Scratch()
    var digests: Set<String> = []
    for threads in 1...3 {
      var request = try request(model, scratch: scratch, output: "run\(threads)")
      request.threads = threads
      digests.insert(try digest(request))
    }
    #expect(digests.count == 1)
  }

  @Test(
    "gives the same adapter from a live and from a cached first epoch", arguments: ActivationElement.allCases)
  func liveOrCached(element: ActivationElement) throws {
    for model in ["tiny-bert", "tiny-t5"] {
      let scratch = try Scratch()
      var first = try request(model, scratch: scratch, output: "first")
      first.cache = element
      first.keepCache = true
      first.cacheDirectory = scratch.path + "/cache"
      let expected = try digest(first)
      var second = first
      second.output = scratch.path + "/second"
      let recorder = Recorder()
      let found = try digest(second, recorder: recorder)
      #expect(found == expected)
      #expect(recorder.modes == [.cached, .cached, .cached])
    }
  }

  @Test("gives the same adapter without a cache as with a float32 one")
  func withoutCache() throws {
    let scratch = try Scratch()
    var one = try request("tiny-bert", scratch: scratch, output: "one", epochs: 1)
    one.cache = .float32
    let without = try digest(one)
    one.output = scratch.path + "/kept"
    one.keepCache = true
    let with = try digest(one)
    #expect(with == without)
  }

  @Test(
    "goes on after an interruption to the adapter of the uninterrupted run", arguments: [1, 5, 8, 12, 20])
  func resumed(steps: Int) throws {
    for model in ["tiny-bert", "tiny-t5"] {
      let scratch = try Scratch()
      let expected = try digest(try request(model, scratch: scratch, output: "whole"))
      let interrupted = try request(model, scratch: scratch, output: "parts")
      let recorder = Recorder(stopAfter: steps)
      #expect(throws: RunFailure.self) {
        try train(interrupted, cancellation: recorder.flag, report: recorder.report)
      }
      let summary = try resumeTraining(
        ResumeRequest(runDirectory: interrupted.output, threads: 2), cancellation: CancellationFlag(),
        report: { _ in })
      #expect(summary.adapterDigest == expected, "\(model) stopped after \(steps) steps")
      #expect(summary.epochs.count == 3)
    }
  }

  @Test("another seed gives another adapter")
  func seeded() throws {
    let scratch = try Scratch()
    let first = try digest(try request("tiny-bert", scratch: scratch, output: "a", epochs: 1))
    var other = try request("tiny-bert", scratch: scratch, output: "b", epochs: 1)
    other.seed = 7
    let second = try digest(other)
    #expect(first != second)
  }

  @Test("a plan over the memory budget is refused before anything is written")
  func memoryBudget() throws {
    let scratch = try Scratch()
    var request = try request("tiny-bert", scratch: scratch)
    request.memoryBudget = 1000
    #expect(throws: RunFailure.self) {
      try train(request, cancellation: CancellationFlag(), report: { _ in })
    }
    #expect(!FileManager.default.fileExists(atPath: request.output))
  }

  @Test("a saved adapter predicts what the run measured, and refuses another backbone")
  func saved() throws {
    let scratch = try Scratch()
    var request = try request("tiny-bert", scratch: scratch)
    request.validationFile = request.dataFile
    let summary = try train(request, cancellation: CancellationFlag(), report: { _ in })
    var evaluation = EvaluateRequest(adapterDirectory: request.output, dataFile: request.dataFile)
    evaluation.data = request.data
    let measured = try evaluate(evaluation, cancellation: CancellationFlag(), report: { _ in })
    #expect(measured.metrics == summary.metrics)
    #expect(measured.adapterDigest == summary.adapterDigest)
    evaluation.modelDirectory = fixtures + "/tiny-t5"
    #expect(throws: RunFailure.self) {
      try evaluate(evaluation, cancellation: CancellationFlag(), report: { _ in })
    }
  }

  // Held-out rows are evaluated first, so their records are at the front of the shard.
  @Test(
    "a record damaged between two epochs is computed anew, to the same adapter", arguments: [0.02, 0.5, 0.95])
  func damagedRecord(place: Double) throws {
    let scratch = try Scratch()
    let expected = try digest(try request("tiny-bert", scratch: scratch, output: "whole"))
    let damaged = try request("tiny-bert", scratch: scratch, output: "parts")
    let recorder = Recorder(stopAfter: 8)
    #expect(throws: RunFailure.self) {
      try train(damaged, cancellation: recorder.flag, report: recorder.report)
    }
    let cache = damaged.output + "/cache"
    let shard = try #require(
      FileManager.default.contentsOfDirectory(atPath: cache).first {
        $0.hasSuffix(".shard") || $0.contains("shard")
      })
    let file = try #require(FileHandle(forUpdatingAtPath: cache + "/" + shard))
    let end = try file.seekToEnd()
    try file.seek(toOffset: UInt64(Double(end) * place))
    try file.write(contentsOf: Data(repeating: 0xA5, count: 64))
    try file.close()
    let summary = try resumeTraining(
      ResumeRequest(runDirectory: damaged.output), cancellation: CancellationFlag(), report: { _ in })
    #expect(summary.adapterDigest == expected)
  }

  @Test("does not go on over other rows than it began with")
  func changedRows() throws {
    let scratch = try Scratch()
    let request = try request("tiny-bert", scratch: scratch)
    let recorder = Recorder(stopAfter: 3)
    #expect(throws: RunFailure.self) {
      try train(request, cancellation: recorder.flag, report: recorder.report)
    }
    let resume = ResumeRequest(runDirectory: request.output)
    _ = try scratch.rows(61)
    #expect {
      try resumeTraining(resume, cancellation: CancellationFlag(), report: { _ in })
    } throws: { error in
      if case .notResumable(_, let detail)? = error as? RunFailure {
        detail.contains("rows.tsv")
      } else {
        false
      }
    }
    _ = try scratch.rows()
    _ = try resumeTraining(resume, cancellation: CancellationFlag(), report: { _ in })
  }

  @Test("does not go on from a state in which steps mean other samples")
  func olderState() throws {
    let scratch = try Scratch()
    let request = try request("tiny-bert", scratch: scratch)
    let recorder = Recorder(stopAfter: 3)
    #expect(throws: RunFailure.self) {
      try train(request, cancellation: recorder.flag, report: recorder.report)
    }
    let path = request.output + "/state.safetensors"
    let bytes = try Data(contentsOf: URL(fileURLWithPath: path))
    // Inside a string of the header, quotes and line ends are escaped.
    let (now, then) = (#"\"version\" : 2"#, #"\"version\" : 1"#)
    let place = try #require(bytes.range(of: Data(now.utf8)))
    try (bytes[..<place.lowerBound] + Data(then.utf8) + bytes[place.upperBound...]).write(
      to: URL(fileURLWithPath: path))
    #expect {
      try resumeTraining(
        ResumeRequest(runDirectory: request.output), cancellation: CancellationFlag(), report: { _ in })
    } throws: { error in
      if case .notResumable(_, let detail)? = error as? RunFailure {
        detail.contains("version 1")
      } else {
        false
      }
    }
  }
}
