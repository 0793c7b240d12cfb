import Determinism
import HouseholdTrust
import Logging
import MeshModel
import MeshPeer
import MeshProtocol
import MeshTransport

extension HouseholdDaemon {
  /// What the household looks like from here.
  var report: HouseholdReport {
    let now = DeviceClocks.now()
    var report = HouseholdReport(peer.status(at: now))
    for index in report.devices.indices {
      if report.devices[index].isSelf {
        report.devices[index].sinceSeconds = started.duration(to: now.monotonic).inSeconds
        report.devices[index].isPaused = pause.reason != nil
        report.devices[index].pauseReason = pause.reason
      } else if turnedAway.contains(report.devices[index].device), report.devices[index].reason != nil {
        // It proved itself and said so; this device's own log may never learn of it.
        report.devices[index].reason = AbsenceReason.selfRevoked.rawValue
        report.devices[index].nextStep = AbsenceReason.selfRevoked.nextStep
      }
    }
    return report
  }

  /// Logs a report of the mesh under its stable event name.
  func note(_ report: MeshReport) {
    switch report {
    case .disconnected(let id, .revoked) where !peer.household.log.isRevoked(id):
      turnedAway.insert(id.description)
      log.error("turned-away", metadata: ["peer": "\(name(of: id))"])
    case .connected(let id, _): turnedAway.remove(id.description)
    default: break
    }
    let (event, level, metadata) = Self.event(of: report) { self.name(of: $0) }
    log.log(level: level, "\(event)", metadata: metadata)
  }

  /// A device's name for people, with the start of its id.
  func name(of device: DeviceID) -> String { peer.household.shownName(of: device) }

  private static func event(
    of report: MeshReport, name: (DeviceID) -> String
  ) -> (String, Logger.Level, Logger.Metadata) {
    func device(_ event: String, _ device: DeviceID, _ level: Logger.Level = .info) -> (
      String, Logger.Level, Logger.Metadata
    ) { (event, level, ["peer": "\(name(device))"]) }
    switch report {
    case .joined(let id): return device("joined", id)
    case .suspected(let id): return device("suspected", id)
    case .unreachable(let id): return device("unreachable", id)
    case .left(let id): return device("left", id)
    case .revoked(let id): return device("revoked", id)
    case .leaderSuggested(let id): return ("leader", .info, ["peer": "\(id.map(name) ?? "none")"])
    case .wasAway(let time): return ("was-away", .info, ["seconds": "\(time.inSeconds)"])
    case .connected(let id, let address):
      return ("connected", .info, ["peer": "\(name(id))", "address": "\(address)"])
    case .disconnected(let id, let reason):
      return ("disconnected", .info, ["peer": "\(name(id))", "reason": "\(reason)"])
    case .clone(let id): return device("clone", id, .error)
    case .logGrew(let entries): return ("log-grew", .info, ["entries": "\(entries)"])
    case .networkKey(let epoch): return ("network-key", .info, ["epoch": "\(epoch)"])
    case .selfRevoked: return ("self-revoked", .error, [:])
    case .dropped(let reason): return ("dropped", .debug, ["reason": "\(reason.rawValue)"])
    }
  }

  /// Reports from now on, the present one first; the newest replaces those that were not fetched.
  func watch() -> (id: UInt64, reports: AsyncStream<HouseholdReport>) {
    let (stream, continuation) = AsyncStream.makeStream(
      of: HouseholdReport.self, bufferingPolicy: .bufferingNewest(1))
    nextWatcher += 1
    let report = report
    watchers[nextWatcher] = Watcher(
      continuation: continuation, last: report, lastTime: DeviceClocks.now().monotonic)
    continuation.yield(report)
    return (nextWatcher, stream)
  }

  /// Ends a watch.
  func endWatch(_ id: UInt64) { watchers.removeValue(forKey: id)?.continuation.finish() }

  /// Tells watchers what changed at once, and times and counters once a second.
  func tellWatchers() {
    guard !watchers.isEmpty else { return }
    let now = DeviceClocks.now().monotonic
    let report = report
    for id in watchers.keys.sorted() {
      guard var watcher = watchers[id] else { continue }
      guard watcher.last.differs(from: report) || watcher.lastTime.duration(to: now) >= Watcher.interval
      else { continue }
      watcher.last = report
      watcher.lastTime = now
      watchers[id] = watcher
      watcher.continuation.yield(report)
    }
  }
}

/// A command that follows the household.
struct Watcher: Sendable {
  /// Time between two reports in which only times have changed.
  static let interval: Duration = .seconds(1)

  let continuation: AsyncStream<HouseholdReport>.Continuation
  var last: HouseholdReport
  var lastTime: MonotonicInstant
}
