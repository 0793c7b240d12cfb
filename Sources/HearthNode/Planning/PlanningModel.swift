import DistributedTraining
package import FineTuning
import HearthStorage
package import LanguageModels
import NeuralNetworks
package import ParallelPlanner
import TensorKernels

/// What one kind of layer consists of, with its floating-point operations and cached bytes for one unit.
package struct KindWork: Sendable, Hashable {
  /// The stack that its block belongs to.
  package var stack: StackKind
  /// A side block reads its output.
  package var hasSide: Bool
  /// The stack's embedding is in it.
  package var embeds: Bool
  /// The head is in it.
  package var ends: Bool
  /// What it adds to the activation cache.
  package var cacheBytes: Int
  /// Backbone, forward.
  package var forward: Int
  /// Backbone, backward.
  package var backward: Int
  /// Side network, forward.
  package var sideForward: Int
  /// Side network, backward.
  package var sideBackward: Int
}

/// A model under a technique as the planner sees it, and the work of its kinds of layers.
///
/// A planner's layer is one block; the embedding of a stack belongs to its first block, the head to the last
/// one of all.
package struct PlanningModel: Sendable {
  /// What the planner needs.
  package var costs: ModelCosts
  /// Work of each kind.
  package var work: [KindWork]
  /// What each layer is called, such as "encoder 3".
  package var layerNames: [String]

  /// Whose memory is counted.
  package enum MemoryAccounting: Sendable {
    /// Hearth's engine with AdamW.
    case engine
    /// PyTorch's autograd with SGD, as behind the paper's figures.
    case paper
  }

  /// The names of models whose shapes are built in.
  package static var shapes: [String] { ModelShape.allCases.map(\.rawValue) }

  /// The shape of a model: a built-in one, or that of a directory.
  package static func architecture(_ name: String) throws -> BackboneArchitecture {
    if let shape = ModelShape(rawValue: name) { return shape.architecture }
    let folder = ModelFolder(name)
    guard (try? folder.region(named: "config.json")) != nil else {
      throw PlanFailure.unknownModel(name, shapes: shapes)
    }
    return try ModelDirectory.loadConfiguration(folder).architecture
  }

  /// The text of a model's `config.json`.
  package static func configurationText(_ name: String) throws -> String {
    if let shape = ModelShape(rawValue: name) { return shape.configurationText }
    guard let region = try? ModelFolder(name).region(named: "config.json") else {
      throw PlanFailure.unknownModel(name, shapes: shapes)
    }
    return region.withBytes { String(decoding: $0, as: UTF8.self) }
  }

  /// Counts a model under a technique for units of some texts.
  ///
  /// Times and traffic are those of `workload`; memory is that of `longest`, the largest unit, where it is given.
  package init(
    name: String, architecture: BackboneArchitecture, technique: TechniqueConfiguration, head: TaskHead,
    workload: CostWorkload, longest: CostWorkload? = nil, counting: TechniqueCosts.Counting,
    accounting: MemoryAccounting = .engine
  ) throws {
    func count(_ workload: CostWorkload) throws -> TechniqueCosts {
      do {
        return try TechniqueCosts(
          architecture, technique: technique, head: head, workload: workload, counting: counting)
      } catch {
        throw PlanFailure.technique(detail: "\(error)")
      }
    }
    let counted = try count(workload)
    let blocks = PlanningModel.blocks(counted.parts)
    let largest = try longest.map { PlanningModel.blocks(try count($0).parts) } ?? blocks
    var work: [KindWork] = []
    var layers: [LayerCosts] = []
    let table = Int64(4 * architecture.vocabulary * architecture.width)
    let isFrozen = if case .full = technique { false } else { true }
    for (index, block) in blocks.enumerated() {
      let costs = block.costs
      let large = largest[index].costs
      let own = KindWork(
        stack: block.stack, hasSide: block.hasSide, embeds: block.readsWords,
        ends: index == blocks.count - 1, cacheBytes: costs.cacheBytes, forward: costs.forward,
        backward: costs.backward, sideForward: costs.sideForward, sideBackward: costs.sideBackward)
      let kind = work.firstIndex(of: own) ?? work.count
      if kind == work.count { work.append(own) }
      let frozen = 4 * Int64(costs.frozenParameters) - (index == 0 && isFrozen ? table : 0)
      layers.append(
        LayerCosts(
          kind: kind, frozenBytes: frozen, trainableBytes: 4 * Int64(costs.trainableParameters),
          retainedBytes: Int64(accounting == .paper ? large.autogradBytes : large.activationBytes),
          cacheBytes: Int64(costs.cacheBytes), forwardBoundaryBytes: Int64(costs.forwardBoundaryBytes),
          backwardBoundaryBytes: Int64(costs.backwardBoundaryBytes),
          fillBoundaryBytes: Int64(costs.fillBoundaryBytes)))
    }
    let readers = PlanningModel.tableReaders(blocks, head)
    let canCache = if case .parallel = technique { true } else { false }
    let most = longest ?? workload
    let tokens = max(most.encoderTokens, most.decoderTokens)
    let hidden = architecture.stacks.map(\.block.hidden).max() ?? 0
    self.work = work
    layerNames = blocks.map(\.name)
    costs = ModelCosts(
      name: "\(name), \(technique.name)", kinds: work.indices.map { "kind \($0 + 1)" }, layers: layers,
      shared: isFrozen ? [SharedWeights(bytes: table, layers: readers)] : [],
      tied: isFrozen || accounting == .paper
        ? nil : TiedWeights(bytes: table, home: 0, layers: readers.filter { $0 > 0 }),
      // Weights, the gradient's sums, and AdamW's two moments; the paper's timing runs have plain SGD.
      trainableCopies: accounting == .paper ? 2 : Int64(3 + counted.gradientSums.bytesPerParameter / 4),
      // Weights and moments, twice.
      stageStateCopies: accounting == .paper ? 0 : 6,
      sumBits: accounting == .paper ? 32 : 8 * Int64(counted.gradientSums.usualWireBytes),
      // Rows of one block: input, normed, query, key, value, mixed, and the feed-forward's hidden ones.
      transientBytes: Int64(4 * tokens * (6 * architecture.width + hidden)),
      cachedUnitBytes: canCache
        ? zip(layers, largest).reduce(0) { $0 + $1.0.retainedBytes + Int64($1.1.costs.cacheBytes) } : 0,
      canCache: canCache, runsAhead: canCache && accounting != .paper,
      repeatsFirstStep: accounting != .paper && !counted.gradientSums.knowsExponents)
  }

  /// The model of a job's shape.
  package init(_ shape: JobShape, name: String = "model", longest: CostWorkload? = nil) throws {
    try self.init(
      name: name, architecture: try shape.architecture(), technique: shape.technique, head: shape.head,
      workload: shape.workload, longest: longest,
      counting: shape.counting)
  }

  private struct Block {
    var name: String
    var costs: PartCosts
    var stack: StackKind
    var hasSide: Bool
    var readsWords: Bool
  }

  /// The counted parts, gathered into blocks.
  private static func blocks(_ parts: [PartCosts]) -> [Block] {
    var blocks: [Block] = []
    var waiting: PartCosts?
    for part in parts {
      switch part.part {
      case .embedding: waiting = part
      case .layer(let stack, let layer):
        var costs = part
        let hasSide = part.sideForward > 0
        if let embedding = waiting { costs.add(embedding) }
        blocks.append(
          Block(
            name: "\(stack.rawValue) \(layer)", costs: costs, stack: stack, hasSide: hasSide,
            readsWords: waiting != nil))
        waiting = nil
      case .head:
        blocks[blocks.count - 1].costs.add(part)
      }
    }
    return blocks
  }

  /// The layers that read the word table: the first of each stack, and the last under a language-model head.
  private static func tableReaders(_ blocks: [Block], _ head: TaskHead) -> [Int] {
    blocks.indices.filter { blocks[$0].readsWords || ($0 == blocks.count - 1 && head == .languageModel) }
  }

  /// Times of a device for every kind, from its rates.
  ///
  /// A kind takes its overhead and then, for each unit, its operations at the device's rates.
  package func times(_ device: HouseholdFile.Device) -> [UnitTimes] {
    let side = device.sideGflops ?? device.gflops
    func nanoseconds(_ operations: Int, _ gflops: Double) -> Int64 {
      // One GFLOP/s is one operation a nanosecond; thousandths keep the arithmetic in integers.
      Int64(operations) * 1000 / max(1, Int64((gflops * 1000).rounded()))
    }
    func overhead(_ milliseconds: Double?) -> Int64 { Int64(((milliseconds ?? 0) * 1_000_000).rounded()) }
    let block = overhead(device.layerOverheadMs)
    let sideForward = overhead(device.sideOverheadMs?.first)
    let sideBackward = overhead(device.sideOverheadMs?.last)
    func table(_ once: Int64, _ each: Int64) -> [Int64] { [once + each, once + 2 * each] }
    return work.map { work in
      let hasSide = work.sideForward > 0
      let forward = nanoseconds(work.forward, device.gflops)
      let sideWork = nanoseconds(work.sideForward, side)
      let backward = nanoseconds(work.backward, device.gflops)
      let sideBack = nanoseconds(work.sideBackward, side)
      return UnitTimes(
        forward: table(block + (hasSide ? sideForward : 0), forward + sideWork),
        backward: table((work.backward > 0 ? block : 0) + (hasSide ? sideBackward : 0), backward + sideBack),
        fill: table(block, forward),
        cached: table(hasSide ? sideForward + sideBackward : 0, sideWork + sideBack))
    }
  }

  /// A household's profile for this model.
  ///
  /// Of a device that was measured for jobs of `shape`, those times count, for up to `units` units; of others the rates.
  package func household(_ file: HouseholdFile, shape: String = "", units: Int = 2) -> HouseholdProfile {
    let devices = file.expanded
    let profiles = devices.map { device in
      let measured = device.measured.flatMap {
        $0.shape == shape ? $0.timings.amongst(devices: devices.count) : nil
      }
      return DeviceProfile(
        name: device.name, memoryBudget: Int64(ByteCount(parsing: device.memory)?.bytes ?? 0),
        workers: measured?.threads ?? device.workers ?? 1,
        cacheBudget: Int64(device.cache.flatMap { ByteCount(parsing: $0)?.bytes } ?? 16 << 30),
        diskWriteBytesPerSecond: Int64((device.diskWriteMbS ?? 50) * 1_000_000),
        diskReadBytesPerSecond: Int64((device.diskReadMbS ?? 100) * 1_000_000),
        updateBytesPerSecond: measured?.updateBytesPerSecond
          ?? device.updateMbS.map { Int64($0 * 1_000_000) } ?? PlanningLimits.bytes,
        exchangeBytesPerSecond: measured?.exchangeBytesPerSecond ?? PlanningLimits.bytes,
        freshBytesPerSecond: measured?.freshBytesPerSecond ?? PlanningLimits.bytes,
        mappedBytesPerSecond: measured?.mappedBytesPerSecond ?? PlanningLimits.bytes,
        standstill: measured?.standstill ?? 0,
        times: measured?.unitTimes(work, units: units) ?? times(device))
    }
    func profile(_ link: HouseholdFile.Link) -> LinkProfile {
      LinkProfile(bytesPerSecond: Int64(link.mbitS * 125_000), latency: Int64(link.latencyMs * 1_000_000))
    }
    var household = HouseholdProfile(devices: profiles, link: profile(file.link))
    for link in file.links ?? [] {
      guard let between = link.between, let first = devices.firstIndex(where: { $0.name == between[0] }),
        let second = devices.firstIndex(where: { $0.name == between[1] })
      else { continue }
      household.links[first * devices.count + second] = profile(link)
      household.links[second * devices.count + first] = profile(link)
    }
    return household
  }
}

extension PartCosts {
  /// Adds another part that is computed in the same place.
  ///
  /// What crosses to the next part stays this part's.
  fileprivate mutating func add(_ other: PartCosts) {
    forward += other.forward
    backward += other.backward
    sideForward += other.sideForward
    sideBackward += other.sideBackward
    frozenParameters += other.frozenParameters
    trainableParameters += other.trainableParameters
    activationBytes += other.activationBytes
    autogradBytes += other.autogradBytes
    cacheBytes += other.cacheBytes
  }
}
