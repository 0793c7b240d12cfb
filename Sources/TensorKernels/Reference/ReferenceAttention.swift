extension Reference {
  /// Attention of one sequence and one head, every operand row-major in double.
  package struct Attention {
    /// Factor of the scores.
    package var scale: Double
    /// Query `i` sees keys `0 ... i` only.
    package var causal: Bool
    /// `bias[queries - 1 + key - query]`, or nil.
    package var bias: [Double]?
    /// Factor of each probability after the softmax ([queries][keys]): 0 or 1/keep of dropout; nil without.
    package var mask: [[Double]]?

    /// Attention with an optional bias over `queries + keys - 1` distances.
    package init(scale: Double, causal: Bool, bias: [Double]?, mask: [[Double]]? = nil) {
      self.mask = mask
      self.scale = scale
      self.causal = causal
      self.bias = bias
    }

    /// What forward computes: the context rows, the probabilities and each row's log-sum-exp.
    package struct Result {
      /// [queries][head size].
      package var context: [[Double]]
      /// [queries][keys].
      package var probabilities: [[Double]]
      /// [queries].
      package var logSumExp: [Double]
    }

    /// The gradients of the operands; `bias` is empty when there is no bias.
    package struct Gradients {
      /// [queries][head size].
      package var q: [[Double]]
      /// [keys][head size].
      package var k: [[Double]]
      /// [keys][head size].
      package var v: [[Double]]
      /// [queries + keys − 1].
      package var bias: [Double]
    }

    /// softmax(scale · q·kᵀ + bias) · v.
    package func forward(q: [[Double]], k: [[Double]], v: [[Double]]) -> Result {
      var result = Result(context: [], probabilities: [], logSumExp: [])
      for query in q.indices {
        var scores = k.map { row in scale * Attention.dot(q[query], row) }
        for key in k.indices {
          if let bias { scores[key] += bias[q.count - 1 + key - query] }
          if causal && key > query { scores[key] = -.infinity }
        }
        let (probabilities, logSumExp) = Reference.softmax(scores)
        var context = [Double](repeating: 0, count: v[0].count)
        for key in k.indices {
          let weight = probabilities[key] * (mask?[query][key] ?? 1)
          for column in context.indices { context[column] += weight * v[key][column] }
        }
        result.context.append(context)
        result.probabilities.append(probabilities)
        result.logSumExp.append(logSumExp)
      }
      return result
    }

    /// The gradients for the loss gradient `dContext`.
    package func backward(q: [[Double]], k: [[Double]], v: [[Double]], dContext: [[Double]]) -> Gradients {
      let result = forward(q: q, k: k, v: v)
      let zeroRow = [Double](repeating: 0, count: q[0].count)
      var gradients = Gradients(
        q: q.map { _ in zeroRow }, k: k.map { _ in zeroRow }, v: k.map { _ in zeroRow },
        bias: [Double](repeating: 0, count: bias == nil ? 0 : q.count + k.count - 1))
      for query in q.indices {
        let delta = Attention.dot(dContext[query], result.context[query])
        for key in k.indices {
          let probability = result.probabilities[query][key]
          let factor = mask?[query][key] ?? 1
          let dScore = probability * (factor * Attention.dot(dContext[query], v[key]) - delta)
          if bias != nil { gradients.bias[q.count - 1 + key - query] += dScore }
          for column in zeroRow.indices {
            gradients.v[key][column] += factor * probability * dContext[query][column]
            gradients.q[query][column] += scale * dScore * k[key][column]
            gradients.k[key][column] += scale * dScore * q[query][column]
          }
        }
      }
      return gradients
    }

    private static func dot(_ a: [Double], _ b: [Double]) -> Double {
      var sum = 0.0
      for index in a.indices { sum += a[index] * b[index] }
      return sum
    }
  }
}
