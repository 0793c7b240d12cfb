import ArgumentParser
import ComputeRuntime
import Determinism
import Glibc
import TensorKernels

/// `hearth-benchmark kernels`: the rate of every kernel on one thread, against what the core can do.
struct KernelsCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "kernels",
    abstract:
      "Measure the kernels on one thread: rate, and share of the multiply-add peak or of memory speed.")

  @Option(help: "Kernel set: avx512, avx2, neon or portable (default: the best of this CPU).")
  var set: String?

  @Option(help: "Repetitions of each measurement; the best counts.")
  var repetitions = 5

  func validate() throws {
    guard (1...1000).contains(repetitions) else {
      throw ValidationError("--repetitions is \(repetitions); choose 1 to 1000")
    }
    if let set, KernelSet.available.allSatisfy({ $0.name != set }) {
      let names = KernelSet.available.map(\.name).joined(separator: ", ")
      throw ValidationError("this CPU has no kernel set '\(set)'; it has \(names)")
    }
  }

  func run() throws {
    let report = BLASCore.select()
    let cpu = CPUFeatures.detect()
    print("CPU          \(cpu.brand), \(cpu.architecture)")
    print("BLAS         \(report.library), core \(report.coreName): \(report.explanation)")
    guard !report.contradictsCPU else {
      throw ValidationError(
        "core \(report.coreName) contradicts this CPU, so no rate is printed: \(report.explanation)")
    }
    let kernels = KernelSet.available.first { $0.name == set } ?? .best
    enableFlushToZero()
    let peak = measurePeakGFLOPS()
    print("kernel set   \(kernels.name)")
    print("peak         \(tenths(peak)) GFLOP/s of fused multiply-adds on one core")
    var bench = KernelBench(set: kernels, repetitions: repetitions, peak: peak)
    bench.measureProducts()
    bench.measureDecodingProducts()
    bench.measureAttention()
    bench.measureStreams()
  }
}

/// Runs kernels on random operands and prints a line for each.
struct KernelBench {
  let set: KernelSet
  let repetitions: Int
  let peak: Double
  private var random = SeededGenerator(seed: 2026)

  init(set: KernelSet, repetitions: Int, peak: Double) {
    self.set = set
    self.repetitions = repetitions
    self.peak = peak
  }

  /// Products of the backbone and the side network: rows × columns × depth, N plain, T transposed.
  mutating func measureProducts() {
    let shapes: [(m: Int, n: Int, k: Int, ta: Transposition, tb: Transposition)] = [
      (512, 768, 768, .none, .transposed), (512, 3072, 768, .none, .transposed),
      (512, 768, 3072, .none, .transposed), (512, 768, 768, .none, .none),
      (512, 96, 96, .none, .transposed), (512, 384, 96, .none, .transposed),
      (512, 96, 384, .none, .transposed), (96, 96, 512, .transposed, .none),
      (64, 768, 768, .none, .transposed), (16, 768, 768, .none, .transposed),
      (512, 8, 768, .none, .transposed), (512, 768, 8, .none, .transposed),
    ]
    for shape in shapes {
      let (m, n, k) = (shape.m, shape.n, shape.k)
      let a = randomArena(m * k)
      let b = randomArena(k * n)
      let c = Arena(floatCount: m * n)
      let left = Matrix(
        a.base, rows: shape.ta == .none ? m : k, columns: shape.ta == .none ? k : m)
      let right = Matrix(
        b.base, rows: shape.tb == .none ? k : n, columns: shape.tb == .none ? n : k)
      let letters = (shape.ta == .none ? "N" : "T") + (shape.tb == .none ? "N" : "T")
      printRate("matrixMultiply \(m)x\(n)x\(k) \(letters)", operations: 2 * Double(m * n * k)) {
        matrixMultiply(
          left, shape.ta, right, shape.tb, into: Matrix(c.base, rows: m, columns: n), using: set)
      }
    }
    for activation in [Activation.gelu, .geluTanh, .relu] {
      let (m, n, k) = (512, 3072, 768)
      let a = randomArena(m * k)
      let b = randomArena(n * k)
      let bias = randomArena(n)
      let c = Arena(floatCount: m * n)
      printRate("bias + \(activation) \(m)x\(n)x\(k) NT", operations: 2 * Double(m * n * k)) {
        matrixMultiply(
          Matrix(a.base, rows: m, columns: k), .none, Matrix(b.base, rows: n, columns: k), .transposed,
          into: Matrix(c.base, rows: m, columns: n),
          epilogue: Epilogue(bias: bias.base, activation: activation), using: set)
      }
    }
  }

  /// Down-projection of cached taps and its weight gradient.
  mutating func measureDecodingProducts() {
    let (rows, out, width) = (512, 96, 768)
    for element in ActivationElement.allCases {
      let source = randomArena(rows * width)
      let bytes = Arena(floatCount: rows * width + rows)
      let encoded = EncodedRows(bytes.base, rows: rows, width: width, element: element)
      let tap = Matrix(source.base, rows: rows, columns: width)
      let misfits = encodeRows(tap, into: encoded, using: set)
      precondition(misfits == 0, "\(misfits) values did not fit")
      let weight = randomArena(out * width)
      let dy = randomArena(rows * out)
      let y = Arena(floatCount: rows * out)
      let dW = Arena(floatCount: out * width)
      let operations = 2 * Double(rows * out * width)
      printRate("decodeMultiply \(element) \(rows)x\(out)x\(width)", operations: operations) {
        decodeMultiply(
          encoded, weight: Matrix(weight.base, rows: out, columns: width),
          into: Matrix(y.base, rows: rows, columns: out), using: set)
      }
      printRate("decodeWeightGradient \(element) \(out)x\(width)x\(rows)", operations: operations) {
        decodeWeightGradient(
          Matrix(dy.base, rows: rows, columns: out), encoded,
          into: Matrix(dW.base, rows: out, columns: width), accumulate: false, using: set)
      }
      printSpeed(
        "encodeRows \(element) \(rows)x\(width)", bytes: Double(rows * width * 4 + encoded.byteCount)
      ) {
        _ = encodeRows(tap, into: encoded, using: set)
      }
    }
  }

  /// Attention of 4 sequences of 128 tokens; the backward counts five products, the forward two.
  mutating func measureAttention() {
    let sequences = PackedSequences(lengths: [128, 128, 128, 128])
    for (heads, headSize) in [(12, 64), (12, 8), (3, 32)] {
      let shape = AttentionShape(
        heads: heads, headSize: headSize, scale: 1 / Float(headSize).squareRoot(), causal: false)
      let (rows, width) = (sequences.tokens, heads * headSize)
      let arenas = (0..<8).map { _ in randomArena(rows * width) }
      let m = arenas.map { Matrix($0.base, rows: rows, columns: width) }
      let logSumExp = Arena(floatCount: rows * heads)
      let products = 2 * Double(4 * heads * 128 * 128 * headSize)
      // An array is released after its last mention, not at the end of the scope.
      withExtendedLifetime(arenas) {
        printRate("attention forward 4x128, \(heads) x \(headSize)", operations: 2 * products) {
          attentionForward(
            shape, q: m[0], k: m[1], v: m[2], queries: sequences, keys: sequences, bias: nil, into: m[3],
            logSumExp: logSumExp.base)
        }
        printRate("attention backward 4x128, \(heads) x \(headSize)", operations: 5 * products) {
          attentionBackward(
            shape, q: m[0], k: m[1], v: m[2], out: m[3], logSumExp: logSumExp.base, gradient: m[4],
            queries: sequences, keys: sequences, bias: nil, dq: m[5], dk: m[6], dv: m[7], biasGradient: nil)
        }
      }
    }
  }

  /// Kernels that memory bounds, over 16 Mi parameters.
  mutating func measureStreams() {
    let count = 16 << 20
    let parameters = randomArena(count)
    let gradients = randomArena(count)
    let (m, v) = (Arena(floatCount: count), Arena(floatCount: count))
    let sums = Arena(floatCount: 2 * count)
    let step = AdamWStep(
      learningRate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.01, step: 3,
      gradientScale: 1)
    printSpeed("adamW, 16 Mi parameters", bytes: 28 * Double(count)) {
      adamW(
        step, parameters: parameters.base, gradients: gradients.base, m: m.base, v: v.base, count: count,
        using: set)
    }
    sums.base.withMemoryRebound(to: Int64.self, capacity: count) { sums in
      printSpeed("accumulateFixedPoint, 16 Mi values", bytes: 20 * Double(count)) {
        _ = accumulateFixedPoint(
          gradients.base, count: count, exponent: 44, limitBits: 60, into: sums, using: set)
      }
    }
    printSpeed("sumOfSquares, 16 Mi values", bytes: 4 * Double(count)) {
      _ = sumOfSquares(gradients.base, count: count, using: set)
    }
    printSpeed("crc32c, 64 MiB", bytes: 4 * Double(count)) {
      _ = crc32c(UnsafeRawBufferPointer(start: gradients.base, count: 4 * count))
    }
  }

  // MARK: - Measuring

  private mutating func randomArena(_ count: Int) -> Arena {
    let arena = Arena(floatCount: count)
    for i in 0..<count { arena.base[i] = random.uniformFloat() - 0.5 }
    return arena
  }

  private func printRate(_ name: String, operations: Double, _ body: () -> Void) {
    let rate = operations / bestSeconds(body) * 1e-9
    let share = Int((100 * rate / peak).rounded())
    print("\(padded(name, 46))\(padded(tenths(rate), 8, left: true)) GFLOP/s  \(share)% of peak")
  }

  private func printSpeed(_ name: String, bytes: Double, _ body: () -> Void) {
    let speed = bytes / bestSeconds(body) * 1e-9
    print("\(padded(name, 46))\(padded(tenths(speed), 8, left: true)) GB/s")
  }

  /// The best of the repetitions, each long enough (5 ms) for the clock.
  private func bestSeconds(_ body: () -> Void) -> Double {
    body()
    var calls = 1
    var best = Double.infinity
    var measured = 0
    while measured < repetitions {
      let start = threadSeconds()
      for _ in 0..<calls { body() }
      let elapsed = threadSeconds() - start
      if elapsed < 0.005 {
        calls *= 2
      } else {
        best = min(best, elapsed / Double(calls))
        measured += 1
      }
    }
    return best
  }
}

/// The time that this thread has had a core, so that other processes' turns do not count.
private func threadSeconds() -> Double {
  var time = timespec()
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
  return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
}

private func tenths(_ value: Double) -> String {
  let scaled = Int((value * 10).rounded())
  return "\(scaled / 10).\(scaled % 10)"
}

private func padded(_ text: String, _ width: Int, left: Bool = false) -> String {
  let space = String(repeating: " ", count: max(0, width - text.count))
  return left ? space + text : text + space
}
