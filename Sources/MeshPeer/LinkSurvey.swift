import Determinism
import MeshModel
import MeshProtocol

/// The side of a link survey that asks: measures the links to the other devices, one after the other.
///
/// First the round trip by echoes on the control session, one at a time; then the rate by bursts on a bulk connection of
/// their own. A burst is sent at once and its last frame is answered: its bytes by the time until then, less the shortest
/// round trip, is the payload rate. Bursts double until the next would take longer than `LinkLimits.burstTarget` or would
/// be too large; the median of five of that size counts. So a burst fills a link of whatever rate for about that time only,
/// and gossip, which goes beside it, is answered in time.
struct LinkSurvey: Sendable {
  /// A device whose link is to be measured.
  struct Target: Hashable, Sendable {
    /// The device.
    let device: DeviceID
    /// Its control session; nil when there is none.
    var session: SessionID?
    /// Where bulk connections are accepted.
    let address: NetworkAddress?
    /// Whether the control session is full.
    let isFull: Bool
  }

  /// What happens to a survey.
  enum Input: Hashable, Sendable {
    /// Measure these; while a survey runs, those of them that it does not measure anyway.
    case start([Target])
    /// An echo came back.
    case echo(SessionID, request: UInt32)
    /// A bulk session that this device dialled stands.
    case opened(SessionID, DeviceID, isFull: Bool)
    /// A bulk session could not be dialled.
    case dialFailed(NetworkAddress)
    /// A burst was answered.
    case report(SessionID, burst: UInt32, BurstReport)
    /// A session ended.
    case closed(SessionID)
    /// Time has passed.
    case tick
  }

  /// What a survey wants done.
  enum Effect: Hashable, Sendable {
    /// Ask for an echo.
    case echo(SessionID, request: UInt32)
    /// Dial a bulk session.
    case dial(NetworkAddress, expecting: DeviceID)
    /// Send a burst.
    case burst(SessionID, burst: UInt32, byteCount: Int)
    /// Close the bulk session.
    case close(SessionID)
    /// All links have been measured, or looked at.
    case measured([LinkMeasurement])
  }

  private enum Stage: Sendable {
    case echoes(SessionID, sent: MonotonicInstant)
    case dialling(NetworkAddress)
    case bursts(SessionID, sent: MonotonicInstant)
  }

  /// The link under way.
  private struct Current: Sendable {
    let target: Target
    var stage: Stage
    /// When the stage has taken too long; a dial ends by itself.
    var deadline: MonotonicInstant?
    var measurement: LinkMeasurement
    var roundTrips: [Duration] = []
    var burst: UInt32 = 0
    var burstBytes = LinkLimits.firstBurst
    /// Rates of the bursts of the present size that took their time, and of the last burst of any size.
    var rates: [Double] = []
    var lastRate: Double?
  }

  /// Above the numbers that the device's own echoes have, which start at 1.
  static let firstRequest: UInt32 = 0x8000_0000

  private var waiting: [Target] = []
  private var current: Current?
  /// The devices of the survey, in the order of their results.
  private var order: [DeviceID] = []
  private var measurements: [DeviceID: LinkMeasurement] = [:]
  /// When the first burst was sent to a device, at most `LinkLimits.surveySpacing` ago: it would refuse another one.
  private var bursts: [DeviceID: MonotonicInstant] = [:]
  private var end: MonotonicInstant?
  private var nextRequest = Self.firstRequest
  private var effects: [Effect] = []

  /// Whether a survey runs.
  var isRunning: Bool { end != nil }

  /// Whether bursts are under way.
  var isSendingBursts: Bool {
    if case .bursts? = current?.stage { true } else { false }
  }

  /// When `tick` is due; nil when nothing waits.
  var nextDeadline: MonotonicInstant? { current?.deadline }

  /// Takes in what happened and answers with what to do, in this order.
  mutating func handle(_ input: Input, at now: MonotonicInstant) -> [Effect] {
    effects = []
    switch input {
    case .start(let targets): start(targets, at: now)
    case .echo(let session, let request): echoed(on: session, request, at: now)
    case .opened(let session, let device, let isFull): opened(session, device, isFull: isFull, at: now)
    case .dialFailed(let address):
      if case .dialling(address)? = current?.stage { finish(.noConnection, at: now) }
    case .report(let session, let burst, let report): reported(on: session, burst, report, at: now)
    case .closed(let session): closed(session, at: now)
    case .tick: expire(at: now)
    }
    defer { effects = [] }
    return effects
  }

  // MARK: - Start and end

  private mutating func start(_ targets: [Target], at now: MonotonicInstant) {
    if isRunning { return add(targets) }
    bursts = bursts.filter { $0.value.duration(to: now) < LinkLimits.surveySpacing }
    order = targets.map(\.device)
    measurements = measurements.filter { bursts[$0.key] != nil }
    waiting = targets.filter { measurements[$0.device] == nil }
    end = now.advanced(by: LinkLimits.surveyTime)
    next(at: now)
  }

  /// Whoever has come since the survey began is measured in it, too.
  private mutating func add(_ targets: [Target]) {
    for target in targets where target.session != nil && target.device != current?.target.device {
      if let index = waiting.firstIndex(where: { $0.device == target.device }) {
        waiting[index] = target
      } else if measurements[target.device].map({ $0.gap == .noSession }) ?? true {
        waiting.append(target)
        if !order.contains(target.device) { order.append(target.device) }
      }
    }
  }

  private mutating func next(at now: MonotonicInstant) {
    current = nil
    while current == nil, let target = waiting.first, let end {
      waiting.removeFirst()
      var measurement = LinkMeasurement(target.device)
      if let session = target.session, now < end {
        current = Current(
          target: target, stage: .echoes(session, sent: now), deadline: now.advanced(by: LinkLimits.echoTime),
          measurement: measurement)
        sendEcho(on: session, at: now)
      } else {
        measurement.gap = target.session == nil ? .noSession : .outOfTime
        measurements[target.device] = measurement
      }
    }
    if current == nil, isRunning {
      end = nil
      effects.append(.measured(order.compactMap { measurements[$0] }))
    }
  }

  /// Keeps what is known of the link under way and goes on to the next.
  private mutating func finish(_ gap: LinkGap?, at now: MonotonicInstant) {
    guard var done = current else { return }
    if case .bursts(let session, _) = done.stage { effects.append(.close(session)) }
    done.measurement.echoes = done.roundTrips.count
    done.measurement.roundTrip = median(done.roundTrips)
    done.measurement.bytesPerSecond = gap == nil ? median(done.rates) ?? done.lastRate : nil
    done.measurement.gap = gap
    measurements[done.target.device] = done.measurement
    next(at: now)
  }

  private mutating func closed(_ session: SessionID, at now: MonotonicInstant) {
    // Nobody answers on it when its turn comes.
    for index in waiting.indices where waiting[index].session == session { waiting[index].session = nil }
    switch current?.stage {
    case .echoes(session, _)?: finish(.interrupted, at: now)
    case .bursts(session, _)?: finish(.interrupted, at: now)
    default: break
    }
  }

  private mutating func expire(at now: MonotonicInstant) {
    guard let running = current, let deadline = running.deadline, deadline <= now else { return }
    switch running.stage {
    case .echoes where running.roundTrips.isEmpty: finish(.noEcho, at: now)
    case .echoes: dial(at: now)
    case .dialling: break
    case .bursts: finish(running.lastRate == nil ? .unanswered : nil, at: now)
    }
  }

  // MARK: - Echoes

  private mutating func sendEcho(on session: SessionID, at now: MonotonicInstant) {
    nextRequest = nextRequest == .max ? Self.firstRequest : nextRequest + 1
    current?.stage = .echoes(session, sent: now)
    effects.append(.echo(session, request: nextRequest))
  }

  private mutating func echoed(on session: SessionID, _ request: UInt32, at now: MonotonicInstant) {
    guard case .echoes(session, let sent)? = current?.stage, request == nextRequest else { return }
    current?.roundTrips.append(sent.duration(to: now))
    if let count = current?.roundTrips.count, count < LinkLimits.echoes {
      sendEcho(on: session, at: now)
    } else {
      dial(at: now)
    }
  }

  private mutating func dial(at now: MonotonicInstant) {
    guard let target = current?.target, target.isFull, let address = target.address else {
      return finish(.limitedSession, at: now)
    }
    current?.stage = .dialling(address)
    current?.deadline = nil
    effects.append(.dial(address, expecting: target.device))
  }

  // MARK: - Bursts

  private mutating func opened(
    _ session: SessionID, _ device: DeviceID, isFull: Bool, at now: MonotonicInstant
  ) {
    guard let running = current, case .dialling = running.stage, running.target.device == device else {
      return
    }
    current?.deadline = now.advanced(by: LinkLimits.sessionTime)
    current?.stage = .bursts(session, sent: now)
    guard isFull else { return finish(.limitedSession, at: now) }
    sendBurst(on: session, at: now)
  }

  private mutating func sendBurst(on session: SessionID, at now: MonotonicInstant) {
    guard var running = current else { return }
    if running.burst == 0 { bursts[running.target.device] = now }
    running.burst += 1
    running.measurement.burstBytes += running.burstBytes
    running.stage = .bursts(session, sent: now)
    current = running
    effects.append(.burst(session, burst: running.burst, byteCount: running.burstBytes))
  }

  private mutating func reported(
    on session: SessionID, _ burst: UInt32, _ report: BurstReport, at now: MonotonicInstant
  ) {
    guard var running = current, case .bursts(session, let sent) = running.stage, burst == running.burst
    else {
      return
    }
    switch report.verdict {
    case .busy: return finish(.busy, at: now)
    case .tooOften: return finish(.tooOften, at: now)
    case .received: break
    }
    guard Int(report.byteCount) == running.burstBytes else { return finish(.interrupted, at: now) }
    let rate = Self.rate(
      of: running.burstBytes, in: sent.duration(to: now), roundTrip: running.roundTrips.min() ?? .zero)
    running.lastRate = rate
    let doubled = 2 * running.burstBytes
    if doubled <= LinkLimits.largestBurst, Double(doubled) / rate <= LinkLimits.burstTarget.inSeconds {
      // A burst that was slow by chance keeps its successors small for a while only.
      running.burstBytes = doubled
      running.rates = []
    } else {
      running.rates.append(rate)
    }
    let isDone = running.rates.count == LinkLimits.equalBursts
    current = running
    guard !isDone else { return finish(nil, at: now) }
    sendBurst(on: session, at: now)
  }

  /// Bytes a second; a round trip that is nearly all of the time is not taken off in full.
  private static func rate(of byteCount: Int, in time: Duration, roundTrip: Duration) -> Double {
    let seconds = max(time.inSeconds - roundTrip.inSeconds, time.inSeconds / 16, 1e-9)
    return Double(byteCount) / seconds
  }
}

/// The middle one, or the lower of the two in the middle; nil when there is none.
private func median<Value: Comparable>(_ values: [Value]) -> Value? {
  values.isEmpty ? nil : values.sorted()[(values.count - 1) / 2]
}
