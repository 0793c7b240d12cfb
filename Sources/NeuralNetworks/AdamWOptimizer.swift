import TensorKernels

/// Constants of AdamW.
package struct AdamWConfiguration: Sendable, Equatable {
  /// Decay of the first moment.
  package var beta1: Float
  /// Decay of the second moment.
  package var beta2: Float
  /// Added to the root of the second moment.
  package var epsilon: Float
  /// Decoupled weight decay of matrices; norms, biases, gates and tables never decay.
  package var weightDecay: Float

  /// The constants of the paper (Loshchilov and Hutter, ICLR 2019) unless changed.
  package init(
    beta1: Float = 0.9, beta2: Float = 0.999, epsilon: Float = 1e-8, weightDecay: Float = 0.01
  ) {
    self.beta1 = beta1
    self.beta2 = beta2
    self.epsilon = epsilon
    self.weightDecay = weightDecay
  }
}

/// AdamW over the flat vector of a parameter tree (Loshchilov and Hutter, "Decoupled weight decay
/// regularization", ICLR 2019).
///
/// Every replica that applies the same gradients gets the same bits. A run that resumes restores `step` and
/// both moments.
package struct AdamWOptimizer: Sendable {
  /// Number of updates made so far.
  package var step = 0
  /// Constants of the update.
  package let configuration: AdamWConfiguration

  private let tree: ParameterTree
  private let moments: Arena

  /// An optimizer with zero moments for the trainable leaves of `tree`.
  package init(_ tree: ParameterTree, configuration: AdamWConfiguration = AdamWConfiguration()) {
    self.tree = tree
    self.configuration = configuration
    moments = Arena(floatCount: max(2 * tree.vectorCount, 16))
  }

  /// Running means of the gradients, in the order of the flat vector.
  package var firstMoments: UnsafeMutableBufferPointer<Float> {
    UnsafeMutableBufferPointer(start: moments.base, count: tree.vectorCount)
  }

  /// Running means of the squared gradients, in the order of the flat vector.
  package var secondMoments: UnsafeMutableBufferPointer<Float> {
    UnsafeMutableBufferPointer(start: moments.base + tree.vectorCount, count: tree.vectorCount)
  }

  /// Gives up the memory of first moments that nobody reads again.
  package func discardFirstMoments(_ part: Range<Int>) { moments.discard(part) }

  /// Gives up the memory of second moments that nobody reads again.
  package func discardSecondMoments(_ part: Range<Int>) {
    moments.discard(part.lowerBound + tree.vectorCount..<part.upperBound + tree.vectorCount)
  }

  /// Updates the tree's vector.
  ///
  /// - Parameters:
  ///   - gradients: `vectorCount` floats.
  ///   - gradientScale: multiplies each gradient first (mean over samples, clipping).
  ///   - learningRate: of this step.
  package mutating func apply(
    gradients: UnsafePointer<Float>, gradientScale: Float, learningRate: Float
  ) {
    step += 1
    update(
      0..<tree.vectorCount, gradients: gradients, gradientScale: gradientScale, learningRate: learningRate)
  }

  /// Updates the part `range` of the tree's vector as of the current `step`.
  ///
  /// An update is element by element, so parts give the same bits as the whole, in any order and on any thread;
  /// the caller has advanced `step` and names every element once.
  ///
  /// - Parameters:
  ///   - range: indices of the flat vector.
  ///   - gradients: the gradients of `range` alone.
  ///   - gradientScale: multiplies each gradient first.
  ///   - learningRate: of this step.
  package func update(
    _ range: Range<Int>, gradients: UnsafePointer<Float>, gradientScale: Float, learningRate: Float
  ) {
    precondition(
      range.lowerBound >= 0 && range.upperBound <= tree.vectorCount,
      "an update of \(range) in a vector of \(tree.vectorCount)")
    guard !range.isEmpty else { return }
    var index = firstDecayRange(endingAfter: range.lowerBound)
    while index < tree.decayRanges.count, tree.decayRanges[index].range.lowerBound < range.upperBound {
      let part = tree.decayRanges[index]
      let here = part.range.clamped(to: range)
      let start = here.lowerBound
      index += 1
      adamW(
        AdamWStep(
          learningRate: learningRate, beta1: configuration.beta1, beta2: configuration.beta2,
          epsilon: configuration.epsilon, weightDecay: part.decays ? configuration.weightDecay : 0,
          step: step, gradientScale: gradientScale),
        parameters: tree.vector + start, gradients: gradients + (start - range.lowerBound),
        m: moments.base + start, v: moments.base + tree.vectorCount + start, count: here.count)
    }
  }

  /// The ranges cover the vector in order, so the first that reaches beyond an element is found by halving.
  private func firstDecayRange(endingAfter element: Int) -> Int {
    var (low, high) = (0, tree.decayRanges.count)
    while low < high {
      let middle = (low + high) / 2
      if tree.decayRanges[middle].range.upperBound > element { high = middle } else { low = middle + 1 }
    }
    return low
  }
}

/// Clipping by the global norm of all gradients.
package struct GradientClipping: Sendable, Equatable {
  /// The largest norm that passes unchanged.
  package var maximumNorm: Float

  /// Clips to `maximumNorm`, which must be positive.
  package init(maximumNorm: Float) {
    precondition(maximumNorm > 0, "clipping to the norm \(maximumNorm)")
    self.maximumNorm = maximumNorm
  }

  /// The norm of `gradientScale · gradients`, and the factor to multiply the gradients by so that
  /// their norm is at most `maximumNorm` (it includes `gradientScale`).
  package func scale(
    gradients: UnsafePointer<Float>, count: Int, gradientScale: Float = 1
  ) -> (norm: Double, scale: Float) {
    scale(sumOfSquares: sumOfSquares(gradients, count: count), gradientScale: gradientScale)
  }

  /// The same from the sum of the gradients' squares.
  package func scale(
    sumOfSquares: Double, gradientScale: Float = 1
  ) -> (norm: Double, scale: Float) {
    let norm = sumOfSquares.squareRoot() * Double(gradientScale.magnitude)
    guard norm > Double(maximumNorm) else { return (norm, gradientScale) }
    return (norm, Float(Double(gradientScale) * Double(maximumNorm) / norm))
  }
}
