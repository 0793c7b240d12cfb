package import LanguageModels

/// What a side network looks like; everything else about it follows from the backbone.
///
/// Parallel Adapters are PAC §4.1: a side network of width d/k that reads the frozen backbone's activations
/// `b_i` ("taps") and feeds nothing back, `a_i = f_i(b_i, a_{i−1})` (Eq. 1).
public struct ParallelAdapterConfiguration: Codable, Sendable, Equatable {
  /// Named settings.
  public enum Preset: String, Codable, Sendable, CaseIterable {
    /// Ladder Side-Tuning as the authors' accuracy runs used it: gates, 3 of 4 layers, side output only.
    case lst
    /// The network behind the paper's time and memory figures: all layers, plain sums, backbone output added.
    case timing
    /// Gates, all layers, pruned weights, output mixed with the backbone's final state by a learned gate.
    case `default`
  }

  /// What the prediction is made from.
  public enum Output: String, Codable, Sendable {
    /// `up(a_L)` alone.
    case side
    /// `up(a_L) + b` with the backbone's final state `b`.
    case sum
    /// `g · up(a_L) + (1 − g) · b` with a learned scalar `g`.
    case mixed
  }

  /// Which tokens' states an encoder-only backbone's prediction is made from.
  public enum Pooling: String, Codable, Sendable, CaseIterable {
    /// The mean over all tokens.
    case tokens
    /// The mean over all tokens, and of every tap an average of its tokens that a learned query weights.
    case attention
    /// The mean `u` over the first text and `v` over the second; the head reads `[u, v, |u − v|, u ⊙ v]`.
    case segments
    /// As `segments`, and beside it the tokens of both texts are aligned in the middle taps, compared and aggregated.
    case aligned

    /// Whether it reads a sample's two texts apart.
    package var readsPairs: Bool { self == .segments || self == .aligned }
  }

  /// How the side blocks start.
  public enum Initialization: String, Codable, Sendable {
    /// Normal(0, 0.02) blocks and Normal(0, 0.01) projections.
    case random
    /// Blocks cut out of the backbone's by weight magnitude, with one set of residual coordinates for all layers.
    case pruned
  }

  /// How many heads a side block has.
  public enum HeadRule: String, Codable, Sendable {
    /// As many as the backbone: the head size is divided by k (the paper's form).
    case backbone
    /// Fewer heads of at least 16 (width under 64) or 32: the same products, a fraction of the softmax work.
    case few
  }

  /// The preset that this started from; recorded for people, not read by the engine.
  public var preset: Preset
  /// The paper's k: every width of the side network is the backbone's divided by it.
  public var reduction: Int
  /// 0-based backbone layers that have a side block, in each stack; nil means all.
  public var layers: [Int]?
  /// True: `h = μ·h + (1 − μ)·down(b)` with `μ = σ(α / 0.1)`; false: `h = h + down(b)`.
  public var gates: Bool
  /// What the prediction is made from.
  public var output: Output
  /// How many heads a side block has.
  public var heads: HeadRule
  /// How the side blocks start.
  public var initialization: Initialization
  /// Which tokens' states an encoder-only backbone's prediction is made from; nil is `tokens`.
  public var pooling: Pooling?

  /// The settings of a preset.
  ///
  /// - Parameters:
  ///   - preset: see `Preset`.
  ///   - reduction: the paper's k, 8 in all its experiments (§6.1).
  ///   - layersPerStack: backbone layers of a stack; `lst` leaves out every fourth, starting with the first.
  public init(preset: Preset, reduction: Int = 8, layersPerStack: Int) {
    self.preset = preset
    self.reduction = reduction
    switch preset {
    case .lst:
      let kept = (0..<layersPerStack).filter { $0 % 4 != 0 }
      layers = kept.isEmpty ? nil : kept
      gates = true
      output = .side
      heads = .backbone
      initialization = .pruned
    case .timing:
      layers = nil
      gates = false
      output = .sum
      heads = .backbone
      initialization = .random
    case .default:
      layers = nil
      gates = true
      output = .mixed
      heads = .few
      initialization = .pruned
    }
  }

  /// The pooling that the preset takes for rows with or without second texts, where nobody names one; nil is the mean.
  ///
  /// Of encoder-only backbones the preset `default` aligns and compares the texts of a pair
  /// (docs/decisions/0021-texts-are-aligned.md) and reads every tap of a single text
  /// (docs/decisions/0019-taps-are-pooled.md); all others take the mean.
  package func preferredPooling(of architecture: BackboneArchitecture, hasPairs: Bool) -> Pooling? {
    guard preset == .default, architecture.stacks.allSatisfy({ $0.kind == .encoder }) else { return nil }
    return hasPairs ? .aligned : .attention
  }

  /// Heads of a side block of `width` under a backbone with `backboneHeads`.
  package func headCount(width: Int, backboneHeads: Int) -> Int {
    switch heads {
    case .backbone: return backboneHeads
    case .few:
      let smallest = width < 64 ? 16 : 32
      let candidates = (1...max(1, backboneHeads)).filter { width % $0 == 0 && width / $0 >= smallest }
      return candidates.max() ?? 1
    }
  }
}
