import FineTuning
import Foundation
import Testing

/// The folder with the published sets (mrpc/, stsb/, sst2/), for machines that have them.
private let dataFolder = ProcessInfo.processInfo.environment["HEARTH_DATA"]

@Suite("Published data sets (HEARTH_DATA names their folder)", .enabled(if: dataFolder != nil))
struct PublishedDataTests {
  private func read(_ file: String, labels: LabelKind) throws -> DataReadResult {
    let path = try #require(dataFolder) + "/" + file
    let bytes = [UInt8](try Data(contentsOf: URL(fileURLWithPath: path)))
    return try readExamples(
      bytes: bytes, name: file, options: DataReadOptions(labels: labels, strict: true))
  }

  @Test(
    "MRPC has 4,076 and 1,725 pairs",
    arguments: [
      ("mrpc/msr_paraphrase_train.txt", 2_753, 1_323), ("mrpc/msr_paraphrase_test.txt", 1_147, 578),
    ])
  func mrpc(file: String, positive: Int, negative: Int) throws {
    let examples = try read(file, labels: .name).examples
    #expect(examples.count { $0.label == "1" } == positive)
    #expect(examples.count { $0.label == "0" } == negative)
    #expect(examples.count == positive + negative && examples.allSatisfy { $0.pair != nil })
  }

  @Test(
    "STS-B has 5,749, 1,500 and 1,379 pairs with scores from 0 to 5",
    arguments: [("stsb/sts-train.csv", 5_749), ("stsb/sts-dev.csv", 1_500), ("stsb/sts-test.csv", 1_379)])
  func stsb(file: String, count: Int) throws {
    let examples = try read(file, labels: .number).examples
    #expect(examples.count == count && examples.allSatisfy { $0.pair != nil })
    #expect(regressionTargets(of: examples).allSatisfy { (0...5).contains($0) })
  }

  @Test(
    "SST-2 has 6,920, 872 and 1,821 sentences of two classes",
    arguments: [("sst2/train.tsv", 6_920), ("sst2/dev.tsv", 872), ("sst2/test.tsv", 1_821)])
  func sst2(file: String, count: Int) throws {
    let examples = try read(file, labels: .name).examples
    #expect(examples.count == count && examples.allSatisfy { $0.pair == nil })
    #expect(try LabelMap(of: examples).names == ["0", "1"])
  }
}
