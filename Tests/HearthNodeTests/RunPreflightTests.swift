import Foundation
import HearthNode
import Testing

@Suite struct RunPreflightTests {
  /// A directory that is gone when the test is over.
  private func inDirectory(_ body: (String) throws -> Void) throws {
    let path = NSTemporaryDirectory() + "hearth-preflight-\(UUID().uuidString)"
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: path) }
    try body(path)
  }

  private func reason(_ body: () throws -> Void) -> ExitReason? {
    do {
      try body()
      return nil
    } catch {
      return CommandEnd(error).reason
    }
  }

  @Test("trained values need room twice at the owner's daemon: where they are collected, and as a blob")
  func resultsNeedRoomTwice() {
    #expect(reason { try PreparedRun.checkResultDisk(adapter: 5, free: 10, path: "/state") } == nil)
    #expect(reason { try PreparedRun.checkResultDisk(adapter: 5, free: 9, path: "/state") } == .inputOutput)
  }

  @Test func aCompleteRequestPassesAndWritesNothing() throws {
    try inDirectory { root in
      try FileManager.default.createDirectory(atPath: root + "/model", withIntermediateDirectories: false)
      try Data("{}".utf8).write(to: URL(filePath: root + "/model/config.json"))
      try Data("a\t1\n".utf8).write(to: URL(filePath: root + "/data.tsv"))
      let request = TrainRequest(
        modelDirectory: root + "/model", dataFile: root + "/data.tsv", task: .classify,
        output: root + "/new/deep/out")
      try RunPreflight.check(request)
      #expect(!FileManager.default.fileExists(atPath: root + "/new"))
    }
  }

  @Test func whatIsMissingOrOfTheWrongKindIsAMissingInput() throws {
    try inDirectory { root in
      let file = root + "/file"
      try Data().write(to: URL(filePath: file))
      #expect(reason { try RunPreflight.checkModelDirectory(root + "/none") } == .missingInput)
      #expect(reason { try RunPreflight.checkModelDirectory(file) } == .missingInput)
      #expect(reason { try RunPreflight.checkModelDirectory(root) } == .missingInput)
      #expect(reason { try RunPreflight.checkInputFile(root, role: "data file") } == .missingInput)
      #expect(reason { try RunPreflight.checkInputFile(root + "/none", role: "data file") } == .missingInput)
      #expect(reason { try RunPreflight.checkInputFile(file, role: "data file") } == nil)
    }
  }

  @Test func anOutputMustBeNewOrEmptyAndUnderADirectory() throws {
    try inDirectory { root in
      #expect(reason { try RunPreflight.checkNewDirectory(root) } == nil)
      #expect(reason { try RunPreflight.checkNewDirectory(root + "/a/b") } == nil)
      let file = root + "/file"
      try Data().write(to: URL(filePath: file))
      #expect(reason { try RunPreflight.checkNewDirectory(root) } == .cannotCreateOutput)
      #expect(reason { try RunPreflight.checkNewDirectory(file) } == .cannotCreateOutput)
      #expect(reason { try RunPreflight.checkNewDirectory(file + "/below") } == .cannotCreateOutput)
      #expect(reason { try RunPreflight.checkNewDirectory("/proc/self/new") } == .cannotCreateOutput)
    }
  }

  @Test func anAbsolutePathLeadsToTheSamePlace() {
    #expect(absolutePath("/a/b") == "/a/b")
    let path = absolutePath("x/y")
    #expect(path.hasPrefix("/") && path.hasSuffix("/x/y"))
  }

  @Test func theNearestExistingPartOfAPathIsFound() throws {
    try inDirectory { root in
      #expect(RunPreflight.nearestExisting(root + "/a/b/c") == root)
      #expect(RunPreflight.nearestExisting(root) == root)
      #expect(RunPreflight.nearestExisting("/none/deeper") == "/")
      #expect(RunPreflight.nearestExisting("none-here/deeper/") == ".")
    }
  }
}
