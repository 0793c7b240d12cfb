import ActivationCache
import ComputeRuntime
import CryptoPrimitives
import FineTuning
import HearthStorage
import LanguageModels
import NeuralNetworks
import Synchronization
import TensorKernels

/// Measures the parts of a model under a technique on this device: the code that trains, on all threads at once.
///
/// Models of one block a stack, and of some more, train the same units. A block's time and that of everything else follow from
/// all of them (`PartFit`); embeddings and head share the latter by their operations.
struct PartProbe {
  /// Blocks more than one of the larger models: a decoder's block is short where it reads one token.
  private static let moreEncoder = 1
  private static let moreDecoder = 3
  /// Least and most rounds over all models, and the time after which no further one begins.
  private static let leastRounds = 3
  private static let mostRounds = 9
  private static let roundsTime = 2.5
  /// A measurement repeats its work until it has taken this long.
  private static let leastTime = 0.01

  private let shape: JobShape
  private let architecture: BackboneArchitecture
  private let team: ComputeTeam
  private let clock = WorkClock()
  private let directory: String
  /// Bytes that the update may be measured with.
  private let memory: Int

  /// A probe on `threads` threads; `directory` takes a cache for a moment.
  init(_ shape: JobShape, threads: Int, directory: String, memory: Int) throws {
    self.shape = shape
    architecture = try shape.architecture()
    team = ComputeTeam(width: threads)
    self.directory = directory
    self.memory = memory
  }

  /// Measures everything.
  func measure() throws -> PartTimings {
    let text = try ConfigurationText(shape.configuration)
    let hasDecoder = architecture.stacks.count > 1
    let sizes =
      hasDecoder
      ? [[1, 1], [1 + Self.moreEncoder, 1], [1, 1 + Self.moreDecoder]] : [[1], [1 + Self.moreDecoder]]
    let largest = (sizes.map { $0[0] }.max() ?? 1, sizes.compactMap { $0.dropFirst().first }.max() ?? 1)
    let checkpoint = try ProbeModel.checkpoint(
      text.with(encoderLayers: largest.0, decoderLayers: largest.1).configuration(), head: shape.head)
    let measured = try sizes.map { size in
      let configuration = try text.with(
        encoderLayers: size[0], decoderLayers: size.count > 1 ? size[1] : 1
      ).configuration()
      return try MeasuredModel(
        ProbeModel(configuration, checkpoint), shape, technique: measuredTechnique, team: team, clock: clock)
    }
    let start = MonotonicClock.seconds()
    for round in 0..<Self.mostRounds {
      if round >= Self.leastRounds, MonotonicClock.seconds() - start > Self.roundsTime { break }
      for model in measured { try model.measure(leastTime: Self.leastTime) }
    }
    return try timings(measured.map(\.totals), sizes: sizes)
  }

  /// The job's technique with a side block beside every block: which ones the job keeps is counted by layer.
  private var measuredTechnique: TechniqueConfiguration {
    guard case .parallel(var parallel) = shape.technique else { return shape.technique }
    parallel.layers = nil
    return .parallel(parallel)
  }

  private func timings(_ totals: [PartTimes], sizes: [[Int]]) throws -> PartTimings {
    let shares = try operationShares()
    let fitted = PartTimes.fit(totals, sizes: sizes, shares: shares.blocks)
    let rest = fitted.rest
    var blocks = fitted.blocks
    // On a machine that is busy with other things a block may come out as nothing: it takes no less than a quarter of
    // what its operations are of the smallest model's.
    for place in blocks.indices {
      blocks[place] = blocks[place].atLeast(totals[0].share(shares.blocks[place]).divided(by: 4))
    }
    let cache = try measureCache()
    let standstill = Int64(1e9 * min(1, MachineProfile.current().standstill(threads: team.width)))
    let touch = try TouchProbe(clock: clock, directory: directory).measure()
    return PartTimings(
      threads: team.width,
      stacks: zip(architecture.stacks, blocks).enumerated().map { index, stack in
        PartTimings.Stack(
          kind: stack.0.kind, block: stack.1, embedding: rest.share(shares.embeddings[index]))
      },
      head: rest.share(shares.head), cacheWrite: cache.write, cacheRead: cache.read,
      updateOfMillion: try measureUpdate(), exchangeOfMebibyte: try measureExchange(),
      freshMebibyte: touch.fresh, mappedMebibyte: touch.mapped, standstill: standstill > 0 ? standstill : nil)
  }

  /// How embeddings and head share what blocks leave: by their operations, the backbone's embeddings by their tokens; and
  /// what part of the operations of a model of one block a stack each block has.
  private func operationShares() throws -> (blocks: [TimeShare], embeddings: [TimeShare], head: TimeShare) {
    let counted: TechniqueCosts
    do {
      counted = try TechniqueCosts(
        architecture, technique: measuredTechnique, head: shape.head, workload: shape.workload,
        counting: shape.counting)
    } catch {
      throw JobPlanningFailure.settings(detail: "\(error)")
    }
    var embeddings: [TimeShare] = []
    var blocks: [TimeShare] = []
    var head = TimeShare()
    for part in counted.parts {
      switch part.part {
      case .embedding(let kind):
        // A gather and a norm: about a width of operations a token.
        let rows = shape.workload.tokens(kind) * architecture.width
        embeddings.append(
          TimeShare(backbone: Double(part.forward + rows), side: Double(part.sideForward + part.sideBackward))
        )
      case .head:
        head = TimeShare(
          backbone: Double(part.forward), side: Double(part.sideForward + part.sideBackward))
      case .layer where blocks.count < embeddings.count:
        blocks.append(
          TimeShare(
            backbone: Double(part.forward + part.backward),
            side: Double(part.sideForward + part.sideBackward)))
      case .layer: continue
      }
    }
    let whole = (embeddings + blocks).reduce(head) {
      TimeShare(backbone: $0.backbone + $1.backbone, side: $0.side + $1.side)
    }
    let backbone = max(1, embeddings.reduce(head.backbone) { $0 + $1.backbone })
    let side = max(1, embeddings.reduce(head.side) { $0 + $1.side })
    func share(_ part: TimeShare) -> TimeShare {
      TimeShare(backbone: part.backbone / backbone, side: part.side / side)
    }
    let parts = blocks.map {
      TimeShare(backbone: $0.backbone / max(1, whole.backbone), side: $0.side / max(1, whole.side))
    }
    return (parts, embeddings.map(share), share(head))
  }

  // MARK: Cache

  /// Writes and reads a cache with the run's own code; what it takes for a mebibyte of taps.
  private func measureCache() throws -> (write: UnitDuration, read: UnitDuration) {
    guard case .parallel = shape.technique else { return (.none, .none) }
    try createDirectory(directory, isPrivate: true)
    let path = directory + "/probe"
    return try CacheProbe(shape, architecture, team: team, clock: clock, path: path).measure()
  }

  // MARK: Exchange and update

  private func measureExchange() throws -> Int64 {
    try ExchangeProbe(
      clock: clock, format: shape.technique.gradientSums(shape.gradientPrecision ?? .full),
      directory: directory
    ).measure()
  }

  /// Updates as many parameters as the technique has, or as memory allows.
  private func measureUpdate() throws -> Int64 {
    let costs = try TechniqueCosts(
      architecture, technique: shape.technique, head: shape.head, workload: shape.workload,
      counting: shape.counting)
    let perParameter = 12 + costs.gradientSums.bytesPerParameter
    let width = 1 << 10
    let rows = max(1, min(costs.trainableParameters, memory / 8 / perParameter, 16 << 20) / width)
    let trainer = MiniBatchTrainer(
      technique: UpdateProbe(rows: rows, width: width, sums: costs.gradientSums),
      settings: OptimizationSettings(learningRate: 1e-6), totalSteps: 1 << 20, maximumMicroBatches: 1,
      workers: team.width)
    var best = Double.infinity
    for _ in 0..<6 {
      let start = clock.now
      _ = try trainer.step([], units: 1, loop: team)
      best = min(best, clock.seconds(since: start, threads: team.width))
    }
    return Int64(best * 1e15 / Double(rows * width))
  }
}

/// Parts of a time.
private struct TimeShare {
  var backbone = 0.0
  var side = 0.0
}

extension PartTimes {
  fileprivate func share(_ share: TimeShare) -> PartTimes {
    func part(_ time: UnitDuration, _ share: Double) -> UnitDuration {
      UnitDuration(
        alone: Int64(Double(time.alone) * share), together: Int64(Double(time.together) * share))
    }
    var times = PartTimes()
    times.forward = part(forward, share.backbone)
    times.backward = part(backward, share.backbone)
    times.sideForward = part(sideForward, share.side)
    times.sideBackward = part(sideBackward, share.side)
    return times
  }

  /// What a block of each stack takes, and what is left, from the times of models of some sizes.
  ///
  /// - Parameter shares: a block's part of the smallest model's operations, by stack.
  fileprivate static func fit(
    _ totals: [PartTimes], sizes: [[Int]], shares: [TimeShare]
  ) -> (blocks: [PartTimes], rest: PartTimes) {
    var blocks = Array(repeating: PartTimes(), count: shares.count)
    var rest = PartTimes()
    func fit(_ part: WritableKeyPath<PartTimes, UnitDuration>, _ share: (TimeShare) -> Double) {
      func fitted(_ time: (UnitDuration) -> Int64) -> PartFit {
        PartFit(
          sizes: sizes, times: totals.map { Double(time($0[keyPath: part])) * 1e-9 },
          restShare: max(0, 1 - shares.reduce(0) { $0 + share($1) }))
      }
      let (alone, together) = (fitted(\.alone), fitted(\.together))
      func duration(_ seconds: (PartFit) -> Double) -> UnitDuration {
        UnitDuration(alone: Int64(seconds(alone) * 1e9), together: Int64(seconds(together) * 1e9))
      }
      for place in blocks.indices { blocks[place][keyPath: part] = duration { $0.blocks[place] } }
      rest[keyPath: part] = duration(\.rest)
    }
    fit(\.forward, \.backbone)
    fit(\.backward, \.backbone)
    fit(\.sideForward, \.side)
    fit(\.sideBackward, \.side)
    return (blocks, rest)
  }

  private func map(_ other: PartTimes, _ change: (UnitDuration, UnitDuration) -> UnitDuration) -> PartTimes {
    var times = PartTimes()
    times.forward = change(forward, other.forward)
    times.backward = change(backward, other.backward)
    times.sideForward = change(sideForward, other.sideForward)
    times.sideBackward = change(sideBackward, other.sideBackward)
    return times
  }

  fileprivate func atLeast(_ other: PartTimes) -> PartTimes {
    map(other) {
      UnitDuration(alone: max($0.alone, $1.alone), together: max($0.together, $1.together))
    }
  }

  fileprivate func divided(by count: Int) -> PartTimes {
    map(self) { time, _ in
      UnitDuration(alone: time.alone / Int64(count), together: time.together / Int64(count))
    }
  }
}

/// One model at work, and the times of each of its passes.
private final class MeasuredModel {
  private let technique: any TechniqueComputation
  /// The side network over taps that are there already; nil for techniques that run the backbone itself.
  private let side: (any TechniqueComputation)?
  private let units: [PackedMicroBatch]
  private let sums: any GradientSums
  private let team: ComputeTeam
  private let clock: WorkClock
  /// By pass, and by whether all threads worked: a number for every round.
  private var rounds: [[[Double]]]
  private var knowsExponents = false

  /// Passes that are measured; one more place takes what does not count.
  private static let passes = 4
  /// Values added to one sum at most, as 32-bit sums allow; only times are wanted of them.
  private static let contributions = 1 << 16

  init(
    _ model: ProbeModel, _ shape: JobShape, technique configuration: TechniqueConfiguration,
    team: ComputeTeam, clock: WorkClock
  ) throws {
    self.team = team
    self.clock = clock
    let backbone = model.backbone
    let trained = try TrainedTechnique(
      configuration, head: shape.head, backbone: backbone, element: shape.element,
      gradientPrecision: shape.gradientPrecision ?? .full)
    units = ProbeModel.units(team.width, shape, backbone.architecture)
    let capacity = MicroBatchCapacity(units)
    let parameters = trained.initialParameters(backbone, seed: 1)
    let started = trained.start(
      backbone, parameters: parameters, cache: nil, capacity: capacity, workers: team.width, training: true)
    technique = started.computation
    side = started.source.map { source in
      trained.start(
        backbone, parameters: parameters, cache: nil, capacity: capacity, workers: team.width, training: true,
        taps: ReplayedTaps(source, workers: team.width)
      ).computation
    }
    sums = technique.gradientSums.makeSums(of: parameters, maximumContributions: Self.contributions)
    rounds = Array(repeating: [[], []], count: Self.passes + 1)
  }

  /// Measures each pass once more: forward and training of the whole, and of the side network alone.
  func measure(leastTime: Double) throws {
    if !knowsExponents {
      // Sums whose exponents are unknown only look at the first gradients: that would be too fast.
      sums.begin()
      technique.begin(step: 1)
      try note(Self.passes, 0) { [technique, sums] unit, worker throws(TrainingFailure) in
        _ = try technique.train(unit, worker: worker, sink: sums)
      }
      _ = sums.conclude()
      knowsExponents = true
    }
    sums.zero(0..<sums.count)
    sums.begin()
    technique.begin(step: 1)
    try note(0, leastTime) { [technique] unit, worker throws(TrainingFailure) in
      _ = try technique.loss(unit, worker: worker)
    }
    guard let side else {
      return try note(1, leastTime) { [technique, sums] unit, worker throws(TrainingFailure) in
        _ = try technique.train(unit, worker: worker, sink: sums)
      }
    }
    try note(2, leastTime) { unit, worker throws(TrainingFailure) in _ = try side.loss(unit, worker: worker) }
    try note(3, leastTime) { [sums] unit, worker throws(TrainingFailure) in
      _ = try side.train(unit, worker: worker, sink: sums)
    }
  }

  private func note(
    _ pass: Int, _ leastTime: Double,
    _ body: @escaping @Sendable (PackedMicroBatch, Int) throws(TrainingFailure) -> Void
  ) throws {
    // With one thread the second would be the first once more.
    let widths = team.width > 1 ? [1, team.width] : [1]
    for (place, count) in widths.enumerated() {
      let failure = Mutex<TrainingFailure?>(nil)
      let units = units
      var repeats = 0
      let start = clock.now
      let begin = MonotonicClock.seconds()
      repeat {
        team.forEach(count) { piece, worker in
          do throws(TrainingFailure) {
            try body(units[piece], worker)
          } catch {
            failure.withLock { $0 = error }
          }
        }
        repeats += 1
      } while MonotonicClock.seconds() - begin < leastTime
      let seconds = clock.seconds(since: start, threads: count) / Double(repeats)
      if let failure = failure.withLock({ $0 }) { throw failure }
      rounds[pass][place].append(seconds)
    }
    if team.width == 1 { rounds[pass][1] = rounds[pass][0] }
  }

  /// The times as parts: of each pass the middle one.
  ///
  /// The least would be that of a machine at its best, which one that trains for minutes, on a share of its processor and
  /// with others beside it, is not.
  var totals: PartTimes {
    func middle(_ pass: Int, _ place: Int) -> Double {
      let sorted = rounds[pass][place].sorted()
      return sorted.isEmpty ? 0 : sorted[sorted.count / 2]
    }
    func duration(_ pass: Int, less other: Int? = nil) -> UnitDuration {
      func time(_ place: Int) -> Int64 {
        Int64((middle(pass, place) - (other.map { middle($0, place) } ?? 0)) * 1e9)
      }
      return UnitDuration(alone: time(0), together: time(1))
    }
    var times = PartTimes()
    if side == nil {
      times.forward = duration(0)
      times.backward = duration(1, less: 0)
    } else {
      times.forward = duration(0, less: 2)
      times.sideForward = duration(2)
      times.sideBackward = duration(3, less: 2)
    }
    return times
  }
}

/// Taps that are computed once for each worker and stay: what a cached step has without its reading.
///
/// - Safety: a worker touches its own place alone.
private final class ReplayedTaps: TapSource, @unchecked Sendable {
  private let source: BackboneTapSource
  private let isThere: UnsafeMutableBufferPointer<Bool>

  init(_ source: BackboneTapSource, workers: Int) {
    self.source = source
    isThere = .allocate(capacity: workers)
    isThere.initialize(repeating: false)
  }

  deinit { isThere.deallocate() }

  func load(_ batch: PackedMicroBatch, into taps: TapBuffer, worker: Int) throws(TrainingFailure) {
    if isThere[worker] {
      return taps.prepare(encoderTokens: batch.encoder.tokens, decoderTokens: batch.decoder?.tokens ?? 0)
    }
    try source.load(batch, into: taps, worker: worker)
    isThere[worker] = true
  }
}

/// Appends taps to a cache and reads them again.
private struct CacheProbe {
  /// Bytes that are written: more than a processor's own memory holds.
  private static let byteCount = 48 << 20
  private let store: ActivationCacheStore
  private let team: ComputeTeam
  private let clock: WorkClock
  private let buffers: [TapBuffer]
  private let units: [PackedMicroBatch]
  private let stacks: [StackKind]

  init(
    _ shape: JobShape, _ architecture: BackboneArchitecture, team: ComputeTeam, clock: WorkClock, path: String
  ) throws {
    self.clock = clock
    guard case .parallel(let parallel) = shape.technique else {
      preconditionFailure("only a side network has taps")
    }
    let side: SideNetworkShape
    do {
      side = try SideNetworkShape(parallel, head: shape.head, backbone: architecture)
    } catch {
      throw JobPlanningFailure.settings(detail: "\(error)")
    }
    var hasher = ContentHasher()
    hasher.update("probe")
    let digest = hasher.finalize()
    let identity = CacheIdentity(
      backboneDigest: digest, tokenizerDigest: digest, maximumLength: 1 << 17, element: shape.element,
      stacks: side.stacks.map { CachedStack(name: $0.name, width: side.backboneWidth, taps: $0.taps) })
    // What an interrupted measurement left goes first.
    try ActivationCacheStore(DirectoryShardStorage(path), identity: identity).removeAll()
    store = try ActivationCacheStore(DirectoryShardStorage(path), identity: identity)
    self.team = team
    stacks = side.stacks.map(\.kind)
    let one = ProbeModel.units(1, shape, architecture)
    let capacity = MicroBatchCapacity(one)
    buffers = (0..<team.width).map { _ in
      let buffer = TapBuffer(shape: side, element: shape.element, capacity: capacity)
      buffer.prepare(encoderTokens: capacity.encoderTokens, decoderTokens: capacity.decoderTokens)
      return buffer
    }
    let bytes = buffers[0].rows.reduce(0) { $0 + $1.reduce(0) { $0 + $1.byteCount } }
    let most = max(2, Self.byteCount / max(1, bytes))
    units = ProbeModel.units(min(most, 4096), shape, architecture)
    // Not zeros: some file systems do not store them.
    for tap in buffers.flatMap({ $0.rows.flatMap { $0 } }) {
      for index in 0..<tap.byteCount {
        tap.base.storeBytes(of: UInt8(index & 63), toByteOffset: index, as: UInt8.self)
      }
    }
  }

  /// One thread's time over half of the units, then all threads' over the other half.
  func measure() throws -> (write: UnitDuration, read: UnitDuration) {
    defer { try? store.removeAll() }
    let half = units.count / 2
    let parts = [units[..<half], units[half...]]
    let write = try durations(parts) { unit, taps, _ throws(CacheFailure) in
      try store.append(unit.keys, sequences: sequences(unit), taps: taps.rows)
    }
    let scratch = (0..<team.width).map { _ in store.makeReadScratch() }
    let read = try durations(parts) { unit, taps, worker throws(CacheFailure) in
      _ = try store.read(store.resolve(unit.keys), into: taps.rows, scratch: scratch[worker])
    }
    return (write, read)
  }

  private func sequences(_ unit: PackedMicroBatch) -> [PackedSequences] {
    stacks.map { $0 == .encoder ? unit.encoder : unit.decoder ?? unit.encoder }
  }

  private func durations(
    _ parts: [ArraySlice<PackedMicroBatch>],
    _ body: @escaping @Sendable (PackedMicroBatch, TapBuffer, Int) throws(CacheFailure) -> Void
  ) throws -> UnitDuration {
    let bytes = Double(buffers[0].rows.reduce(0) { $0 + $1.reduce(0) { $0 + $1.byteCount } })
    let failure = Mutex<CacheFailure?>(nil)
    var times: [Int64] = []
    for (part, width) in zip(parts, [1, team.width]) {
      let buffers = buffers
      @Sendable func work(_ piece: Int, _ worker: Int) {
        do throws(CacheFailure) {
          try body(part[part.startIndex + piece], buffers[worker], worker)
        } catch {
          failure.withLock { $0 = error }
        }
      }
      let start = clock.now
      if width == 1 {
        for piece in 0..<part.count { work(piece, 0) }
      } else {
        team.forEach(part.count) { work($0, $1) }
      }
      let seconds = clock.seconds(since: start, threads: width)
      // Of the wall's time each thread had its own share of the bytes.
      times.append(Int64(seconds * 1e9 * Double(1 << 20) * Double(width) / (bytes * Double(part.count))))
    }
    if let failure = failure.withLock({ $0 }) { throw failure }
    return UnitDuration(alone: times[0], together: times[1])
  }
}

/// Parameters that no unit trains: what is left of a step is its update.
///
/// - Safety: parameters change only between steps.
private final class UpdateProbe: TechniqueComputation, @unchecked Sendable {
  let parameters: ParameterTree
  let gradientSums: GradientSumFormat

  init(rows: Int, width: Int, sums: GradientSumFormat) {
    // Leaves of about a million values, as a model has them.
    let most = 1 << 10
    let shapes = stride(from: 0, to: rows, by: most).map {
      ParameterShape("leaf \($0)", rows: min(most, rows - $0), columns: width, kind: .weight)
    }
    parameters = ParameterTree(trainable: shapes) { _, values in
      for index in values.indices { values[index] = Float(index & 255) * 0.001 }
    }
    gradientSums = sums
  }

  func train(_ batch: PackedMicroBatch, worker: Int, sink: any GradientSink) throws(TrainingFailure) -> Double
  {
    0
  }
  func loss(_ batch: PackedMicroBatch, worker: Int) throws(TrainingFailure) -> Double { 0 }
  func predict(_ batch: PackedMicroBatch, worker: Int) throws(TrainingFailure) -> Matrix {
    preconditionFailure("a measurement predicts nothing")
  }
}
