import NeuralNetworks
import TensorKernels
import Testing

@Suite("T5's relative position bias")
struct RelativePositionBiasTests {
  /// Where the bucket changes, from low to high delta, as transformers 5.23.0 computes it for 32 buckets up
  /// to a distance of 128: (first delta, bucket).
  private static let encoderRuns: [(Int, Int)] = [
    (-140, 15), (-90, 14), (-63, 13), (-45, 12), (-31, 11), (-22, 10), (-15, 9), (-11, 8), (-7, 7), (-6, 6),
    (-5, 5), (-4, 4), (-3, 3), (-2, 2), (-1, 1), (0, 0), (1, 17), (2, 18), (3, 19), (4, 20), (5, 21),
    (6, 22), (7, 23), (8, 24), (12, 25), (16, 26), (23, 27), (32, 28), (46, 29), (64, 30), (91, 31),
  ]
  private static let decoderRuns: [(Int, Int)] = [
    (-140, 31), (-112, 30), (-98, 29), (-86, 28), (-76, 27), (-66, 26), (-58, 25), (-51, 24), (-45, 23),
    (-39, 22), (-34, 21), (-30, 20), (-26, 19), (-23, 18), (-20, 17), (-18, 16), (-15, 15), (-14, 14),
    (-13, 13), (-12, 12), (-11, 11), (-10, 10), (-9, 9), (-8, 8), (-7, 7), (-6, 6), (-5, 5), (-4, 4),
    (-3, 3), (-2, 2), (-1, 1), (0, 0),
  ]

  @Test("has the reference implementation's bucket for every distance", arguments: [true, false])
  func buckets(bidirectional: Bool) {
    let runs = bidirectional ? Self.encoderRuns : Self.decoderRuns
    for delta in -140...140 {
      let expected = runs.last { $0.0 <= delta }?.1
      let bucket = RelativePositionBias.bucket(
        delta: delta, buckets: 32, bidirectional: bidirectional, maximumDistance: 128)
      #expect(bucket == expected, "delta \(delta)")
    }
  }

  @Test("keeps distances beyond the maximum in the last bucket")
  func beyondMaximum() {
    for distance in [128, 129, 1000, 100_000] {
      #expect(
        RelativePositionBias.bucket(
          delta: -distance, buckets: 32, bidirectional: true, maximumDistance: 128) == 15)
      #expect(
        RelativePositionBias.bucket(
          delta: -distance, buckets: 32, bidirectional: false, maximumDistance: 128) == 31)
    }
  }

  @Test("expands the table by key minus query, and sums gradients back to the buckets")
  func expansionAndGradient() {
    let (buckets, heads, span) = (8, 3, 30)
    let tree = ParameterTree(
      trainable: [ParameterShape("table", rows: buckets, columns: heads, kind: .embedding)]
    ) { _, values in
      for index in values.indices { values[index] = Float(index) }
    }
    let bias = RelativePositionBias(table: tree["table"], bidirectional: true, maximumDistance: 20)
    let expanded = OwnedMatrix(rows: 1, columns: bias.valueCount(span: span)) { 0 }
    let position = bias.expand(span: span, into: expanded.matrix.base)
    #expect(position.span == span)

    let gradient = OwnedMatrix(rows: 1, columns: bias.valueCount(span: span)) { 0 }
    var expected = [Float](repeating: 0, count: buckets * heads)
    for head in 0..<heads {
      for delta in -(span - 1)...(span - 1) {
        let bucket = RelativePositionBias.bucket(
          delta: delta, buckets: buckets, bidirectional: true, maximumDistance: 20)
        let index = head * (2 * span - 1) + span - 1 + delta
        #expect(expanded.matrix.base[index] == Float(bucket * heads + head))
        gradient.matrix.base[index] = Float(delta + 40 * head)
        expected[bucket * heads + head] += Float(delta + 40 * head)
      }
    }
    let sink = RecordingSink()
    let scratch = OwnedMatrix(rows: buckets, columns: heads) { .nan }
    bias.backward(gradient.matrix.base, span: span, scratch: scratch.matrix.base, sink: sink)
    #expect(sink.gradients["table"] == expected)
    #expect(sink.additions == ["table": 1])
  }

  @Test("gives a frozen table no gradient")
  func frozenTable() {
    let values = OwnedMatrix(rows: 8, columns: 2) { 0.5 }
    let bias = RelativePositionBias(
      table: Parameter(
        frozen: "table", rows: 8, columns: 2, values: UnsafePointer(values.matrix.base)),
      bidirectional: false, maximumDistance: 20)
    let gradient = OwnedMatrix(rows: 1, columns: bias.valueCount(span: 4)) { 1 }
    let sink = RecordingSink()
    bias.backward(gradient.matrix.base, span: 4, scratch: gradient.matrix.base, sink: sink)
    #expect(sink.additions.isEmpty)
  }
}
