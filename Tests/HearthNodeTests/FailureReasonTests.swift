import FineTuning
import HearthNode
import HearthStorage
import LanguageModels
import Testing

@Suite struct FailureReasonTests {
  private static let enoent: Int32 = 2
  private static let eio: Int32 = 5
  private static let eacces: Int32 = 13
  private static let enospc: Int32 = 28

  @Test func aFileThatIsNotThereIsAMissingInput() {
    #expect(
      CommandEnd(FileFailure.system(operation: "open", path: "x", code: Self.enoent)).reason == .missingInput)
    #expect(
      CommandEnd(FileFailure.system(operation: "open", path: "x", code: Self.eacces)).reason == .missingInput)
  }

  @Test func aFileThatMayNotBeMadeIsAnOutputThatCannotBeCreated() {
    #expect(
      CommandEnd(FileFailure.system(operation: "create", path: "x", code: Self.eacces)).reason
        == .cannotCreateOutput)
  }

  @Test func aFullOrBrokenDiskIsInputOutput() {
    for code in [Self.enospc, Self.eio] {
      #expect(
        CommandEnd(FileFailure.system(operation: "write", path: "x", code: code)).reason == .inputOutput)
    }
  }

  @Test func aDirectoryInUseIsTemporary() {
    #expect(CommandEnd(FileFailure.locked(path: "x")).reason.rawValue == 75)
  }

  @Test func badRowsAreBadDataAndWrongColumnsAreUsage() {
    #expect(CommandEnd(DataFailure.emptyFile(name: "x")).reason == .badData)
    #expect(CommandEnd(DataFailure.oneLabel(label: "1", rows: 5)).reason == .badData)
    #expect(
      CommandEnd(
        DataFailure.unknownColumn(name: "x", role: .text, requested: "t", columns: ["a"])
      ).reason == .usage)
  }

  @Test func weightsThatCannotBeUsedAreBadData() {
    #expect(
      CommandEnd(CheckpointFailure.missingTensor(file: "m", tensor: "t", nearest: nil)).reason == .badData)
    #expect(CommandEnd(CheckpointFailure.missingShard(index: "i", shard: "s")).reason == .missingInput)
  }
}
