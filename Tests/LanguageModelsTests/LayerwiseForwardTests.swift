import LanguageModels
import NeuralNetworks
import TensorKernels
import Testing

@Suite("A backbone run layer by layer")
struct LayerwiseBackboneTests {
  @Test(
    "gives the bits of the whole forward, whatever the workspace held between the layers",
    arguments: ["tiny-bert", "tiny-t5", "tiny-t5-gated", "tiny-bart"])
  func sameBits(directory: String) throws {
    let fixture = try BackboneFixture(directory)
    let backbone = fixture.backbone
    let batch = fixture.batch
    let floats = backbone.layerWorkspaceFloats(capacity: BackboneCapacity(of: batch))
    let width = backbone.architecture.width
    let workspace = Arena(floatCount: floats)
    let streams = Arena(floatCount: (batch.encoder.tokens + (batch.decoder?.tokens ?? 0)) * width)
    let encoded = streams.matrix(0, rows: batch.encoder.tokens, columns: width)
    var taps: [BackboneRun.Tap] = []
    for (stack, description) in backbone.architecture.stacks.enumerated() {
      let rows = try #require(batch.sequences(description.kind)).tokens
      let stream =
        stack == 0 ? encoded : streams.matrix(batch.encoder.tokens * width, rows: rows, columns: width)
      backbone.embedTokens(of: batch, stack: stack, into: stream)
      taps.append(BackboneRun.Tap(stack: stack, index: 0, rows: rows, values: copy(stream)))
      for layer in 0..<description.layers {
        workspace.base.update(repeating: .nan, count: floats)
        backbone.runLayer(
          layer, stack: stack, of: batch, stream: stream, encoded: stack > 0 ? encoded : nil,
          workspace: workspace)
        taps.append(BackboneRun.Tap(stack: stack, index: layer + 1, rows: rows, values: copy(stream)))
      }
      backbone.finishStack(stack, stream: stream)
    }
    withExtendedLifetime(streams) {}
    #expect(taps == fixture.run().taps)
  }
}
