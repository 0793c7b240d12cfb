/// Takes the times of a few small models apart: what a block of each stack takes, and what is left for everything else.
///
/// A difference of two models has the scatter of both, and a plan multiplies it by all blocks of the real model. Here all
/// models count at once: weighted least squares, with what is left expected at its share of the operations. On three
/// measurements of 3 % scatter, twelve and twelve blocks come out with less than a third of the differences' error
/// (`PartFitTests`).
package struct PartFit: Equatable {
  /// Seconds of one block, by stack; never negative.
  package let blocks: [Double]
  /// Seconds of what is not in a block; never negative.
  package let rest: Double

  /// Scatter of a measurement, as a part of it, or of half of the longest: a time that came out as nothing is no certainty.
  private static let scatter = 0.03
  /// How far what is left may be from its share of the operations, as a part of the smallest model.
  private static let offset = 0.02
  /// The same as a part of that share, beside it: a vocabulary's product runs at another rate than a block's.
  private static let spread = 0.3

  /// The parts that explain the times best.
  ///
  /// - Parameters:
  ///   - sizes: blocks of each stack in each model, the smallest model first.
  ///   - times: seconds of each model.
  ///   - restShare: the part of the smallest model's operations that is in no block, 0 to 1.
  package init(sizes: [[Int]], times: [Double], restShare: Double) {
    precondition(!sizes.isEmpty && sizes.count == times.count, "\(sizes.count) models, \(times.count) times")
    let smallest = max(times[0], (times.max() ?? 0) / 8, 1e-12)
    let restScatter = (Self.offset + Self.spread * restShare) * smallest
    let fitted = Self.solve(sizes, times, rest: restShare * smallest, scatter: restScatter)
    guard fitted.last ?? 0 < 0 else {
      blocks = fitted.dropLast().map { max(0, $0) }
      rest = fitted.last ?? 0
      return
    }
    // Nothing is left: then the blocks have to make up the times by themselves.
    blocks = Self.solve(sizes, times, rest: 0, scatter: 1e-6 * smallest).dropLast().map { max(0, $0) }
    rest = 0
  }

  /// Blocks' times and the rest's, by the normal equations of weighted least squares.
  private static func solve(_ sizes: [[Int]], _ times: [Double], rest: Double, scatter restScatter: Double)
    -> [Double]
  {
    let count = sizes[0].count + 1
    let longest = times.max() ?? 0
    var rows: [(factors: [Double], value: Double, scatter: Double)] = zip(sizes, times).map { size, time in
      (size.map(Double.init) + [1], time, max(scatter * max(time, longest / 2), 1e-12))
    }
    rows.append((Array(repeating: 0, count: count - 1) + [1], rest, restScatter))
    var equations = Array(repeating: Array(repeating: 0.0, count: count + 1), count: count)
    for row in rows {
      let weight = 1 / (row.scatter * row.scatter)
      for i in 0..<count {
        for j in 0..<count { equations[i][j] += weight * row.factors[i] * row.factors[j] }
        equations[i][count] += weight * row.factors[i] * row.value
      }
    }
    return eliminate(equations)
  }

  /// Solves a positive definite system, given with its right-hand side as the last column.
  private static func eliminate(_ system: [[Double]]) -> [Double] {
    var system = system
    let count = system.count
    for pivot in 0..<count {
      for row in pivot + 1..<count {
        let factor = system[row][pivot] / system[pivot][pivot]
        for column in pivot...count { system[row][column] -= factor * system[pivot][column] }
      }
    }
    var solution = Array(repeating: 0.0, count: count)
    for row in stride(from: count - 1, through: 0, by: -1) {
      let known = (row + 1..<count).reduce(0) { $0 + system[row][$1] * solution[$1] }
      solution[row] = (system[row][count] - known) / system[row][row]
    }
    return solution
  }
}
