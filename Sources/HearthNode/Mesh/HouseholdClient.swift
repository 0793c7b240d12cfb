import MeshTransport

/// A command's conversation with the daemon of this device: one request, and its answer event by event.
package struct HouseholdClient: ~Copyable {
  private var client: LocalControlClient

  /// Sends a request to the daemon; throws `LocalControlUnavailable` when there is none.
  package init(_ request: ControlRequest, place: HouseholdPlace) throws {
    let connected = try Self.connected(to: place.controlSocket)
    try connected.send(ControlCoding.line(request))
    client = connected
  }

  private static func connected(to path: String) throws -> LocalControlClient {
    do {
      return try LocalControlClient(path: path)
    } catch LocalControlFailure.notRunning(let path) {
      throw LocalControlUnavailable(path: path)
    }
  }

  /// The next event; nil after the last.
  ///
  /// A failure that the daemon tells is thrown.
  package mutating func next(timeout: Duration? = .seconds(30)) throws -> ControlEvent? {
    guard let line = try client.nextLine(timeout: timeout) else { return nil }
    let event = try ControlCoding.decode(ControlEvent.self, line)
    if event.event == .failed {
      throw DaemonRefusal(
        description: event.message ?? "the daemon refused and did not say why; see its log",
        reason: event.reason.flatMap(ExitReason.init(rawValue:)) ?? .internalDefect)
    }
    return event
  }

  /// The one event of a short answer.
  package mutating func answer() throws -> ControlEvent {
    guard let event = try next() else {
      throw HouseholdFailure.refused("the daemon ended without an answer; see its log")
    }
    return event
  }
}

extension HouseholdClient {
  /// Why nothing more is heard.
  package enum FollowingEnd: Sendable, Equatable {
    /// `take` wanted no more.
    case complete
    /// The person left.
    case cancelled
    /// The daemon ended.
    case daemonGone
  }

  /// Hands the answers to a request to `take` until that is false, the person leaves or the daemon is gone.
  ///
  /// The daemon leaves a command that takes nothing for a while, as one whose output a person pages through, so it is asked
  /// again until it is gone: for requests whose first answer says all there is.
  package static func follow(
    _ request: ControlRequest, place: HouseholdPlace, isCancelled: () -> Bool = { false },
    take: (ControlEvent) throws -> Bool
  ) throws -> FollowingEnd {
    var wasHeard = false
    while true {
      var hears = false
      do {
        let end = try converse(request, place: place, isCancelled: isCancelled) { event in
          hears = true
          return try take(event)
        }
        if let end { return end }
      } catch is LocalControlUnavailable where wasHeard {
        return .daemonGone
      } catch let refusal as DaemonRefusal where wasHeard && refusal.reason == .unreachable {
        return .daemonGone
      } catch LocalControlFailure.disconnected {
        // It was closed within a line.
      }
      if !hears { return .daemonGone }
      wasHeard = true
    }
  }

  /// One conversation; nil when the daemon ended it.
  private static func converse(
    _ request: ControlRequest, place: HouseholdPlace, isCancelled: () -> Bool,
    take: (ControlEvent) throws -> Bool
  ) throws -> FollowingEnd? {
    var client = try HouseholdClient(request, place: place)
    while !isCancelled() {
      do {
        guard let event = try client.next(timeout: glance) else { return nil }
        guard try take(event) else { return .complete }
      } catch LocalControlFailure.timedOut {
        continue
      }
    }
    return .cancelled
  }

  /// How often a follower looks whether the person wants to leave.
  private static let glance: Duration = .milliseconds(200)
}

/// No daemon runs on this device.
package struct LocalControlUnavailable: UserFacingFailure, Equatable {
  /// Where it would listen.
  package let path: String
  /// Decides the exit code.
  package var reason: ExitReason { .unreachable }
  /// What is wrong and what to do.
  package var description: String { LocalControlFailure.notRunning(path: path).description }
}

/// What the daemon said when it could not do something.
package struct DaemonRefusal: UserFacingFailure, Equatable {
  /// The daemon's words.
  package let description: String
  /// The exit code that belongs to them.
  package let reason: ExitReason
}

/// Where a command finds this device's household: the state directory, and the daemon's socket.
package struct HouseholdPlace: Sendable, Equatable {
  /// The state directory.
  package let stateDirectory: String
  /// The daemon's socket.
  package let controlSocket: String

  /// The place that the environment names.
  package init(environment: [String: String]) throws(HouseholdFailure) {
    guard let path = StateDirectory.path(environment: environment) else { throw .noStateDirectory }
    stateDirectory = path
    controlSocket = MeshPaths.controlSocket(stateDirectory: path, environment: environment)
  }
}
