package import ActivationCache
import CryptoPrimitives
package import FineTuning
package import LanguageModels
package import NeuralNetworks

/// A job package laid out for a backbone: the same lanes, micro-batches and numbers on every device of a job.
package struct PackagedRun {
  /// The package.
  package let package: JobPackage
  /// The run, laid out as on the device that has the rows; `validationTexts` and the paths of `request` are empty.
  package let prepared: PreparedRun

  /// Checks a package against a backbone and lays the run out.
  ///
  /// The backbone's weights may be missing: only its shapes are looked at.
  package init(_ package: JobPackage, backbone: any Backbone) throws {
    if let fault = package.fault ?? package.fault(for: backbone.architecture) {
      throw JobPackageFailure.inconsistent(detail: fault)
    }
    self.package = package
    let technique = RunTechnique(rawValue: package.technique.name) ?? .parallel
    let request = package.settings.request(
      task: package.task.kind, technique: technique, maximumLength: package.maximumLength)
    prepared = try PreparedRun(request, content: package.content, backbone: backbone)
    guard let values = package.parameters else { return }
    let expected = prepared.technique.emptyParameters(backbone).vectorCount
    guard values.count == expected else {
      throw JobPackageFailure.inconsistent(
        detail: "it starts from \(values.count) values and \(package.technique.name) has \(expected)")
    }
  }

  /// The trained values at the start: the package's, or for full fine-tuning the backbone's own.
  ///
  /// - Parameter layers: those of the only stage whose values are needed: the backbone's of the others would take memory.
  package func initialParameters(_ backbone: any Backbone, layers: Range<Int>? = nil) -> ParameterTree {
    guard let values = package.parameters else {
      return prepared.technique.initialParameters(backbone, seed: package.settings.seed, layers: layers)
    }
    let tree = prepared.technique.emptyParameters(backbone)
    for (index, value) in values.enumerated() { tree.vector[index] = value }
    return tree
  }

  /// Identity of the activation cache of the job.
  package var cacheIdentity: CacheIdentity {
    prepared.cacheIdentity(backbone: package.backboneDigest, tokenizer: package.tokenizerDigest)
  }
}

extension AdapterTask {
  /// The task's kind.
  package var kind: RunTask {
    switch self {
    case .classify: .classify
    case .regress: .regress
    case .seq2seq: .seq2seq
    }
  }
}

extension JobPackage {
  /// What is wrong with the package by itself, if anything is.
  var fault: String? {
    if let fault = settings.fault { return fault }
    if name.isEmpty || name.utf8.count > JobPackageLimits.nameBytes {
      return "a name of \(name.utf8.count) bytes"
    }
    guard !training.isEmpty else { return "no training samples" }
    guard training.count <= LanePlan.maximumSamples else { return "\(training.count) training samples" }
    guard (1...JobPackageLimits.textTokens).contains(maximumLength) else {
      return "texts of \(maximumLength) tokens"
    }
    if case .full = technique {
      if parameters != nil { return "full fine-tuning starts from the weights" }
      if settings.gradientPrecision != .full {
        return "full fine-tuning has gradients in full precision alone"
      }
    } else {
      guard let parameters else { return "no values to start from" }
      guard parameters.allSatisfy(\.isFinite) else { return "values to start from that are no numbers" }
    }
    switch task {
    case .classify(let labels) where labels.count < 2: return "a classification of \(labels.count) labels"
    case .regress(let mean, let deviation) where !mean.isFinite || !deviation.isFinite || deviation <= 0:
      return "a regression without a scale"
    case .seq2seq(let most) where !(1...JobPackageLimits.textTokens).contains(most):
      return "texts to write of \(most) tokens"
    default: break
    }
    return techniqueFault
  }

  private var techniqueFault: String? {
    switch technique {
    case .parallel(let side) where side.reduction < 1: return "a reduction of \(side.reduction)"
    case .houlsby(let houlsby) where houlsby.reduction < 1: return "a reduction of \(houlsby.reduction)"
    case .lora(let lora) where lora.rank < 1 || lora.targets.isEmpty || !lora.alpha.isFinite:
      return "LoRA of rank \(lora.rank)"
    default: return nil
    }
  }

  /// What of the samples the backbone cannot compute, if anything: ids out of its tables, texts without an end.
  func fault(for architecture: BackboneArchitecture) -> String? {
    if let most = architecture.maximumLength, maximumLength > most {
      return "texts of \(maximumLength) tokens for a backbone of \(most) positions"
    }
    for (number, sample) in (training + heldOut).enumerated() {
      if let fault = fault(sample, architecture) { return "sample \(number + 1) has \(fault)" }
    }
    return nil
  }

  private func fault(_ sample: TrainingSample, _ architecture: BackboneArchitecture) -> String? {
    let ids = 0..<Int32(clamping: architecture.vocabulary)
    guard !sample.encoderIDs.isEmpty, sample.encoderIDs.count <= maximumLength,
      sample.encoderTypes.count == sample.encoderIDs.count
    else { return "\(sample.encoderIDs.count) tokens" }
    guard sample.encoderIDs.allSatisfy(ids.contains), sample.decoderIDs.allSatisfy(ids.contains) else {
      return "a token that the backbone does not know"
    }
    guard sample.decoderIDs.isEmpty == (architecture.decoderStartID == nil) else {
      return "\(sample.decoderIDs.count) decoder tokens"
    }
    switch (task, sample.target) {
    case (.classify(let labels), .label(let label)):
      return (0..<Int32(labels.count)).contains(label) ? nil : "a label of no name"
    case (.regress, .value(let value)): return value.isFinite ? nil : "a score that is no number"
    case (.seq2seq(let most), .tokens(let tokens)):
      return tokens.count == sample.decoderIDs.count && tokens.count <= most
        && tokens.allSatisfy(ids.contains)
        ? nil : "a text to write that does not fit"
    default: return "a target of another task"
    }
  }
}
