import MeshTransport
import NeuralNetworks

/// Where a training request runs: on this device alone, or on the household.
package enum TrainingPlace: Sendable, Equatable {
  /// On this device; `note` says why when a person may have expected otherwise.
  case alone(note: String?)
  /// On the household; the names are those of the other devices that are here.
  case household(names: [String])

  /// Decides by what was asked and by who is here.
  package static func choose(
    _ request: TrainRequest, isAlone: Bool, environment: [String: String]
  ) -> TrainingPlace {
    guard !isAlone, let place = try? HouseholdPlace(environment: environment),
      (try? HouseholdOffice(place).household()) != nil
    else { return .alone(note: nil) }
    let report: HouseholdReport
    do {
      guard let status = try status(place) else { return .alone(note: "the daemon gave no answer") }
      report = status
    } catch is LocalControlUnavailable {
      return .alone(note: "the household's daemon is not running on this device; 'hearth up' starts it")
    } catch {
      return .alone(note: "\(error)")
    }
    return choose(request, report: report)
  }

  /// Decides by what was asked and by the household that the daemon sees.
  package static func choose(_ request: TrainRequest, report: HouseholdReport) -> TrainingPlace {
    let others = report.helpers
    guard !others.isEmpty else {
      return .alone(note: "no other device of the household is here to help; 'hearth peers' says why")
    }
    if let obstacle = request.householdObstacle {
      return .alone(note: "\(obstacle), so \(others.joined(separator: ", ")) cannot help")
    }
    return .household(names: others)
  }

  private static func status(_ place: HouseholdPlace) throws -> HouseholdReport? {
    var client = try HouseholdClient(ControlRequest(.status), place: place)
    return try client.answer().status
  }
}

extension HouseholdReport {
  /// The names of the other devices that are here and let the household use them; none when this one is out.
  package var helpers: [String] {
    guard devices.contains(where: { $0.isSelf && $0.state == "alive" && $0.reason == nil }) else { return [] }
    return devices.filter {
      !$0.isSelf && $0.state == "alive" && $0.reason == nil && $0.isAvailable != false
    }.map(\.name)
  }
}

extension TrainRequest {
  /// What of the request only this device can do, if anything: the run then stays here.
  package var householdObstacle: String? {
    if memoryBudget != nil { return "--memory-budget bounds this device alone" }
    if let precision, precision != .float32 {
      return "--precision \(precision.rawValue) is measured on the whole model, which only this device has"
    }
    if keepCache { return "--keep-cache needs the whole cache here" }
    if cacheDirectory != nil { return "--cache-directory names a disk of this device" }
    return nil
  }
}
