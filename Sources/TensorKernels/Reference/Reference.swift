import CKernels

/// The kernels again as plain loops in double, the oracle that tests compare the fast ones with.
package enum Reference {
  static func exp(_ x: Double) -> Double { hearth_libm_exp(x) }
  static func log(_ x: Double) -> Double { hearth_libm_log(x) }
  static func erf(_ x: Double) -> Double { hearth_libm_erf(x) }
  static func tanh(_ x: Double) -> Double { hearth_libm_tanh(x) }

  /// The softmax of one row and its log-sum-exp; zeros when every score is −∞.
  package static func softmax(_ scores: [Double]) -> (probabilities: [Double], logSumExp: Double) {
    guard let largest = scores.max(), largest > -.infinity else {
      return (scores.map { _ in 0 }, -.infinity)
    }
    let exponentials = scores.map { exp($0 - largest) }
    let total = exponentials.reduce(0, +)
    return (exponentials.map { $0 / total }, largest + log(total))
  }
}
