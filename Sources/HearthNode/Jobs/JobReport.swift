/// Where one job of the household is: what every device can show, and what `hearth watch` follows.
package struct JobReport: Codable, Sendable, Equatable {
  /// A job's way from its submission to its end.
  package enum State: String, Codable, Sendable, CaseIterable {
    /// Devices fetch the job's package and say what they can.
    case gathering
    /// The leader measures links and looks for a plan; the household agrees on it.
    case planning
    /// Devices fetch the weights of their layers.
    case preparing
    /// Epochs are computed.
    case training
    /// Its devices changed: those that are here agree on how it goes on.
    case recovering
    /// It waits for devices; it goes on by itself when they are back.
    case paused
    /// The owner gets the result and writes the adapter.
    case saving
    /// The adapter is written.
    case finished
    /// A person stopped it.
    case stopped
    /// It ended without an adapter.
    case failed

    /// Whether nothing will come any more.
    package var isOver: Bool { self == .finished || self == .stopped || self == .failed }
  }

  /// The job, 32 hexadecimal digits.
  package var id: String
  /// What people call it: the name of the output directory.
  package var name: String
  /// The name of the device that submitted it.
  package var owner: String
  /// Whether this device submitted it.
  package var isOwn: Bool
  /// Where it is on its way.
  package var state: State
  /// What its devices compute; nil before the training and after it.
  package var phase: RunPhase?
  /// The epoch, from 1; 0 outside of an epoch.
  package var epoch: Int
  /// Passes over the training rows.
  package var epochs: Int
  /// Finished steps of the phase.
  package var step: Int
  /// Steps of the phase.
  package var steps: Int
  /// Samples a second of the whole household since the phase began; nil while nothing is computed.
  package var samplesPerSecond: Double?
  /// Mean training loss since the phase began; nil when nothing is trained.
  package var loss: Double?
  /// Seconds until the phase ends at this rate; nil while unknown.
  package var etaSeconds: Double?
  /// Seconds since it was submitted, or that it took.
  package var seconds: Double
  /// Every device that takes part, by its place in the plan; before the plan, every device that was asked.
  package var devices: [Device]
  /// Who does what; nil before there is a plan.
  package var plan: JobPlanSummary?
  /// Finished epochs, as far as this device knows: it may not have been there when one of `finishedEpochs` was told.
  package var doneEpochs: Int
  /// Every finished epoch that this device was told of, in order.
  package var finishedEpochs: [EpochSummary]
  /// Metrics of the held-out rows, in the order in which they were measured.
  package var metrics: [Measured]
  /// What a person should know and that does not end the job.
  package var warnings: [String]
  /// Devices that came and went, and what came of it; the last `JobReport.noteLimit` of them, numbers ascending.
  package var notes: [Note]
  /// What a paused job waits for, as "no quorum (weight 2 of 5)"; nil unless it is paused.
  package var pauseReason: String?
  /// What came of it; only on the owner, and only when it is finished.
  package var result: TrainSummary?
  /// Why there is no adapter; nil unless it failed or was stopped.
  package var failure: Failure?

  /// One metric after an epoch; epoch 0 is before training.
  package struct Measured: Codable, Sendable, Equatable {
    /// Name in lower case, as in `MetricValue`.
    package var name: String
    /// The value.
    package var value: Double
    /// Finished epochs.
    package var epoch: Int

    /// A metric.
    package init(name: String, value: Double, epoch: Int) {
      self.name = name
      self.value = value
      self.epoch = epoch
    }
  }

  /// Why a job ended without an adapter.
  package struct Failure: Codable, Sendable, Equatable {
    /// What happened, where, and the next step.
    package var message: String
    /// The name of the device that was lost or could not go on.
    package var device: String?
    /// The exit code that `hearth train` and `hearth watch` end with.
    package var exitCode: Int32

    /// A failure.
    package init(message: String, device: String? = nil, reason: ExitReason) {
      self.message = message
      self.device = device
      exitCode = reason.rawValue
    }

    /// The reason behind the exit code.
    package var reason: ExitReason { ExitReason(rawValue: exitCode) ?? .internalDefect }
  }

  /// A job that was submitted just now.
  package init(id: String, name: String, owner: String, isOwn: Bool, epochs: Int) {
    self.id = id
    self.name = name
    self.owner = owner
    self.isOwn = isOwn
    self.epochs = epochs
    state = .gathering
    phase = nil
    epoch = 0
    step = 0
    steps = 0
    samplesPerSecond = nil
    loss = nil
    etaSeconds = nil
    seconds = 0
    devices = []
    plan = nil
    doneEpochs = 0
    finishedEpochs = []
    metrics = []
    warnings = []
    notes = []
    pauseReason = nil
    result = nil
    failure = nil
  }

  /// The first eight digits of the id, which people type.
  package var short: String { String(id.prefix(8)) }
}

extension JobReport {
  /// One device's part of a job.
  package struct Device: Codable, Sendable, Equatable {
    /// What a device does for the job.
    package enum State: String, Codable, Sendable, CaseIterable {
      /// It was asked and has not answered.
      case asked
      /// It fetches the package or its weights.
      case fetching
      /// It has everything and waits for the others.
      case ready
      /// It computes.
      case computing
      /// It gets what it needs to take part soon; nobody waits for it.
      case learning
      /// It has no part in the plan.
      case idle
      /// It has done its part.
      case done
      /// Its person, or its battery, keeps it out for a while.
      case paused
      /// It left in order, and has handed over what it had.
      case left
      /// It does not answer any more, or could not go on.
      case lost
    }

    /// Its name.
    package var name: String
    /// Its id, 32 hexadecimal digits.
    package var device: String
    /// Its place in the plan, from 0; nil before there is a plan.
    package var place: Int?
    /// What it is doing.
    package var state: State
    /// Layers of its stage in the first epoch, as "encoder 0 to encoder 5"; nil when it has none.
    package var layers: String?
    /// Units that it computes of every pipeline micro-batch of the first epoch.
    package var units: Int
    /// Units that it computes of every mini-batch from the cache.
    package var cachedUnits: Int
    /// Memory that the job takes of it now; nil while unknown.
    package var memoryBytes: Int64?
    /// Most memory that the job may take of it.
    package var budgetBytes: Int64?
    /// Of what it has to fetch, how many bytes are there.
    package var fetchedBytes: Int64
    /// Bytes that it has to fetch.
    package var fetchBytes: Int64
    /// Samples a second that it computes; nil while it computes none.
    package var samplesPerSecond: Double?
    /// Share of the phase's time in which it waited for other devices, 0 to 1; nil while unknown.
    package var waitingShare: Double?
    /// Seconds of its transition to the cached epochs; nil before it.
    package var transitionSeconds: Double?
    /// Bytes of memory that the transition freed, the backbone's above all; nil before it.
    package var transitionFreedBytes: Int64?
    /// What it sent and received, link by link.
    package var links: [Link]
    /// What it says beside that.
    package var note: String?

    /// A device that was just asked.
    package init(name: String, device: String) {
      self.name = name
      self.device = device
      place = nil
      state = .asked
      layers = nil
      units = 0
      cachedUnits = 0
      memoryBytes = nil
      budgetBytes = nil
      fetchedBytes = 0
      fetchBytes = 0
      samplesPerSecond = nil
      waitingShare = nil
      transitionSeconds = nil
      transitionFreedBytes = nil
      links = []
      note = nil
    }

    /// Bytes that it sent to all others.
    package var sentBytes: Int64 { links.reduce(0) { $0 + $1.sentBytes } }
    /// Bytes that it received from all others.
    package var receivedBytes: Int64 { links.reduce(0) { $0 + $1.receivedBytes } }
  }

  /// What went over one device's link to another.
  package struct Link: Codable, Sendable, Equatable {
    /// The other device's place in the plan.
    package var place: Int
    /// Bytes that this device sent.
    package var sentBytes: Int64
    /// Bytes that it received.
    package var receivedBytes: Int64

    /// A link.
    package init(place: Int, sentBytes: Int64, receivedBytes: Int64) {
      self.place = place
      self.sentBytes = sentBytes
      self.receivedBytes = receivedBytes
    }
  }
}
