import Foundation
import HearthNode
import Testing

private let fixtures = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
  .deletingLastPathComponent().appendingPathComponent("Fixtures").path

/// One text of a `written.json` and what transformers' model wrote for it.
private struct WrittenCase: Decodable {
  let text: String
  let beams: Int
  let lengthPenalty: Double
  let output: String
}

@Suite("A text writer")
struct TextWriterTests {
  private func request(_ model: String) -> GenerationRequest {
    var request = GenerationRequest(modelDirectory: fixtures + "/" + model)
    request.maximumTokens = 16
    request.threads = 1
    return request
  }

  @Test(
    "writes what the reference writes for texts, greedily and with beams and length penalties",
    arguments: ["tiny-t5", "tiny-bart"])
  func golden(model: String) throws {
    let data = try Data(contentsOf: URL(fileURLWithPath: "\(fixtures)/\(model)/written.json"))
    let cases = try JSONDecoder().decode([WrittenCase].self, from: data)
    let kinds = Dictionary(grouping: cases) { "\($0.beams) \($0.lengthPenalty)" }
    #expect(kinds.count == 4 && cases.count > 100)
    for (_, cases) in kinds.sorted(by: { $0.key < $1.key }) {
      var request = self.request(model)
      (request.beams, request.lengthPenalty) = (cases[0].beams, cases[0].lengthPenalty)
      request.threads = 2
      let texts = try TextWriter(request).write(cases.map { PredictionInput(text: $0.text) })
      for (example, found) in zip(cases, texts) {
        #expect(
          Array(found.text.utf8) == Array(example.output.utf8),
          "\(example.text.debugDescription), \(example.beams) beams, penalty \(example.lengthPenalty)")
        #expect(!found.truncatedInput && found.tokens <= 16)
      }
    }
  }

  @Test("gives the same texts with 1 and 3 threads, in chunks or alone")
  func threads() throws {
    let inputs = (1...9).map { PredictionInput(text: String(repeating: "the house ", count: $0)) }
    var request = self.request("tiny-bart")
    request.beams = 2
    let whole = try TextWriter(request).write(inputs)
    request.threads = 3
    let writer = try TextWriter(request)
    #expect(try writer.write(inputs) == whole)
    #expect(try inputs.map { try writer.write([$0])[0] } == whole)
  }

  @Test("says when an input was cut at the model's positions, and when an output has no end")
  func cuts() throws {
    var request = self.request("tiny-bart")
    request.maximumTokens = 1
    let long = String(repeating: "house ", count: 400)
    let found = try TextWriter(request).write([PredictionInput(text: long), PredictionInput(text: "a")])
    #expect(found.map(\.truncatedInput) == [true, false])
    #expect(found.allSatisfy { $0.isCut == ($0.tokens == 1) })
    #expect(found.contains { $0.isCut })
  }

  @Test("keeps one line an output, whatever the model wrote")
  func lines() throws {
    let text = GeneratedText(text: "two\nlines\u{2028}\"q\"", tokens: 4, isCut: true, truncatedInput: false)
    #expect(try text.line(row: 3, json: false) == "two lines \"q\"\n")
    #expect(
      try text.line(row: 3, json: true)
        == #"{"cut":true,"row":3,"text":"two\nlines\#u{2028}\"q\"","tokens":4,"truncated":false}"# + "\n")
  }

  @Test("needs a decoder, and memory for its plan")
  func refusals() throws {
    #expect(throws: GenerationFailure.noDecoder(path: fixtures + "/tiny-bert", family: "BERT")) {
      try TextWriter(self.request("tiny-bert"))
    }
    var request = self.request("tiny-t5")
    (request.beams, request.maximumTokens, request.threads) = (
      GenerationRequest.beamLimit, GenerationRequest.tokenLimit, 256
    )
    request.maximumLength = 1_000_000
    #expect(throws: GenerationFailure.self) { try TextWriter(request) }
  }
}
