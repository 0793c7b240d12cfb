/// Beam search over log-probabilities, as transformers' `generate` does it: pure, one text.
///
/// Each step looks at the 2·beams best continuations. Those that end the text and are among the best `beams` are
/// finished, with their log-probability divided by length^penalty; the best others go on. It is over when no
/// unfinished text is better, at its present length, than `beams` finished ones (`early_stopping=False` there). With
/// one beam it is greedy search.
struct BeamSearch {
  /// A text that goes on.
  struct Hypothesis: Equatable {
    var tokens: [Int32]
    var score: Double
  }

  /// What the decoder has to do next.
  struct Continuation: Equatable {
    /// For each hypothesis that goes on, the one it goes on from.
    var parents: [Int]
    /// Its new token.
    var tokens: [Int32]
  }

  let beams: Int
  let lengthPenalty: Double
  let maximumTokens: Int
  let endID: Int32
  private(set) var running: [Hypothesis]
  private var finished: [Hypothesis] = []

  init(beams: Int, lengthPenalty: Double, maximumTokens: Int, endID: Int32) {
    precondition(beams > 0 && maximumTokens > 0, "\(beams) beams of \(maximumTokens) tokens")
    self.beams = beams
    self.lengthPenalty = lengthPenalty
    self.maximumTokens = maximumTokens
    self.endID = endID
    running = [Hypothesis(tokens: [], score: 0)]
  }

  /// The best text, without what ends it.
  var best: WrittenIDs {
    let tokens = (finished.first ?? running[0]).tokens
    let isEnded = tokens.last == endID
    return WrittenIDs(ids: isEnded ? Array(tokens.dropLast()) : tokens, isCut: !isEnded)
  }

  /// Takes the log-probabilities of the next token of each running hypothesis; nil when the search is over.
  mutating func advance(_ logProbability: (_ hypothesis: Int) -> [Float]) -> Continuation? {
    let candidates = bestCandidates(logProbability)
    let length = running[0].tokens.count + 1
    var parents: [Int] = []
    var going: [Hypothesis] = []
    for (rank, candidate) in candidates.enumerated() {
      var next = running[candidate.parent]
      next.tokens.append(candidate.token)
      next.score = candidate.score
      let ends = candidate.token == endID || length == maximumTokens
      if ends {
        if rank < beams { finish(next, length: length) }
      } else if going.count < beams {
        going.append(next)
        parents.append(candidate.parent)
      }
    }
    guard let bestRunning = going.first else { return nil }
    running = going
    let isSettled =
      finished.count == beams
      && normalized(bestRunning.score, length: length) <= finished[beams - 1].score
    if isSettled { return nil }
    return Continuation(parents: parents, tokens: going.compactMap(\.tokens.last))
  }

  private struct Candidate {
    let parent: Int
    let token: Int32
    let score: Double
  }

  /// The best continuations of all hypotheses, best first; of equal ones the one of the earlier hypothesis, then
  /// the smaller id.
  private func bestCandidates(_ logProbability: (Int) -> [Float]) -> [Candidate] {
    let wanted = 2 * beams
    var best: [Candidate] = []
    for (parent, hypothesis) in running.enumerated() {
      for (token, value) in logProbability(parent).enumerated() {
        let score = hypothesis.score + Double(value)
        if best.count == wanted, let last = best.last, score <= last.score { continue }
        let place = best.firstIndex { $0.score < score } ?? best.count
        best.insert(Candidate(parent: parent, token: Int32(token), score: score), at: place)
        if best.count > wanted { best.removeLast() }
      }
    }
    return best
  }

  private mutating func finish(_ hypothesis: Hypothesis, length: Int) {
    let scored = Hypothesis(tokens: hypothesis.tokens, score: normalized(hypothesis.score, length: length))
    let place = finished.firstIndex { $0.score < scored.score } ?? finished.count
    finished.insert(scored, at: place)
    if finished.count > beams { finished.removeLast() }
  }

  private func normalized(_ score: Double, length: Int) -> Double {
    score / power(Double(length), lengthPenalty)
  }
}

/// base^exponent for a positive base, by square roots of square roots: the same bits on every machine, which a maths
/// library does not promise.
func power(_ base: Double, _ exponent: Double) -> Double {
  precondition(base > 0 && abs(exponent) < 1024, "\(base) to the power of \(exponent)")
  var product = 1.0
  var rest = abs(exponent)
  for _ in 0..<Int(rest) { product *= base }
  rest -= rest.rounded(.down)
  var root = base
  while rest > 0 {
    root = root.squareRoot()
    rest *= 2
    if rest >= 1 {
      product *= root
      rest -= 1
    }
  }
  return exponent < 0 ? 1 / product : product
}
