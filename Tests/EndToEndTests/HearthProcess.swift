import Foundation
import Testing

/// Runs the real binary as a process, as a person or a script does.
struct HearthProcess {
  /// What a finished process left.
  struct Result {
    var exitCode: Int32
    var output: String
    var errors: String

    /// Standard output as JSON objects, one a line.
    var events: [[String: Any]] {
      get throws {
        try output.split(separator: "\n").map { line in
          try #require(
            JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any], "not an object: \(line)")
        }
      }
    }

    /// The last line of standard output as a JSON object.
    var lastEvent: [String: Any] {
      get throws { try #require(events.last, "no output; standard error: \(errors)") }
    }
  }

  /// The binary beside the test bundle, which is the one that this build made.
  static let executable: URL = {
    let bundle = URL(filePath: "/proc/self/exe").resolvingSymlinksInPath()
    return bundle.deletingLastPathComponent().appending(path: "hearth")
  }()

  /// The directory with the small models.
  static let fixtures = URL(filePath: #filePath).deletingLastPathComponent()
    .deletingLastPathComponent().appending(path: "Fixtures")

  /// A scratch directory of one test.
  let root: URL

  /// Calls `body` with a scratch directory that is gone afterwards.
  static func withScratch(_ body: (HearthProcess) throws -> Void) throws {
    let root = URL(filePath: NSTemporaryDirectory()).appending(path: "hearth-e2e-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: root, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: root) }
    try body(HearthProcess(root: root))
  }

  /// The path of a scratch file or directory.
  func path(_ name: String) -> String { root.appending(path: name).path }

  /// Writes a scratch file and returns its path.
  @discardableResult
  func file(_ name: String, _ text: String) throws -> String {
    try Data(text.utf8).write(to: root.appending(path: name))
    return path(name)
  }

  /// Names of what is in a scratch directory, sorted; empty when it is not there.
  func contents(_ name: String = "") -> [String] {
    ((try? FileManager.default.contentsOfDirectory(atPath: name.isEmpty ? root.path : path(name))) ?? [])
      .sorted()
  }

  /// Runs `hearth` with `arguments` to its end.
  func run(
    _ arguments: [String], input: String = "", environment: [String: String] = [:]
  ) throws -> Result {
    try launch(Self.executable, arguments, input: input, environment: environment).wait()
  }

  /// Runs a shell script in which "$HEARTH" is the binary.
  func shell(_ script: String, environment: [String: String] = [:]) throws -> Result {
    try launch(URL(filePath: "/bin/sh"), ["-c", script], input: "", environment: environment).wait()
  }

  /// Starts `hearth` and returns while it runs.
  func start(
    _ arguments: [String], input: String = "", environment: [String: String] = [:]
  ) throws -> Running {
    try launch(Self.executable, arguments, input: input, environment: environment)
  }

  /// Starts another program and returns while it runs.
  func start(program: String, _ arguments: [String]) throws -> Running {
    try launch(URL(filePath: program), arguments, input: "", environment: [:])
  }

  private func launch(
    _ executable: URL, _ arguments: [String], input: String, environment: [String: String]
  ) throws -> Running {
    let process = Process()
    process.executableURL = executable
    process.arguments = arguments
    process.currentDirectoryURL = root
    var variables = ProcessInfo.processInfo.environment
    for name in [
      "HEARTH_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "NO_COLOR", "OPENBLAS_CORETYPE", "HEARTH_PORT",
      "HEARTH_PEERS", "HEARTH_LAB", "NOTIFY_SOCKET", "JOURNAL_STREAM",
    ] { variables[name] = nil }
    variables["HOME"] = root.path
    variables["HEARTH"] = Self.executable.path
    variables.merge(environment) { _, new in new }
    process.environment = variables
    let unique = UUID().uuidString
    let logs = FileManager.default.temporaryDirectory
    let stdin = logs.appending(path: "hearth-\(unique).in")
    try Data(input.utf8).write(to: stdin)
    defer { try? FileManager.default.removeItem(at: stdin) }
    process.standardInput = try FileHandle(forReadingFrom: stdin)
    // A file for what is read only at the end: a full pipe would stop the child.
    let errors = logs.appending(path: "hearth-\(unique).err")
    _ = FileManager.default.createFile(atPath: errors.path, contents: nil)
    process.standardError = try FileHandle(forWritingTo: errors)
    let output = Pipe()
    process.standardOutput = output
    try process.run()
    return Running(process: process, output: output.fileHandleForReading, errors: errors)
  }

  /// A process that may still be at work.
  final class Running {
    let process: Process
    private let output: DrainedOutput
    private let errors: URL
    /// Where the first line begins that `waitForLine` has not returned.
    private var lineStart = 0

    init(process: Process, output: FileHandle, errors: URL) {
      self.process = process
      self.output = DrainedOutput(output)
      self.errors = errors
    }

    /// Reads standard output until it holds `text`; false when it ended without it.
    func waitForOutput(_ text: String) -> Bool {
      output.waitUntil { written in
        String(decoding: written, as: UTF8.self).contains(text) ? text : nil
      } != nil
    }

    /// Reads standard output line by line until one is accepted and returns it; nil when `limit` lines were not, or it
    /// ended.
    func waitForLine(limit: Int = 600, where accepts: (String) -> Bool) -> String? {
      for _ in 0..<limit {
        let start = lineStart
        let line = output.waitUntil { written in
          written[start...].firstIndex(of: UInt8(ascii: "\n")).map { written[start..<$0] }
        }
        guard let line else { return nil }
        lineStart = line.endIndex + 1
        let text = String(decoding: line, as: UTF8.self)
        if accepts(text) { return text }
      }
      return nil
    }

    /// Waits for the end and takes what was written.
    func wait() -> Result {
      let written = output.whole()
      process.waitUntilExit()
      defer { try? FileManager.default.removeItem(at: errors) }
      // A signal's end is told as a shell tells it.
      let code = process.terminationStatus + (process.terminationReason == .uncaughtSignal ? 128 : 0)
      return Result(
        exitCode: code, output: String(decoding: written, as: UTF8.self),
        errors: String(decoding: (try? Data(contentsOf: errors)) ?? Data(), as: UTF8.self))
    }
  }
}

/// What a process writes, taken as it comes by a thread of its own: a full pipe would stop the process, and a daemon
/// leaves a command that is stopped.
///
/// - Safety: everything in it is only touched under the condition's lock.
private final class DrainedOutput: @unchecked Sendable {
  private let changed = NSCondition()
  private var written = Data()
  private var hasEnded = false

  init(_ handle: FileHandle) {
    Thread.detachNewThread { while self.take(handle.availableData) {} }
  }

  /// Keeps what has come; nothing is the end.
  private func take(_ more: Data) -> Bool {
    changed.withLock {
      written += more
      hasEnded = more.isEmpty
      changed.broadcast()
      return !hasEnded
    }
  }

  /// Waits until `find` finds something in what was written; nil when it ended without.
  func waitUntil<Found>(_ find: (Data) -> Found?) -> Found? {
    changed.withLock {
      while true {
        if let found = find(written) { return found }
        if hasEnded { return nil }
        changed.wait()
      }
    }
  }

  /// Everything, once it has ended.
  func whole() -> Data {
    changed.withLock {
      while !hasEnded { changed.wait() }
      return written
    }
  }
}
