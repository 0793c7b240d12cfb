package import TensorKernels

extension TransformerBlock {
  /// Computes the gradients of the input, the encoder's states and all trainable leaves.
  ///
  /// Must follow a training `forward` of the same rows, whose `input` and `activations` are unchanged.
  ///
  /// - Parameters:
  ///   - gradient: [tokens × width]; on entry of the output, on return of the input (meaningless on return
  ///     when `needsInputGradient` is false).
  ///   - biasGradient: in the layout of `bias`; the gradient is added. Nil when the biases are frozen.
  ///   - encoderGradient: [encoder tokens × width]; the gradient is added. Nil when nothing needs it.
  ///   - sink: receives each trainable leaf's gradient once.
  ///   - needsInputGradient: false when nothing below the block is trainable: the backward then ends at the
  ///     lowest trainable leaf.
  ///   - dropout: what the forward dropped.
  package func backward(
    _ gradient: Matrix, input: Matrix, sequences: PackedSequences, bias: PositionBias?,
    biasGradient: UnsafeMutablePointer<Float>?, encoder: EncoderStates?, encoderGradient: Matrix?,
    activations: BlockActivations, scratch: BlockScratch, arena: Arena, sink: any GradientSink,
    needsInputGradient: Bool = true, dropout: BlockDropout? = nil
  ) {
    guard activations.isTraining, let temporary = scratch.gradient else {
      preconditionFailure("a backward needs buffers that were reserved for training")
    }
    precondition(
      gradient.rows == input.rows && gradient.columns == configuration.width
        && input.columns == configuration.width && sequences.tokens == input.rows,
      "a gradient of \(gradient.rows) x \(gradient.columns) for \(input.rows) x \(input.columns) rows")
    let workspace = Workspace(
      rows: input.rows, configuration: configuration, activations: activations, scratch: scratch,
      arena: arena, sequences: sequences, dropout: dropout)
    let pass = BackwardPass(
      workspace: workspace, temporary: temporary, parameter: arena.base + temporary.parameter, sink: sink)

    let afterSelf = workspace.stream(activations.selfAttention, else: input)
    let afterAttention = activations.crossAttention.map { workspace.stream($0, else: input) } ?? afterSelf
    let attentions = [parameters.selfAttention, parameters.crossAttention].compactMap { $0 }
    guard
      backwardFeedForward(
        gradient, input: afterAttention,
        needsInputGradient: needsInputGradient || encoderGradient != nil || biasGradient != nil
          || attentions.contains { $0.isTrainable }, pass)
    else { return }
    if let encoder, let saved = activations.crossAttention {
      backwardCrossAttention(
        gradient, input: afterSelf, sequences: sequences, encoder: encoder,
        encoderGradient: encoderGradient, saved, pass)
    }
    backwardSelfAttention(
      gradient, input: input, sequences: sequences, bias: bias, biasGradient: biasGradient,
      needsInputGradient: needsInputGradient, pass)
  }

  /// Returns false when nothing is needed below.
  private func backwardFeedForward(
    _ gradient: Matrix, input: Matrix, needsInputGradient: Bool, _ pass: BackwardPass
  ) -> Bool {
    let saved = pass.workspace.activations.feedForward
    let feedForward = parameters.feedForward
    let norm = feedForward.norm
    backwardNormAfter(gradient, norm, residual: saved.residual, statistics: saved.statistics, pass)
    let normIsTrainable = configuration.placement == .pre && norm.isTrainable
    let needsHidden = needsInputGradient || normIsTrainable || hiddenProjection.isTrainable
    let branch = branchGradient(
      gradient, feedForward.bottleneck, saved.branch, site: .feedForward,
      needsInputGradient: needsHidden || feedForward.down.isTrainable, pass)
    guard needsHidden || feedForward.down.isTrainable else { return false }
    let needsRows = saved.hidden == nil || hiddenProjection.isTrainable
    let rows = needsRows ? subLayerInput(input, norm, pass) : input

    let width = hiddenProjection.outputs
    let hidden = pass.workspace.hiddenMatrix(rows: pass.workspace.rows)
    let hiddenGradient = pass.matrix(pass.temporary.hidden, configuration.hidden)
    let keepsHidden = saved.hidden != nil
    let keepsActivated = keepsHidden && configuration.keepsActivated
    let before =
      keepsActivated
      ? hidden
      : pass.workspace.keptBefore.map { pass.workspace.matrix($0, columns: width) }
        ?? preActivation(rows, pass.workspace)
    let beforeGradient = pass.matrix(pass.temporary.preActivation, width)
    let dropout = pass.workspace.dropout
    let downDropout = pass.workspace.lowRank(.down)
    feedForward.down.inputGradient(branch, into: hiddenGradient, accumulate: false, dropout: downDropout)
    pass.workspace.drop(dropout?.hidden, hiddenGradient, site: .hidden)
    if configuration.gated {
      let half = configuration.hidden
      let (gate, linear) = (before.columnRange(0, count: half), before.columnRange(half, count: half))
      gatedActivationBackward(
        configuration.activation, gate: gate, linear: linear, gradient: hiddenGradient,
        gateGradient: beforeGradient.columnRange(0, count: half),
        linearGradient: beforeGradient.columnRange(half, count: half))
    } else {
      activationBackward(
        configuration.activation, input: before, gradient: hiddenGradient, into: beforeGradient)
    }
    if feedForward.down.isTrainable {
      if !keepsActivated {
        activate(before, into: hidden)
        pass.workspace.drop(dropout?.hidden, hidden, site: .hidden)
      }
      feedForward.down.parameterGradients(
        branch, hidden, scratch: pass.parameter, sink: pass.sink, dropout: downDropout)
    }
    let hiddenDropout = pass.workspace.lowRank(hiddenSites)
    hiddenProjection.parameterGradients(
      beforeGradient, rows, scratch: pass.parameter, sink: pass.sink, dropout: hiddenDropout)
    guard needsInputGradient || normIsTrainable else { return false }
    backwardInput(
      beforeGradient, through: hiddenProjection, gradient, input: input, norm, statistics: saved.statistics,
      dropout: hiddenDropout, pass)
    return needsInputGradient
  }

  /// The gradient of what a sub-layer computed aside, before its bottleneck and its dropout.
  private func branchGradient(
    _ gradient: Matrix, _ bottleneck: BottleneckParameters?, _ saved: Int?, site: DropoutSite,
    needsInputGradient: Bool, _ pass: BackwardPass
  ) -> Matrix {
    let dropout = pass.workspace.dropout
    guard bottleneck != nil || dropout?.residual != nil else { return gradient }
    // The gradient of the normalised rows comes later, and from this one.
    let branch = pass.matrix(pass.temporary.normed, configuration.width)
    if let dropout, let residual = dropout.residual {
      residual.apply(
        gradient, into: branch, sequences: pass.workspace.sequences, layer: dropout.layer, site: site)
    } else {
      copyRows(gradient, into: branch)
    }
    if let bottleneck {
      guard let saved else { preconditionFailure("a backward needs the rows that the bottleneck read") }
      bottleneck.backward(
        input: pass.matrix(saved, configuration.width), gradient: branch,
        needsInputGradient: needsInputGradient, scratch: pass.parameter, sink: pass.sink)
    }
    return branch
  }

  private func backwardCrossAttention(
    _ gradient: Matrix, input: Matrix, sequences: PackedSequences, encoder: EncoderStates,
    encoderGradient: Matrix?, _ saved: AttentionActivations, _ pass: BackwardPass
  ) {
    guard let attention = parameters.crossAttention, let queryProjection, let encoderProjection else {
      return
    }
    let inner = configuration.inner
    backwardNormAfter(
      gradient, attention.norm, residual: saved.residual, statistics: saved.statistics, pass)
    let rows = subLayerInput(input, attention.norm, pass)
    let context = pass.matrix(saved.context, inner)
    let contextGradient = pass.matrix(pass.temporary.context, inner)
    let branch = branchGradient(
      gradient, attention.bottleneck, saved.branch, site: .crossAttention, needsInputGradient: true, pass)
    let outputDropout = pass.workspace.lowRank(.crossOutput)
    attention.output.inputGradient(branch, into: contextGradient, accumulate: false, dropout: outputDropout)
    attention.output.parameterGradients(
      branch, context, scratch: pass.parameter, sink: pass.sink, dropout: outputDropout)

    let query = pass.matrix(saved.projected, inner)
    let queryGradient = pass.matrix(pass.temporary.projected, inner)
    if let absorbed = pass.workspace.scratch.absorbed, isAbsorbed(sequences, encoder, pass.workspace.dropout)
    {
      AbsorbedCrossAttention.with(configuration, attention) {
        $0.backward(
          query, gradient: contextGradient, queries: sequences, encoder: encoder,
          queryGradient: queryGradient, encoderGradient: encoderGradient, absorbed, pass.workspace.arena,
          parameter: pass.parameter, sink: pass.sink)
      }
    } else {
      backwardProjected(
        encoderProjection, query, context, contextGradient, queryGradient, sequences: sequences,
        encoder: encoder, encoderGradient: encoderGradient, saved, pass)
    }
    let queryDropout = pass.workspace.lowRank([.crossQuery])
    queryProjection.parameterGradients(
      queryGradient, rows, scratch: pass.parameter, sink: pass.sink, dropout: queryDropout)
    backwardInput(
      queryGradient, through: queryProjection, gradient, input: input, attention.norm,
      statistics: saved.statistics, dropout: queryDropout, pass)
  }

  /// Cross-attention over keys and values of every encoder row, which are projected again.
  private func backwardProjected(
    _ projection: LinearGroup, _ query: Matrix, _ context: Matrix, _ contextGradient: Matrix,
    _ queryGradient: Matrix, sequences: PackedSequences, encoder: EncoderStates, encoderGradient: Matrix?,
    _ saved: AttentionActivations, _ pass: BackwardPass
  ) {
    let inner = configuration.inner
    let projected = pass.workspace.encoderMatrix(
      pass.workspace.scratch.encoderProjected, encoder.rows.rows)
    let dropout = pass.workspace.lowRank(Self.encoderSites, sequences: encoder.sequences)
    projection.forward(encoder.rows, into: projected, dropout: dropout)
    let projectedGradient = pass.workspace.encoderMatrix(
      pass.temporary.encoderProjected, encoder.rows.rows)
    pass.workspace.dropping(.crossProbabilities) {
      attentionBackward(
        attentionShape(causal: false), q: query, k: projected.columnRange(0, count: inner),
        v: projected.columnRange(inner, count: inner), out: context,
        logSumExp: pass.saved(saved.logSumExp), gradient: contextGradient, queries: sequences,
        keys: encoder.sequences, bias: nil, dropout: $0, dq: queryGradient,
        dk: projectedGradient.columnRange(0, count: inner),
        dv: projectedGradient.columnRange(inner, count: inner), biasGradient: nil)
    }
    projection.parameterGradients(
      projectedGradient, encoder.rows, scratch: pass.parameter, sink: pass.sink, dropout: dropout)
    if let encoderGradient {
      projection.inputGradient(
        projectedGradient, into: encoderGradient, accumulate: true, dropout: dropout)
    }
  }

  private func backwardSelfAttention(
    _ gradient: Matrix, input: Matrix, sequences: PackedSequences, bias: PositionBias?,
    biasGradient: UnsafeMutablePointer<Float>?, needsInputGradient: Bool, _ pass: BackwardPass
  ) {
    let saved = pass.workspace.activations.selfAttention
    let attention = parameters.selfAttention
    let inner = configuration.inner
    guard needsInputGradient || biasGradient != nil || attention.isTrainable else { return }
    backwardNormAfter(
      gradient, attention.norm, residual: saved.residual, statistics: saved.statistics, pass)
    let needsContext =
      needsInputGradient || biasGradient != nil || attention.isTrainable(placement: configuration.placement)
    let branch = branchGradient(
      gradient, attention.bottleneck, saved.branch, site: .selfAttention,
      needsInputGradient: needsContext || attention.output.isTrainable, pass)
    let context = pass.matrix(saved.context, inner)
    let contextGradient = pass.matrix(pass.temporary.context, inner)
    let outputDropout = pass.workspace.lowRank(.selfOutput)
    attention.output.parameterGradients(
      branch, context, scratch: pass.parameter, sink: pass.sink, dropout: outputDropout)
    guard needsContext else { return }
    let rows = subLayerInput(input, attention.norm, pass)
    attention.output.inputGradient(branch, into: contextGradient, accumulate: false, dropout: outputDropout)

    let (query, key, value) = split(pass.matrix(saved.projected, 3 * inner))
    let projectedGradient = pass.matrix(pass.temporary.projected, 3 * inner)
    let (queryGradient, keyGradient, valueGradient) = split(projectedGradient)
    pass.workspace.dropping(.selfProbabilities) {
      attentionBackward(
        attentionShape(causal: configuration.causal), q: query, k: key, v: value, out: context,
        logSumExp: pass.saved(saved.logSumExp), gradient: contextGradient, queries: sequences,
        keys: sequences, bias: bias, dropout: $0, dq: queryGradient, dk: keyGradient, dv: valueGradient,
        biasGradient: biasGradient)
    }
    let dropout = pass.workspace.lowRank(Self.selfSites)
    selfProjection.parameterGradients(
      projectedGradient, rows, scratch: pass.parameter, sink: pass.sink, dropout: dropout)
    let normIsTrainable = configuration.placement == .pre && attention.norm.isTrainable
    guard needsInputGradient || normIsTrainable else { return }
    backwardInput(
      projectedGradient, through: selfProjection, gradient, input: input, attention.norm,
      statistics: saved.statistics, dropout: dropout, pass)
  }

  /// With norms after: turns the gradient of the normalised sum into that of the sum, in place.
  private func backwardNormAfter(
    _ gradient: Matrix, _ norm: NormParameters, residual: Int?, statistics: Int?, _ pass: BackwardPass
  ) {
    guard configuration.placement == .post, let residual else { return }
    norm.backward(
      input: pass.matrix(residual, configuration.width), statistics: pass.saved(statistics),
      gradient: gradient, into: gradient, accumulate: false, scratch: pass.parameter, sink: pass.sink)
  }

  /// What the sub-layer's forward read; with norms before it is computed again rather than kept.
  private func subLayerInput(_ input: Matrix, _ norm: NormParameters, _ pass: BackwardPass) -> Matrix {
    guard configuration.placement == .pre else { return input }
    let normed = pass.matrix(pass.workspace.scratch.normed, configuration.width)
    norm.forward(input, into: normed, statistics: nil)
    return normed
  }

  /// Adds the gradient that comes through a sub-layer's first layers to that of the residual stream.
  private func backwardInput(
    _ projectedGradient: Matrix, through projection: LinearGroup, _ gradient: Matrix, input: Matrix,
    _ norm: NormParameters, statistics: Int?, dropout: GroupDropout?, _ pass: BackwardPass
  ) {
    guard configuration.placement == .pre else {
      projection.inputGradient(projectedGradient, into: gradient, accumulate: true, dropout: dropout)
      return
    }
    let normedGradient = pass.matrix(pass.temporary.normed, configuration.width)
    projection.inputGradient(projectedGradient, into: normedGradient, accumulate: false, dropout: dropout)
    norm.backward(
      input: input, statistics: pass.saved(statistics), gradient: normedGradient, into: gradient,
      accumulate: true, scratch: pass.parameter, sink: pass.sink)
  }
}

/// What every step of one backward uses.
private struct BackwardPass {
  let workspace: Workspace
  let temporary: GradientScratch
  let parameter: UnsafeMutablePointer<Float>
  let sink: any GradientSink

  func matrix(_ offset: Int, _ columns: Int) -> Matrix {
    workspace.matrix(offset, columns: columns)
  }

  func saved(_ offset: Int?) -> UnsafePointer<Float> {
    guard let offset else { preconditionFailure("a backward needs statistics that only training keeps") }
    return UnsafePointer(workspace.arena.base + offset)
  }
}
