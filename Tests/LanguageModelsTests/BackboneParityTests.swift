import LanguageModels
import NeuralNetworks
import TensorKernels
import Testing

/// The reference's sums and ours run in different orders over up to 3,072 float32 terms; DESIGN §4 allows
/// 1e-4.
private let tolerance: Float = 1e-4

@Suite("A backbone against the reference implementation")
struct BackboneParityTests {
  static let directories = ["tiny-bert", "tiny-t5", "tiny-t5-gated", "t5-base-shape", "tiny-bart"]

  @Test("has the reference's residual stream behind every layer of a packed batch", arguments: directories)
  func taps(directory: String) throws {
    let fixture = try BackboneFixture.named(directory)
    let run = fixture.run()
    let stacks = fixture.backbone.architecture.stacks
    #expect(run.taps.map(\.stack) == stacks.enumerated().flatMap { Array(repeating: $0, count: $1.tapCount) })
    #expect(run.taps.map(\.index) == stacks.flatMap { Array(0..<$0.tapCount) })
    for tap in run.taps {
      let name = "\(stacks[tap.stack].kind.rawValue).hidden.\(tap.index)"
      expectClose(tap.values, fixture.expected.floats(name), name)
    }
  }

  @Test(
    "has the reference's final states and logits", arguments: ["tiny-t5", "tiny-t5-gated", "t5-base-shape"])
  func finalStates(directory: String) throws {
    let fixture = try BackboneFixture.named(directory)
    let backbone = try #require(fixture.backbone as? T5Backbone)
    let run = fixture.run()
    let width = backbone.architecture.width
    for (stack, name) in ["encoder.final", "decoder.final"].enumerated() {
      let last = try #require(run.taps.last { $0.stack == stack })
      let states = withMatrix(last.values, columns: width) { rows in
        backbone.finalNorm(stack: stack)?.forward(rows, into: rows, statistics: nil)
      }
      expectClose(states, fixture.expected.floats(name), name)
      guard stack == 1 else { continue }
      let vocabulary = backbone.architecture.vocabulary
      let zeros = [Float](repeating: 0, count: last.rows * vocabulary)
      let logits = withMatrix(zeros, columns: vocabulary) { logits in
        _ = withMatrix(states, columns: width) { backbone.headLogits($0, into: logits) }
      }
      expectClose(logits, fixture.expected.floats("logits"), "logits")
    }
  }

  @Test("has the reference's logits of BART, whose last taps are its final states")
  func logitsOfBART() throws {
    let fixture = try BackboneFixture.named("tiny-bart")
    let backbone = try #require(fixture.backbone as? BARTBackbone)
    let vocabulary = backbone.architecture.vocabulary
    let last = try #require(fixture.run().taps.last)
    let logits = withMatrix([Float](repeating: 0, count: last.rows * vocabulary), columns: vocabulary) {
      logits in
      _ = withMatrix(last.values, columns: backbone.architecture.width) {
        backbone.headLogits($0, into: logits)
      }
    }
    expectClose(logits, fixture.expected.floats("logits"), "logits")
  }

  @Test("reads BERT weights whose names begin with bert.")
  func prefixedBERT() throws {
    let plain = try BackboneFixture("tiny-bert").run()
    #expect(try BackboneFixture("tiny-bert") { "bert." + $0 }.run() == plain)
  }

  @Test("reads T5 weights that hold the embedding under the encoder's name")
  func unsharedT5() throws {
    let plain = try BackboneFixture("tiny-t5").run()
    let renamed = try BackboneFixture("tiny-t5") {
      $0 == "shared.weight" ? "encoder.embed_tokens.weight" : $0
    }
    #expect(renamed.run() == plain)
  }

  @Test("names the tensor that is missing")
  func missingTensor() throws {
    #expect {
      _ = try BackboneFixture("tiny-t5") {
        $0 == "decoder.block.1.layer.1.EncDecAttention.v.weight" ? "elsewhere" : $0
      }
    } throws: { error in
      guard case .missingTensor(_, let tensor, _)? = error as? CheckpointFailure else { return false }
      return tensor == "decoder.block.1.layer.1.EncDecAttention.v.weight"
    }
  }

  private func expectClose(_ actual: [Float], _ expected: [Float], _ name: String) {
    #expect(actual.count == expected.count, "\(name)")
    let worst = zip(actual, expected).map { abs($0 - $1) / max(1, abs($1)) }.max() ?? .infinity
    #expect(worst <= tolerance, "\(name) is off by \(worst)")
  }
}
