import ActivationCache
import CryptoPrimitives
import FineTuning
import HearthStorage
import LanguageModels
package import NeuralNetworks
import TensorKernels

/// Finds out what a path is: a model, an adapter, a run, a cache or a safetensors file.
package enum Inspector {
  private static let configurationName = "config.json"

  /// Looks at `path`, reading weights completely where a digest is told.
  ///
  /// - Throws: a `UserFacingFailure` when there is nothing, nothing that Hearth knows, or something damaged.
  package static func inspect(_ path: String, precision: WeightPrecision? = nil) throws -> Inspection {
    if path.hasSuffix(".safetensors") {
      try RunPreflight.checkInputFile(path, role: "path")
      return try tensors(path)
    }
    try RunPreflight.checkInputDirectory(path, role: "path")
    let names = try directoryNames(path)
    // A finished run's directory holds its record beside the adapter; the adapter is what it is for.
    if names.contains(AdapterDescription.fileName) { return try adapter(path) }
    if names.contains(RunDirectory.recordName) { return try run(path) }
    if names.contains(CacheFormat.manifestName) { return try cache(path) }
    if names.contains(configurationName) { return try model(path, precision: precision) }
    throw RunFailure.badInput(
      role: "path", path: path,
      detail: "is no model (\(configurationName)), adapter (\(AdapterDescription.fileName)), "
        + "run (\(RunDirectory.recordName)), cache (\(CacheFormat.manifestName)) or safetensors file")
  }

  private static func tensors(_ path: String) throws -> Inspection {
    let region = try MappedFile(path)
    let file = try SafetensorsFile(region: region)
    let checkpoint = try Checkpoint(region: region)
    let metadata = file.metadata.sorted { $0.key < $1.key }.map {
      Inspection.Value.text("\($0.key)=\($0.value)")
    }
    return Inspection(
      kind: .tensors, path: path,
      facts: weightFacts(checkpoint) + [
        Inspection.Fact("digest", .text(checkpoint.digest.description)),
        Inspection.Fact("metadata", .list(metadata)),
        Inspection.Fact(
          "tensors", .list(file.tensors.map { .text("\($0.name) \($0.element.rawValue) \($0.shape)") })),
      ])
  }

  private static func model(_ path: String, precision: WeightPrecision?) throws -> Inspection {
    let files = ModelFolder(path)
    let loaded = try ModelDirectory.load(files)
    var facts = shapeFacts(loaded.configuration)
    facts += weightFacts(loaded.checkpoint)
    facts.append(Inspection.Fact("digest", .text(loaded.checkpoint.digest.description)))
    facts.append(Inspection.Fact("tokenizer_entries", .number(loaded.tokenizer.vocabularySize)))
    facts.append(Inspection.Fact("tokenizer_digest", .text(loaded.tokenizer.digest.description)))
    if let precision { facts += try weightFacts(path, precision: precision) }
    return Inspection(kind: .model, path: path, facts: facts)
  }

  /// What the backbone is in another precision: it is converted to find out.
  private static func weightFacts(_ path: String, precision: WeightPrecision) throws -> [Inspection.Fact] {
    let model = try OpenedModel(directory: path, weights: .deciding(precision))
    var facts = [
      Inspection.Fact("precision", .text(precision.rawValue)),
      Inspection.Fact("backbone_bytes_in_memory", .bytes(model.byteCount)),
      Inspection.Fact("backbone_digest_in_this_precision", .text(model.digest.description)),
    ]
    guard let report = model.weightReport else { return facts }
    facts += [
      Inspection.Fact("matrices", .number(report.matrices)),
      Inspection.Fact("float32_matrices", .list(report.float32Matrices.map { .text($0) })),
      Inspection.Fact("float32_input_columns", .number(report.float32Columns)),
    ]
    if let error = report.largestError {
      facts.append(Inspection.Fact("largest_relative_error", .real(error)))
    }
    return facts
  }

  private static func shapeFacts(_ configuration: ModelConfiguration) -> [Inspection.Fact] {
    switch configuration {
    case .bert(let bert):
      [
        Inspection.Fact("architecture", .text("BERT encoder")),
        Inspection.Fact("layers", .number(bert.layers)),
        Inspection.Fact("width", .number(bert.width)),
        Inspection.Fact("heads", .number(bert.heads)),
        Inspection.Fact("hidden_width", .number(bert.hidden)),
        Inspection.Fact("taps", .number(bert.layers + 1)),
        Inspection.Fact("vocabulary", .number(bert.vocabulary)),
        Inspection.Fact("longest_text_tokens", .number(bert.positions)),
      ]
    case .t5(let t5):
      [
        Inspection.Fact(
          "architecture", .text(t5.isGated ? "T5 v1.1 encoder-decoder" : "T5 v1.0 encoder-decoder")),
        Inspection.Fact("encoder_layers", .number(t5.encoderLayers)),
        Inspection.Fact("decoder_layers", .number(t5.decoderLayers)),
        Inspection.Fact("width", .number(t5.width)),
        Inspection.Fact("heads", .number(t5.heads)),
        Inspection.Fact("hidden_width", .number(t5.hidden)),
        Inspection.Fact("encoder_taps", .number(t5.encoderLayers + 1)),
        Inspection.Fact("decoder_taps", .number(t5.decoderLayers + 1)),
        Inspection.Fact("vocabulary", .number(t5.vocabulary)),
      ]
    case .bart(let bart):
      [
        Inspection.Fact("architecture", .text("BART encoder-decoder")),
        Inspection.Fact("encoder_layers", .number(bart.encoder.layers)),
        Inspection.Fact("decoder_layers", .number(bart.decoder.layers)),
        Inspection.Fact("width", .number(bart.width)),
        Inspection.Fact("encoder_heads", .number(bart.encoder.heads)),
        Inspection.Fact("decoder_heads", .number(bart.decoder.heads)),
        Inspection.Fact("encoder_hidden_width", .number(bart.encoder.hidden)),
        Inspection.Fact("decoder_hidden_width", .number(bart.decoder.hidden)),
        Inspection.Fact("encoder_taps", .number(bart.encoder.layers + 1)),
        Inspection.Fact("decoder_taps", .number(bart.decoder.layers + 1)),
        Inspection.Fact("vocabulary", .number(bart.vocabulary)),
        Inspection.Fact("longest_text_tokens", .number(bart.positions)),
      ]
    }
  }

  private static func weightFacts(_ checkpoint: Checkpoint) -> [Inspection.Fact] {
    let entries = checkpoint.names.compactMap { checkpoint.entry($0) }
    let elements = TensorElement.allCases.compactMap { element -> Inspection.Value? in
      let count = entries.count { $0.element == element }
      return count > 0 ? .text("\(element.rawValue) in \(count)") : nil
    }
    return [
      Inspection.Fact("parameters", .number(checkpoint.parameterCount)),
      Inspection.Fact("bytes", .bytes(checkpoint.byteCount)),
      Inspection.Fact("tensor_count", .number(entries.count)),
      Inspection.Fact("element_types", .list(elements)),
    ]
  }

  private static func adapter(_ path: String) throws -> Inspection {
    let description = try AdapterDirectory.description(path)
    let file = path + "/" + AdapterDescription.tensorsFileName
    let checkpoint = try Checkpoint(region: MappedFile(file))
    guard checkpoint.digest.description == description.adapterDigest else {
      throw AdapterFailure.damaged(
        path: file, expected: description.adapterDigest, found: checkpoint.digest.description)
    }
    var facts = [Inspection.Fact("technique", .text(description.technique.name))]
    facts += settingsFacts(description.technique)
    switch description.task {
    case .classify(let labels):
      facts.append(Inspection.Fact("task", .text("classify")))
      facts.append(Inspection.Fact("labels", .list(labels.map { .text($0) })))
    case .regress(let mean, let deviation):
      facts.append(Inspection.Fact("task", .text("regress")))
      facts.append(Inspection.Fact("target_mean", .real(mean)))
      facts.append(Inspection.Fact("target_deviation", .real(deviation)))
    case .seq2seq(let length):
      facts.append(Inspection.Fact("task", .text("seq2seq")))
      facts.append(Inspection.Fact("longest_target_tokens", .number(length)))
    }
    facts += weightFacts(checkpoint)
    if let element = description.activationElement {
      facts.append(Inspection.Fact("activation_element", .text(element)))
    }
    if let precision = description.gradientPrecision {
      facts.append(Inspection.Fact("gradient_precision", .text(precision.rawValue)))
    }
    if let weights = description.weights {
      facts += [
        Inspection.Fact("precision", .text(weights.precision.rawValue)),
        Inspection.Fact("float32_matrices", .list(weights.float32Matrices.map { .text($0) })),
        Inspection.Fact(
          "float32_input_columns", .number(weights.float32Columns.reduce(0) { $0 + $1.columns.count })),
      ]
    }
    facts += [
      Inspection.Fact("digest", .text(description.adapterDigest)),
      Inspection.Fact("longest_text_tokens", .number(description.maximumLength)),
      Inspection.Fact("backbone", .text(description.backboneName)),
      Inspection.Fact("backbone_digest", .text(description.backboneDigest)),
      Inspection.Fact("tokenizer_digest", .text(description.tokenizerDigest)),
      Inspection.Fact("model_directory", .text(description.modelDirectory)),
      Inspection.Fact("model_is_there", .flag(isModel(description.modelDirectory))),
    ]
    return Inspection(kind: .adapter, path: path, facts: facts)
  }

  private static func settingsFacts(_ technique: TechniqueConfiguration) -> [Inspection.Fact] {
    switch technique {
    case .parallel(let settings):
      [
        Inspection.Fact("preset", .text(settings.preset.rawValue)),
        Inspection.Fact("reduction", .number(settings.reduction)),
        Inspection.Fact("output", .text(settings.output.rawValue)),
        Inspection.Fact("gates", .flag(settings.gates)),
        Inspection.Fact("pooling", .text((settings.pooling ?? .tokens).rawValue)),
      ]
        + (settings.layers.map { [Inspection.Fact("tapped_layers", .list($0.map { .number($0) }))] } ?? [])
    case .full(let settings): [Inspection.Fact("dropout", .real(Double(settings.dropout)))]
    case .houlsby(let settings):
      [
        Inspection.Fact("reduction", .number(settings.reduction)),
        Inspection.Fact("dropout", .real(Double(settings.dropout))),
      ]
    case .lora(let settings):
      [
        Inspection.Fact("rank", .number(settings.rank)),
        Inspection.Fact("alpha", .real(Double(settings.alpha))),
        Inspection.Fact("targets", .list(settings.targets.map { .text($0.rawValue) })),
        Inspection.Fact("dropout", .real(Double(settings.dropout))),
      ]
    }
  }

  private static func isModel(_ path: String) -> Bool {
    (try? RunPreflight.checkModelDirectory(path)) != nil
  }

  private static func run(_ path: String) throws -> Inspection {
    let directory = RunDirectory(path)
    let request = try directory.record()
    let state = try directory.state()
    var facts = [
      Inspection.Fact("task", .text(request.task.rawValue)),
      Inspection.Fact("technique", .text(request.technique.rawValue)),
      Inspection.Fact("preset", .text(request.preset.rawValue)),
      Inspection.Fact("model_directory", .text(request.modelDirectory)),
      Inspection.Fact("data_file", .text(request.dataFile)),
      Inspection.Fact("epochs", .number(request.epochs)),
      Inspection.Fact("finished_epochs", .number(state?.position.epoch ?? 0)),
      Inspection.Fact("finished_steps", .number(state?.position.optimizerStep ?? 0)),
      Inspection.Fact("batch", .number(request.batch)),
      Inspection.Fact("cache", .text(request.cache.rawValue)),
      Inspection.Fact("seed", .text(String(request.seed))),
    ]
    if let state { facts.append(Inspection.Fact("backbone_digest", .text(state.position.backboneDigest))) }
    facts.append(Inspection.Fact("go_on_with", .text("hearth train --resume \(path)")))
    return Inspection(kind: .run, path: path, facts: facts)
  }

  private static func cache(_ path: String) throws -> Inspection {
    let storage = try DirectoryShardStorage(existing: path)
    guard let manifest = try CacheManifest.read(from: storage) else {
      throw RunFailure.badInput(role: "path", path: path, detail: "its manifest is gone; remove the cache")
    }
    let identity = manifest.identity
    let stacks = identity.stacks.map { stack in
      Inspection.Value.text("\(stack.name): \(stack.taps.count) taps of width \(stack.width)")
    }
    return Inspection(
      kind: .cache, path: path,
      facts: [
        Inspection.Fact("samples", .number(manifest.entries)),
        Inspection.Fact("bytes", .bytes(manifest.bytes)),
        Inspection.Fact("shards", .number(manifest.shards.count)),
        Inspection.Fact("element", .text(identity.element.rawValue)),
        Inspection.Fact("stacks", .list(stacks)),
        Inspection.Fact("longest_text_tokens", .number(identity.maximumLength)),
        Inspection.Fact("digest", .text(identity.digest.description)),
        Inspection.Fact("backbone_digest", .text(identity.backboneDigest.description)),
        Inspection.Fact("tokenizer_digest", .text(identity.tokenizerDigest.description)),
      ])
  }
}
