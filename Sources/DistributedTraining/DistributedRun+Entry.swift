import ActivationCache
import Collectives
import FineTuning
import NeuralNetworks
import ParallelPlanner

/// How a run begins where the job is.
extension DistributedRun {
  /// Exchanges what the devices have; nil on a device without a role that is left out.
  func enter() throws -> EntryHandover.Outcome? {
    let stages = try stageSelections()
    let exchange = EntryHandover(
      context: context, roles: roles, units: units, leaves: leaves, kept: technique.taps)
    let before = context.links.bytes.reduce(0) { $0 + $1.received }
    guard let outcome = try exchange.run(states.all, needs: { needs($0, stages) }) else { return nil }
    if let state = outcome.state {
      states.take(state)
      state.write(values: result.parameters)
    }
    let handover = outcome.handover
    let place = context.place
    context.report(
      .handover(
        RunHandover(
          start: handover.start, bytes: Int(context.links.bytes.reduce(0) { $0 + $1.received } - before),
          unitsFetched: handover.units.filter { $0.to == place }.reduce(0) { $0 + $1.units.count },
          unitsToCompute: handover.missing(computedBy: place) {
            units.computers($0, context.division)
          }.count)))
    return outcome
  }

  /// The part of the flat vector that each stage has to do with.
  private func stageSelections() throws -> [VectorSelection] {
    guard context.division.isPipeline, let stageLeaves = technique.leaves else {
      return Array(repeating: leaves, count: context.division.stages)
    }
    let tree = result.parameters
    return try plan.stages.map { stage in
      let leaves = try stageLeaves(tree, stage.layers)
      return VectorSelection(union: DeviceReduction.ranges(tree, leaves.own + leaves.shared))
    }
  }

  /// What every device needs to go on after `start` steps.
  private func needs(_ start: Int, _ stages: [VectorSelection]) -> [HandoverNeed] {
    let division = context.division
    let stepsPerEpoch = context.job.lanePlan.stepsPerEpoch
    let trainsFirst = plan.mode == .live || plan.mode == .hybrid && start < stepsPerEpoch
    var needs = [HandoverNeed](
      repeating: HandoverNeed(selection: VectorSelection([]), units: UnitSet(count: units.count)),
      count: roles.roles.count)
    if trainsFirst {
      for stage in 0..<division.stages {
        for device in division.members(stage: stage) { needs[device].selection = stages[stage] }
      }
    } else {
      for device in division.cachedDevices { needs[device].selection = leaves }
    }
    // In the first epoch a step makes the activations of its own units, and the first evaluation those held out.
    guard plan.mode != .live, !trainsFirst || start > 0 else { return needs }
    for (number, place) in units.places.enumerated() {
      if trainsFirst, case .training(_, let miniBatch) = place, miniBatch >= start { continue }
      needs[units.owner(number, division)].units.insert(number)
    }
    return needs
  }

  /// Gives a phase the state that was agreed on, and makes sure that replicas agree.
  func establish(_ phase: any TrainingPhase, _ start: EntryHandover.Outcome) throws {
    if let state = start.state {
      try state.restore(phase.trainer)
    } else if let head = start.head {
      try phase.trainer.restore(step: head.step, exponents: head.exponents)
    }
    let head =
      start.head
      ?? StateHead(step: 0, exponents: phase.trainer.exponents, lossSum: 0, lossUnits: 0)
    states.begin(phase.trainer, phase.selection, head, keepsUndo: phase is StagedUnits)
    guard head.step > 0 else { return }
    try phase.compareReplicas()
    try gather(phase, after: head.step, start: head.step)
  }

  /// Tells devices without a part in the first phase that it is over, or hears it.
  ///
  /// - Parameter stop: the step after which all devices stop; nil when it was trained to its end.
  func agreeOnEnd(_ stop: Int?) throws(DistributedRunFailure) -> Int? {
    let division = context.division
    let stageDevices = Set(division.stageDevices)
    let speaker = division.members(stage: 0)[0]
    let tag = StateMessage.firstPhaseEnded.tag()
    if context.place == speaker {
      var writer = MessageWriter()
      writer.word(stop == nil ? 0 : 1)
      writer.long(UInt64(stop ?? 0))
      for device in division.cachedDevices where !stageDevices.contains(device) {
        try context.links.send(writer.bytes, tag, to: device)
      }
    }
    guard !stageDevices.contains(context.place) else { return stop }
    var reader = MessageReader(
      try context.links.receive(tag, from: speaker, .taps), from: speaker, "the end of the first epoch")
    let isStopped = try reader.count(atMost: 1) == 1
    let step = try reader.number(atMost: context.job.totalSteps)
    try reader.finish()
    return isStopped ? step : nil
  }

  // MARK: Gathering

  /// Brings the state of every stage to the devices of the others, so that a stage that is lost is not lost for long.
  func gather(_ phase: any TrainingPhase, after step: Int, start: Int) throws {
    guard let staged = phase as? StagedUnits, boundary.gathers(after: step, start: start),
      let head = states.head, step < context.job.totalSteps
    else { return }
    let tree = result.parameters
    let parts = (0..<context.division.stages).map {
      VectorSelection(DeviceReduction.ranges(tree, DeviceReduction.counted(by: $0, staged.leaves)))
    }
    var wanted = staged.selection.ranges
    for stage in parts.indices where keepers(of: stage).contains(context.place) {
      wanted += parts[stage].ranges
    }
    var state = TrainingState(head, zeroed: VectorSelection(union: wanted))
    state.fill(from: TrainingState(staged.trainer, staged.selection, head))
    for stage in parts.indices {
      let members = context.division.members(stage: stage)
      for (number, device) in keepers(of: stage).enumerated() {
        let speaker = members[number % members.count]
        guard context.place == speaker || context.place == device else { continue }
        for piece in HandoverGiver.pieces(parts[stage].ranges) {
          if context.place == speaker {
            try context.links.send(
              state.message(piece), StateMessage.gathered.tag(unit: stage), to: device)
          } else {
            let message = try context.links.receive(
              StateMessage.gathered.tag(unit: stage), from: speaker, .parameters)
            var reader = MessageReader(message, from: speaker, "the state of a stage")
            try state.fill(piece, from: &reader)
            try reader.finish()
          }
        }
      }
    }
    states.gather(state)
    if let checkpoints, checkpoints.isDue(bytes: stateBytes) { checkpoints.take(state) }
  }

  /// The devices that keep a copy of a stage's state: all of the other stages, or one of the next when it is large.
  private func keepers(of stage: Int) -> [Int] {
    let division = context.division
    if boundary.gathersWhole {
      return division.stageDevices.filter { !division.members(stage: stage).contains($0) }
    }
    return [division.members(stage: (stage + 1) % division.stages)[0]]
  }

  /// Writes the state at hand to the disk now and then; a pipeline writes what it gathers.
  func checkpointIfDue() {
    if case .pipeline = first { return }
    // Everybody has the initial values.
    guard let step = states.head?.step, step > 0 else { return }
    guard let checkpoints, checkpoints.isDue(bytes: stateBytes), let state = states.current else {
      return
    }
    checkpoints.take(state)
  }
}
