import Glibc
import Logging
import PeerDiscovery

/// What a person sets of a daemon, with the defaults that the environment gives.
package struct DaemonSettings: Sendable, Equatable {
  /// The levels that can be logged.
  package static let levels = ["debug", "info", "warning", "error"]

  /// The port for TCP and UDP; 0 takes a free one.
  package var port: UInt16
  /// Listed peers, as they were typed.
  package var peers: [String]
  /// Interfaces that are used whatever their names look like.
  package var interfaces: [String] = []
  /// Whether only 127.0.0.1 is used.
  package var loopbackOnly: Bool
  /// Whether multicast DNS is used.
  package var usesAvahi = true
  /// Whether the household may use this device.
  package var isAvailable = true
  /// Compute threads of jobs; nil uses the cores that the process may use.
  package var jobThreads: Int?
  /// Most memory that jobs may take; nil uses what is available.
  package var jobMemory: Int?
  /// Whether the device takes no part in jobs while it is on battery.
  package var pausesOnBattery = false
  /// Where the kernel lists the power supplies.
  package var powerFolder = PowerSupplies.folder
  /// Least level that is logged.
  package var logLevel = "info"
  /// Whether the log is JSON.
  package var json = false

  /// The defaults under an environment: a lab without namespaces sets HEARTH_PORT and HEARTH_PEERS.
  package init(environment: [String: String]) {
    port = environment["HEARTH_PORT"].flatMap { UInt16($0) } ?? MeshPaths.defaultPort
    let listed = environment["HEARTH_PEERS"] ?? ""
    peers = listed.split(separator: ",").map { $0.filter { !$0.isWhitespace } }.filter { !$0.isEmpty }
    loopbackOnly = environment["HEARTH_LAB"] != nil && environment["HEARTH_PORT"] != nil
  }

  /// How the log looks: JSON when asked, else as the reader of standard error needs it.
  func logStyle(environment: [String: String]) -> DaemonLogStyle {
    if json { return .json }
    return environment["JOURNAL_STREAM"] == nil ? .text : .journal
  }
}

extension DaemonSettings {
  /// The daemon's options in a place, with peers as they were read.
  func options(_ peers: [(host: String, port: UInt16)], place: HouseholdPlace) -> HouseholdDaemon.Options {
    var options = HouseholdDaemon.Options(
      stateDirectory: place.stateDirectory, controlSocket: place.controlSocket)
    options.port = port
    options.staticPeers = peers.map { StaticPeer(host: $0.host, port: $0.port) }
    options.interfaces = interfaces
    options.loopbackOnly = loopbackOnly
    options.usesAvahi = usesAvahi
    options.isAvailable = isAvailable
    options.jobThreads = jobThreads
    options.jobMemory = jobMemory
    options.pausesOnBattery = pausesOnBattery
    options.powerFolder = powerFolder
    return options
  }

  func log(environment: [String: String]) -> Logger {
    let level = Logger.Level(rawValue: logLevel) ?? .info
    let style = logStyle(environment: environment)
    return Logger(label: "hearth") { _ in DaemonLogHandler(style: style, level: level) }
  }
}

extension HouseholdDaemon {
  /// Starts the daemon that these settings describe in this process.
  package static func start(
    _ settings: DaemonSettings, place: HouseholdPlace, environment: [String: String]
  ) async throws -> HouseholdDaemon {
    try await start(settings.options([], place: place), log: settings.log(environment: environment))
  }
}

extension DaemonProcess {
  /// Runs the daemon that these settings describe.
  package static func run(
    _ settings: DaemonSettings, peers: [(host: String, port: UInt16)], place: HouseholdPlace,
    environment: [String: String]
  ) throws {
    try run(
      settings.options(peers, place: place), log: settings.log(environment: environment),
      environment: environment)
  }
}
