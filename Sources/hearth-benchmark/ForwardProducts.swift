import ComputeRuntime
import LanguageModels
import NeuralNetworks
import Synchronization
import TensorKernels

/// The matrix products of a frozen forward, and what OpenBLAS alone takes for them.
///
/// This is the yardstick of the whole forward: the same products in the same shapes, each at the rate that the
/// same OpenBLAS core reaches on it with all threads at work, and nothing else in between.
struct ForwardProducts {
  /// `count` products of an m × k and a k × n matrix.
  struct Product: Hashable {
    let m, n, k: Int
  }

  private var counts: [Product: Int] = [:]

  /// The products of one forward of a T5 with its head over `microBatches`; cross-attention is absorbed.
  init(_ architecture: BackboneArchitecture, microBatches: [BackboneBatch]) {
    for batch in microBatches {
      for stack in architecture.stacks {
        let sequences = stack.kind == .encoder ? batch.encoder : batch.decoder ?? batch.encoder
        addStack(stack, sequences: sequences, encoder: batch.encoder)
      }
    }
    let rows = microBatches.reduce(0) { $0 + ($1.decoder?.tokens ?? 0) }
    if rows > 0 { add(m: rows, n: architecture.vocabulary, k: architecture.width) }
  }

  private mutating func addStack(_ stack: StackShape, sequences: PackedSequences, encoder: PackedSequences) {
    let block = stack.block
    let (tokens, layers) = (sequences.tokens, stack.layers)
    add(m: tokens, n: 3 * block.inner, k: block.width, times: layers)
    add(m: tokens, n: block.width, k: block.inner, times: layers)
    add(m: tokens, n: block.hidden, k: block.width, times: layers * (block.gated ? 2 : 1))
    add(m: tokens, n: block.width, k: block.hidden, times: layers)
    for sequence in 0..<sequences.count {
      let length = sequences.length(sequence)
      add(m: length, n: length, k: block.headSize, times: layers * block.heads)
      add(m: length, n: block.headSize, k: length, times: layers * block.heads)
    }
    guard block.crossAttention else { return }
    add(m: tokens, n: block.inner, k: block.width, times: layers)
    add(m: tokens, n: block.width, k: block.inner, times: layers)
    // Absorbed: (q·W_k) and (context)·W_vᵀ a head, scores and context against the encoder's states themselves.
    add(m: tokens, n: block.width, k: block.headSize, times: layers * block.heads)
    add(m: tokens, n: block.headSize, k: block.width, times: layers * block.heads)
    for sequence in 0..<sequences.count {
      let (rows, keys) = (block.heads * sequences.length(sequence), encoder.length(sequence))
      add(m: rows, n: keys, k: block.width, times: layers)
      add(m: rows, n: block.width, k: keys, times: layers)
    }
  }

  private mutating func add(m: Int, n: Int, k: Int, times: Int = 1) {
    counts[Product(m: m, n: n, k: k), default: 0] += times
  }

  /// Products with their counts, in the order of their sizes.
  private var sorted: [(product: Product, count: Int)] {
    counts.map { ($0.key, $0.value) }.sorted {
      ($0.product.m, $0.product.n, $0.product.k) < ($1.product.m, $1.product.n, $1.product.k)
    }
  }

  /// 10⁹ multiplications and additions of all products.
  var gigaflop: Double {
    sorted.reduce(0) { $0 + Double(2 * $1.product.m * $1.product.n * $1.product.k * $1.count) * 1e-9 }
  }

  /// Seconds of all products at the rates that OpenBLAS reaches on them while every worker computes.
  func blasSeconds(team: ComputeTeam) -> Double {
    sorted.reduce(0) { seconds, entry in
      let product = entry.product
      let rate = Mutex(0.0)
      team.forEach(team.width) { _, _ in
        let own = measureGemmGFLOPS(m: product.m, n: product.n, k: product.k)
        rate.withLock { $0 += own }
      }
      let gigaflop = Double(2 * product.m * product.n * product.k * entry.count) * 1e-9
      return seconds + gigaflop / rate.withLock { $0 }
    }
  }
}
