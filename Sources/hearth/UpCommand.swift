import ArgumentParser
import HearthNode

/// `hearth up`.
struct UpCommand: ReportingCommand {
  static let configuration = CommandConfiguration(
    commandName: "up",
    abstract: "Bring this device into its household: the daemon.",
    discussion: """
      Finds the other devices of the household (known addresses, multicast DNS through Avahi, Hearth's own \
      beacons, --peer), proves who they are, and keeps in touch until it is stopped. It stays in the foreground \
      and logs to standard error; scripts/install makes it a service that starts with the machine.

      Stops with SIGTERM or Ctrl-C, says goodbye to the others, and ends with code 0.

      While it runs, 'hearth train' on any device of the household may compute on this one, within --threads and \
      --memory-budget; --no-share keeps it out, 'hearth pause' does so for a while, and --pause-on-battery while the \
      mains are away. Jobs go on when devices come and go: those that this one has a part in when it stops are handed \
      over to the others, and taken up again at the next 'hearth up'.

      Example:
        hearth up
        hearth up --peer nas.local --port 24326
        hearth up --threads 2 --memory-budget 2GiB
        hearth up --pause-on-battery
      """)

  @OptionGroup var reporting: ReportingOptions

  @Option(
    help: ArgumentHelp(
      "Port for TCP and UDP; 0 takes a free one. (default: HEARTH_PORT, or \(MeshPaths.defaultPort))",
      valueName: "port"))
  var port: UInt16?

  @Option(
    help: ArgumentHelp(
      "A device to dial besides those that are found, HOST or HOST:PORT; may be given several times. "
        + "(default: HEARTH_PEERS, separated by commas)",
      valueName: "peer"))
  var peer: [String] = []

  @Option(
    help: ArgumentHelp(
      "Use this interface although its name looks like a container's or a tunnel's; may be given several times.",
      valueName: "name"))
  var interface: [String] = []

  @Flag(help: "Use only 127.0.0.1, for several daemons on one machine. (default: in a loopback lab)")
  var loopback = false

  @Flag(inversion: .prefixedNo, help: "Whether multicast DNS through Avahi is used.")
  var avahi = true

  @Flag(inversion: .prefixedNo, help: "Whether the household may compute on this device.")
  var share = true

  @Option(
    help: ArgumentHelp(
      "Compute threads of the household's jobs on this device, 1 to 256. "
        + "(default: the cores that the daemon may use)",
      valueName: "n"))
  var threads: Int?

  @Option(
    help: ArgumentHelp(
      "Most memory that the household's jobs may take on this device, for instance 2GiB. "
        + "(default: what is available)",
      valueName: "size"))
  var memoryBudget: ByteCount?

  @Flag(
    help:
      "Take no part in the household's jobs while this device is on battery, and again 10 s after mains power is back."
  )
  var pauseOnBattery = false

  @Option(
    help: ArgumentHelp("Least level that is logged: debug, info, warning or error.", valueName: "level"))
  var logLevel = "info"

  func validate() throws {
    try check("--log-level", logLevel, among: DaemonSettings.levels)
    try check("--threads", threads, in: 1...256)
    if let memoryBudget, memoryBudget.bytes < 16 << 20 {
      throw ValidationError(
        "--memory-budget is \(memoryBudget); it must be at least 16 MiB, for instance --memory-budget 2GiB")
    }
  }

  func run() throws {
    let environment = Here.environment
    let place = try Here.place()
    var settings = DaemonSettings(environment: environment)
    if let port { settings.port = port }
    if !peer.isEmpty { settings.peers = peer }
    settings.interfaces = interface
    if loopback { settings.loopbackOnly = true }
    settings.usesAvahi = avahi
    settings.isAvailable = share
    settings.jobThreads = threads
    settings.jobMemory = memoryBudget?.bytes
    settings.pausesOnBattery = pauseOnBattery
    settings.logLevel = logLevel
    settings.json = reporting.json
    let peers = try settings.peers.map { try listedPeer($0, defaultPort: MeshPaths.defaultPort) }
    try DaemonProcess.run(settings, peers: peers, place: place, environment: environment)
  }
}
