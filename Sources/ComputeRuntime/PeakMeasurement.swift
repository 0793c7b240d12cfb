import Glibc
import TensorKernels

// Rates are measured here and not among the kernels: the learning wing reads no clock.

/// GFLOP/s of this core's fused multiply-adds under the kernel set in use: the best of five short runs.
package func measurePeakGFLOPS() -> Double {
  // Doubles the work until it lasts 10 ms, so that the clock's resolution does not matter.
  var iterations = 10_000
  while iterations < 1 << 30 {
    let elapsed = secondsOf { _ = runMultiplyAddChains(iterations: iterations) }
    if elapsed >= 0.01 { break }
    iterations *= 2
  }
  return bestRate { runMultiplyAddChains(iterations: iterations) }
}

/// GFLOP/s that OpenBLAS reaches on a float32 product [m × k]·[n × k]ᵀ on the calling thread: the best of five runs.
package func measureGemmGFLOPS(m: Int, n: Int, k: Int) -> Double {
  precondition(m > 0 && n > 0 && k > 0, "a product of \(m) x \(n) x \(k) has no rate")
  let arena = Arena(floatCount: m * k + n * k + m * n)
  let a = Matrix(arena.base, rows: m, columns: k)
  let b = Matrix(arena.base + m * k, rows: n, columns: k)
  let c = Matrix(arena.base + m * k + n * k, rows: m, columns: n)
  for i in 0..<(m * k + n * k) { arena.base[i] = Float(i % 17) - 8 }
  return bestRate {
    matrixMultiplyByBLAS(a, .none, b, .transposed, into: c)
    return 2 * Double(m) * Double(n) * Double(k)
  }
}

/// 10⁹ operations a second of byte products on the calling thread, two a product: the peak of int8 matrices.
package func measureBytePeakGOPS() -> Double {
  var iterations = 100
  while iterations < 1 << 24 {
    let elapsed = secondsOf { _ = runByteProductChains(iterations: iterations) }
    if elapsed >= 0.01 { break }
    iterations *= 2
  }
  return bestRate { runByteProductChains(iterations: iterations) }
}

/// The rate of `body`, which returns the operations it did, in 10⁹ a second: the best of five runs.
package func measureRate(_ body: () -> Double) -> Double { bestRate(body) }

private func bestRate(_ body: () -> Double) -> Double {
  _ = body()
  var best = 0.0
  for _ in 0..<5 {
    var operations = 0.0
    let elapsed = secondsOf { operations = body() }
    if elapsed > 0 { best = max(best, operations / elapsed * 1e-9) }
  }
  return best
}

/// The time that the calling thread has a core meanwhile: other processes' turns do not count.
package func secondsOf(_ body: () -> Void) -> Double {
  func now() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
  }
  let start = now()
  body()
  return now() - start
}
