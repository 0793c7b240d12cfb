import FineTuning
import HearthNode
import LanguageModels
import Testing

@Suite("The benchmark of techniques")
struct TechniqueBenchmarkTests {
  @Test("by default measures every technique on every model, and dropout on T5-Base where Hearth offers it")
  func defaultCases() {
    let request = TechniqueBenchmarkRequest(directory: "d", executable: "e")
    let cases = request.cases
    #expect(cases.count == 3 * 5 + 3)
    let dropped = cases.filter { $0.dropout > 0 }
    #expect(dropped.map(\.technique) == [.full, .houlsby, .lora])
    #expect(dropped.allSatisfy { $0.shape == .t5Base })
    #expect(Set(cases.map(\.name)).count == cases.count)
  }

  @Test("a case survives its way to the worker")
  func caseAsJSON() throws {
    for technique in MeasuredTechnique.allCases {
      let measured = TechniqueCase(shape: .bartLarge, technique: technique, dropout: 0.1, threads: 3)
      #expect(try TechniqueCase(json: try jsonLine(measured)) == measured)
    }
    #expect(throws: RunFailure.self) { try TechniqueCase(json: "{}") }
  }

  @Test("T5-Large under full fine-tuning is expected to need 16 bytes a parameter in PyTorch, 16 in Hearth")
  func expectedMemory() throws {
    let measured = TechniqueCase(shape: .t5Large, technique: .full, dropout: 0, threads: 2)
    let parameters = 737_668_096
    let peer = try measured.expectedPeerBytes()
    #expect(peer > 16 * parameters && peer < 16 * parameters + 8 << 30)
    let own = try measured.expectedBytes()
    #expect(own > 16 * parameters && own < peer)
  }

  @Test("the table has a row a case, with the paper's figures and what was left out")
  func table() {
    let measured = TechniqueCase(shape: .t5Large, technique: .full, dropout: 0, threads: 2)
    var hearth = TechniqueResult.Side()
    hearth.forward = [4, 5, 3]
    hearth.step = [14, 12, 13]
    hearth.planned = PlannedMemory(
      weights: 1 << 30, activations: 3 << 29, gradientSums: 1 << 30, optimizer: 2 << 30)
    hearth.peakBytes = 6 << 30
    hearth.trainableParameters = 737_668_096
    let result = TechniqueResult(
      measured: measured, hearth: hearth,
      peer: TechniqueResult.Side(skipped: "needs 40.0 GiB, 20.0 GiB are free"),
      paired: false, ratios: [], othersShare: [0.01, 0.04], forwardOperations: 1_500_000_000_000,
      backwardOperations: 3_000_000_000_000)
    let lines = TechniqueTable([result]).markdown.split(separator: "\n")
    let rows = lines.filter { $0.hasPrefix("| t5-large") }
    #expect(rows.count == 3)
    #expect(rows[0].contains("| 4.00 | 9.00 | 13.00 | 2.25 | needs 40.0 GiB, 20.0 GiB are free |"))
    #expect(rows[0].contains("| 4 % |"))
    #expect(rows[1].contains("| 737,668,096 | 1.00 | 1.50 | 3.00 | 5.50 | 6.00 |"))
    #expect(rows[1].contains("2.75 + 5.33 + 2.75"))
    #expect(rows[2].contains("| 1.500 | 3.000 | 1.480 | 2.961 | 1.480 / 2.960 |"))
    let svg = TechniquePlot([result]).svg
    #expect(svg.hasPrefix("<svg ") && svg.hasSuffix("</svg>\n"))
    #expect(svg.contains("t5-large: seconds a step") && !svg.contains("nan"))
  }

  @Test("a speed-up is the median of the ratios of neighbouring steps")
  func speedup() {
    let measured = TechniqueCase(shape: .t5Base, technique: .lora, dropout: 0, threads: 2)
    let result = TechniqueResult(
      measured: measured, hearth: TechniqueResult.Side(), peer: nil, paired: true,
      ratios: [1.4, 9, 1.2, 1.3],
      othersShare: [], forwardOperations: 0, backwardOperations: 0)
    #expect(abs((result.speedup ?? 0) - 1.35) < 1e-12)
  }
}
