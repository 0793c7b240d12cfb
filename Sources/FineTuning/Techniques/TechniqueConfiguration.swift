/// Full fine-tuning: every leaf of the backbone that takes part is trained.
public struct FullConfiguration: Codable, Sendable, Equatable {
  /// Share of values that is dropped where the model's authors drop.
  public var dropout: Float

  /// Full fine-tuning with `dropout`.
  public init(dropout: Float = 0) {
    self.dropout = dropout
  }
}

/// Bottlenecks behind every sub-layer of a frozen backbone (Houlsby et al., ICML 2019).
public struct HoulsbyConfiguration: Codable, Sendable, Equatable {
  /// The backbone's width divided by the bottleneck's.
  public var reduction: Int
  /// Share of values that is dropped where the model's authors drop.
  public var dropout: Float

  /// Bottlenecks of width d/`reduction`.
  public init(reduction: Int = 16, dropout: Float = 0) {
    self.reduction = reduction
    self.dropout = dropout
  }

  /// Width of a bottleneck in a backbone of `width`.
  package func bottleneck(width: Int) -> Int { max(1, width / max(1, reduction)) }
}

/// A linear layer that low-rank pairs may stand beside.
public enum LoRATarget: String, Codable, Sendable, CaseIterable, Comparable {
  /// The projections of every attention.
  case query, key, value, output
  /// The layers of every feed-forward.
  case gate, up, down

  /// In the order of the cases.
  public static func < (left: LoRATarget, right: LoRATarget) -> Bool {
    (allCases.firstIndex(of: left) ?? 0) < (allCases.firstIndex(of: right) ?? 0)
  }
}

/// Low-rank pairs beside frozen linear layers (LoRA, Hu et al., ICLR 2022).
public struct LoRAConfiguration: Codable, Sendable, Equatable {
  /// Rank of every pair's product.
  public var rank: Int
  /// The product is multiplied by `alpha / rank`.
  public var alpha: Float
  /// The layers that get a pair, in both stacks and both kinds of attention.
  public var targets: [LoRATarget]
  /// Share of a pair's input values that is dropped, as PEFT does.
  public var dropout: Float
  /// Share of values that is dropped where the model's authors drop.
  public var backboneDropout: Float

  /// The settings of PAC's code unless changed: rank 32, alpha 32, query and value.
  public init(
    rank: Int = 32, alpha: Float = 32, targets: [LoRATarget] = [.query, .value], dropout: Float = 0,
    backboneDropout: Float = 0
  ) {
    self.rank = rank
    self.alpha = alpha
    self.targets = targets
    self.dropout = dropout
    self.backboneDropout = backboneDropout
  }

  /// Factor of a pair's product.
  package var scale: Float { alpha / Float(max(1, rank)) }
}

/// A technique of fine-tuning with its settings.
public enum TechniqueConfiguration: Codable, Sendable, Equatable {
  /// A side network beside the frozen backbone (PAC §4.1).
  case parallel(ParallelAdapterConfiguration)
  /// Every leaf.
  case full(FullConfiguration)
  /// Bottlenecks.
  case houlsby(HoulsbyConfiguration)
  /// Low-rank pairs.
  case lora(LoRAConfiguration)

  /// The name on the command line and in files.
  public var name: String {
    switch self {
    case .parallel: "parallel"
    case .full: "full"
    case .houlsby: "houlsby"
    case .lora: "lora"
    }
  }
}
