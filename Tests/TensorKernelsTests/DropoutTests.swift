import Determinism
import TensorKernels
import Testing

@Suite("Dropout")
struct DropoutTests {
  /// Counter, key and result of Philox4x32-10 as Random123 publishes them (`kat_vectors`).
  private static let published: [([UInt32], [UInt32], [UInt32])] = [
    ([0, 0, 0, 0], [0, 0], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
    (
      [.max, .max, .max, .max], [.max, .max],
      [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
    ),
    (
      [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0],
      [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
    ),
  ]

  @Test("Random123's vectors for Philox4x32-10 come out of the definition and of every kernel set")
  func publishedVectors() {
    for (counter, key, expected) in Self.published {
      let words = philox4x32(
        counter: (counter[0], counter[1], counter[2], counter[3]), key: (key[0], key[1]))
      #expect([words.0, words.1, words.2, words.3] == expected)
      for set in KernelSet.available {
        let dropout = Dropout(key: DropoutKey(words: (key[0], key[1])), site: counter[3], rate: 0.1)
        let bits = dropoutBits(
          dropout, sample: counter[2], row: counter[1], block: counter[0] >> 3, using: set)
        let lane = Int(counter[0] & 7)
        let halves = [bits[4 * lane..<4 * lane + 4], bits[32 + 4 * lane..<36 + 4 * lane]].joined()
        let expectedBits = expected.flatMap { [UInt16(truncatingIfNeeded: $0), UInt16($0 >> 16)] }
        #expect(Array(halves) == expectedBits, "\(set.name)")
      }
    }
  }

  private static let lengths = [3, 1, 6]
  private static let samples = [40, 7, 12]

  /// The rows of all sequences after dropout of ones.
  private func mask(
    _ dropout: Dropout, lengths: [Int] = lengths, samples: [Int] = samples, columns: Int,
    using set: KernelSet = .best
  ) -> [[Float]] {
    let sequences = PackedSequences(lengths: lengths)
    let ones = MatrixFixture(rows: sequences.tokens, columns: columns, stride: columns + 3) { 1 }
    samples.withUnsafeBufferPointer {
      applyDropout(
        ones.matrix, SampleDropout(dropout, samples: $0.baseAddress!), sequences: sequences,
        into: ones.matrix,
        using: set)
    }
    #expect(ones.marginsAreUntouched)
    return (0..<sequences.tokens).map { row in (0..<columns).map { ones.matrix[row, $0] } }
  }

  @Test(
    "an element is kept exactly when its 16 bits are under the threshold, in every kernel set",
    arguments: [1, 15, 63, 64, 65, 96, 200, 768])
  func definition(columns: Int) {
    let dropout = Dropout(key: DropoutKey(seed: 1, step: 2), site: 3, rate: 0.3)
    for set in KernelSet.available {
      let rows = mask(dropout, columns: columns, using: set)
      var row = 0
      for (length, sample) in zip(Self.lengths, Self.samples) {
        for position in 0..<length {
          let expected = (0..<(columns + 63) / 64).flatMap { block in
            (0..<64).map { element in
              let counter = UInt32(8 * block + element % 32 / 4)
              let words = philox4x32(
                counter: (counter, UInt32(position), UInt32(sample), 3), key: dropout.key.pair)
              let word = [words.0, words.1, words.2, words.3][element / 32 * 2 + element % 4 / 2]
              let bits = element % 2 == 0 ? word & 0xffff : word >> 16
              return bits < dropout.threshold ? dropout.scale : 0
            }
          }
          #expect(rows[row] == Array(expected.prefix(columns)), "\(set.name), row \(row)")
          row += 1
        }
      }
    }
  }

  @Test("the mask of a row does not depend on which rows surround it")
  func independentRows() {
    let dropout = Dropout(key: DropoutKey(seed: 9, step: 1), site: 0, rate: 0.5)
    let together = mask(dropout, columns: 70)
    let alone = mask(dropout, lengths: [6], samples: [12], columns: 70)
    #expect(Array(together[4...]) == alone)
    let reversed = mask(dropout, lengths: [6, 1, 3], samples: [12, 7, 40], columns: 70)
    #expect(Array(reversed[..<6]) == alone && Array(reversed[7...]) == Array(together[..<3]))
  }

  @Test("steps, sites, samples, rows and seeds have masks of their own")
  func distinctMasks() {
    var masks: [[Float]] = []
    for (seed, step, site) in [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2)] as [(UInt64, Int, UInt32)] {
      masks += mask(Dropout(key: DropoutKey(seed: seed, step: step), site: site, rate: 0.5), columns: 128)
    }
    for (index, left) in masks.enumerated() {
      for right in masks[..<index] {
        // Two independent masks agree in 64 ± 5.7 of 128 places.
        let agreements = zip(left, right).reduce(0) { $0 + ($1.0 == $1.1 ? 1 : 0) }
        #expect((28...100).contains(agreements))
      }
    }
  }

  @Test("the share of kept elements is the probability in use", arguments: [Float(0), 0.1, 0.5, 0.9])
  func rate(rate: Float) {
    let dropout = Dropout(key: DropoutKey(seed: 4, step: 4), site: 4, rate: rate)
    let keep = Double(dropout.threshold) / 65536
    #expect(abs(keep - Double(1 - rate)) <= 0x1p-17 + 1e-7)
    let (rows, columns) = (400, 1000)
    let kept = mask(dropout, lengths: [rows], samples: [0], columns: columns).joined().reduce(0) {
      $0 + ($1 != 0 ? 1 : 0)
    }
    let count = Double(rows * columns)
    // Six standard deviations of a binomial distribution.
    #expect(abs(Double(kept) - count * keep) <= 6 * (count * keep * (1 - keep)).squareRoot())
    #expect(abs(Double(dropout.scale) * keep - 1) < 1e-7)
  }

  @Test("accumulating adds the dropped rows, and another target leaves the input alone")
  func accumulates() {
    let sequences = PackedSequences(lengths: Self.lengths)
    let dropout = Dropout(key: DropoutKey(seed: 8, step: 8), site: 8, rate: 0.2)
    for set in KernelSet.available {
      var random = SeededGenerator(seed: 21)
      let x = MatrixFixture(rows: sequences.tokens, columns: 100, stride: 103, random: &random)
      let y = MatrixFixture(rows: sequences.tokens, columns: 100, random: &random)
      let before = (x.values, y.values)
      Self.samples.withUnsafeBufferPointer {
        applyDropout(
          x.matrix, SampleDropout(dropout, samples: $0.baseAddress!), sequences: sequences, into: y.matrix,
          accumulate: true, using: set)
      }
      let factors = mask(dropout, columns: 100).flatMap { $0 }
      #expect(x.values == before.0)
      #expect(y.values == zip(zip(before.0, before.1), factors).map { $0.0.1 + $0.0.0 * $0.1 }, "\(set.name)")
      #expect(y.marginsAreUntouched)
    }
  }
}
