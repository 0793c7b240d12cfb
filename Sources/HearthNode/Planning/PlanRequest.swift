import ComputeRuntime
package import FineTuning
package import LanguageModels
package import ParallelPlanner
package import TensorKernels

/// What `hearth plan` is asked.
package struct PlanRequest: Sendable, Equatable {
  /// A model's directory, or the name of a built-in shape.
  package var model: String
  /// File with the household; nil plans for this device alone, measured now.
  package var householdFile: String?
  /// File with the training rows, of which only the number counts; nil takes `samples`.
  package var dataFile: String?
  /// Training samples when there is no file.
  package var samples: Int
  /// Tokens of a text.
  package var length: Int
  /// Passes over the samples.
  package var epochs: Int
  /// Samples of an optimizer step.
  package var batch: Int
  /// Samples that one device computes as a unit.
  package var microBatch: Int
  /// `parallel`, `full`, `houlsby` or `lora`.
  package var technique: String
  /// The paper's k.
  package var reduction: Int
  /// How a cached activation element is stored.
  package var cache: ActivationElement
  /// Which plans are looked at.
  package var planner: PlannerKind
  /// How the first epoch may run.
  package var firstEpoch: FirstEpochPolicy
  /// Which devices read the cache in the epochs after the first.
  package var cachedEpochs: CachedEpochsPolicy

  /// A request with the documented defaults.
  package init(model: String) {
    self.model = model
    householdFile = nil
    dataFile = nil
    samples = 3668
    length = 128
    epochs = 3
    batch = 16
    microBatch = 2
    technique = "parallel"
    reduction = 8
    cache = .float16
    planner = .pac
    firstEpoch = .auto
    cachedEpochs = .auto
  }

  /// The name of the planner; a name that is none of `planners` changes nothing.
  package var plannerName: String {
    get { planner.rawValue }
    set { planner = PlannerKind(rawValue: newValue) ?? planner }
  }

  /// The name of the first epoch's mode; a name that is none of `firstEpochs` changes nothing.
  package var firstEpochName: String {
    get { firstEpoch.rawValue }
    set { firstEpoch = FirstEpochPolicy(rawValue: newValue) ?? firstEpoch }
  }

  /// The name of what the devices of the cached epochs are; a name that is none of `cachedEpochs` changes nothing.
  package var cachedEpochsName: String {
    get { cachedEpochs.rawValue }
    set { cachedEpochs = CachedEpochsPolicy(rawValue: newValue) ?? cachedEpochs }
  }

  /// The names of all planners.
  package static var planners: [String] { PlannerKind.allCases.map(\.rawValue) }
  /// The names of all modes of the first epoch.
  package static var firstEpochs: [String] { FirstEpochPolicy.allCases.map(\.rawValue) }
  /// The names of all ways to choose the devices of the cached epochs.
  package static var cachedEpochs: [String] { CachedEpochsPolicy.allCases.map(\.rawValue) }
  /// The names of all techniques.
  package static let techniques = ["parallel", "full", "houlsby", "lora"]

  /// What is computed for a unit: a classifier over texts that are all equally long.
  package func shape() throws -> JobShape {
    try JobShape(
      configurationText: try PlanningModel.configurationText(model),
      technique: configuration(of: try PlanningModel.architecture(model)),
      head: .classes(2), element: cache, samplesPerUnit: microBatch, encoderLength: length, decoderLength: 1)
  }

  /// The technique with the settings that a job of single texts has where nobody names others.
  package func configuration(of architecture: BackboneArchitecture) -> TechniqueConfiguration {
    switch technique {
    case "full": return .full(FullConfiguration())
    case "houlsby": return .houlsby(HoulsbyConfiguration())
    case "lora": return .lora(LoRAConfiguration())
    default:
      var side = ParallelAdapterConfiguration(
        preset: .default, reduction: reduction, layersPerStack: architecture.stacks.map(\.layers).min() ?? 0)
      side.pooling = side.preferredPooling(of: architecture, hasPairs: false)
      return .parallel(side)
    }
  }
}

/// A request with everything that was read for it.
package struct PreparedPlanning: Sendable {
  /// The model as the planner sees it.
  package var model: PlanningModel
  /// What the household is called.
  package var householdName: String
  /// The devices and links as this model finds them.
  package var household: HouseholdProfile
  /// What is planned.
  package var job: PlanningJob
  /// Training samples.
  package var samples: Int

  /// Reads the model's shape, the household and the number of rows.
  package init(_ request: PlanRequest, environment: [String: String] = [:]) throws {
    guard request.batch % request.microBatch == 0 else {
      throw PlanFailure.request(
        detail:
          "--batch is \(request.batch) and --micro-batch \(request.microBatch); the second must divide the first"
      )
    }
    let shape = try request.shape()
    model = try PlanningModel(shape, name: request.model)
    samples = try request.dataFile.map { try PreparedPlanning.rows($0) } ?? request.samples
    if let path = request.householdFile {
      let file = try HouseholdFile.read(path)
      householdName = file.name
      household = model.household(
        file, shape: shape.digest, units: request.batch / request.microBatch)
    } else {
      guard let state = StateDirectory.path(environment: environment) else {
        throw PlanFailure.request(detail: "there is no state directory to measure in; set HEARTH_HOME")
      }
      let report = try JobPlanning.report(
        shape, name: "this device", stateDirectory: state, isFresh: true)
      householdName = report.name
      household = HouseholdProfile(
        devices: [report.profile(model.work, units: request.batch / request.microBatch, devices: 1)],
        link: JobPlanning.unknownLink)
    }
    job = PlanningJob(
      epochs: request.epochs, stepsPerEpoch: max(1, (samples + request.batch - 1) / request.batch),
      unitsPerMiniBatch: request.batch / request.microBatch, planner: request.planner,
      firstEpoch: request.firstEpoch, cachedEpochs: request.cachedEpochs)
  }

  private static func rows(_ path: String) throws -> Int {
    // Labels are not looked at: any label column will do, so each kind is tried.
    do {
      return try TrainingRows.read(path, options: DataOptions(), labels: .name).examples.count
    } catch {
      return try TrainingRows.read(path, options: DataOptions(), labels: .number).examples.count
    }
  }

  /// Plans, and measures how long that took.
  package func plan() throws -> PlanReport {
    let start = MonotonicClock.seconds()
    let result = try PlanGrowth.plan(model.costs, household: household, job: job)
    return PlanReport(self, result, seconds: MonotonicClock.seconds() - start)
  }
}

extension PlanningFailure: UserFacingFailure {
  /// Decides the exit code.
  package var reason: ExitReason {
    switch self {
    case .outOfRange, .inconsistent: .badData
    case .doesNotFit: .insufficientResources
    }
  }
}
