import LanguageModels

/// What PAC (ICPP 2024, arXiv 2408.10746v1) reports of the same techniques, digitised where it is a figure.
enum PaperFigures {
  /// Figure 8a: seconds a sample, forward and backward, on Jetson Nanos; full fine-tuning of T5-Large ran out of memory.
  static func secondsPerSample(
    _ shape: ModelShape, _ technique: MeasuredTechnique
  ) -> (forward: Double, backward: Double)? {
    switch (shape, technique) {
    case (.t5Base, .full): (0.2256, 0.3346)
    case (.t5Base, .houlsby): (0.2128, 0.1757)
    case (.t5Base, .lora): (0.2325, 0.1853)
    case (.t5Base, .parallel): (0.2299, 0.0345)
    case (.t5Base, .cached): (0.0081, 0.0141)
    case (.bartLarge, .full): (0.3375, 0.5502)
    case (.bartLarge, .houlsby), (.bartLarge, .lora): (0.3515, 0.2777)
    case (.bartLarge, .parallel): (0.3599, 0.0287)
    case (.bartLarge, .cached): (0.0138, 0.0183)
    case (.t5Large, .houlsby): (0.6178, 0.6327)
    case (.t5Large, .lora): (0.5992, 0.6375)
    case (.t5Large, .parallel): (0.6267, 0.0542)
    case (.t5Large, .cached): (0.0212, 0.0344)
    default: nil
    }
  }

  /// Figure 3: TFLOP of a forward and a backward of a mini-batch of 16 × 128 with one target token.
  static func teraoperations(
    _ shape: ModelShape, _ technique: MeasuredTechnique
  ) -> (forward: Double, backward: Double)? {
    switch (shape, technique) {
    case (.t5Base, .full): (0.419, 0.837)
    case (.t5Base, .houlsby): (0.468, 0.386)
    case (.t5Base, .lora): (0.496, 0.396)
    case (.bartLarge, .full): (0.741, 1.481)
    case (.bartLarge, .houlsby): (0.836, 0.665)
    case (.bartLarge, .lora): (0.869, 0.692)
    case (.t5Large, .full): (1.480, 2.960)
    case (.t5Large, .houlsby): (1.703, 1.357)
    case (.t5Large, .lora): (1.744, 1.378)
    default: nil
    }
  }

  /// Table 1: GiB of T5-Large's weights, activations and gradients.
  static func memory(
    _ shape: ModelShape, _ technique: MeasuredTechnique
  ) -> (weights: Double, activations: Double, gradients: Double)? {
    switch (shape, technique) {
    case (.t5Large, .full): (2.75, 5.33, 2.75)
    case (.t5Large, .houlsby): (2.80, 4.04, 0.05)
    case (.t5Large, .lora): (2.78, 4.31, 0.04)
    default: nil
    }
  }
}
