import ArgumentParser
import HearthNode

/// `hearth join`.
struct JoinCommand: ReportingCommand {
  static let configuration = CommandConfiguration(
    commandName: "join",
    abstract: "Join a household with a code or a token.",
    discussion: """
      The code comes from 'hearth invite' on a device of the household; the inviting device is found by multicast \
      DNS and by Hearth's beacons, or named with --address. Nothing is kept on this device unless it succeeds.

      Needs no daemon. Afterwards 'hearth up' brings this device in.

      Example:
        hearth join 4821-9037
        hearth join 4821-9037 --name study --address 192.168.1.20
        hearth join hearth1…
      """)

  @OptionGroup var reporting: ReportingOptions

  @Argument(
    help: ArgumentHelp(
      "The code of eight digits, or the token; '-' reads it from standard input.", valueName: "code"))
  var code: String

  @Option(
    help: ArgumentHelp("This device's name in the household. (default: the host name)", valueName: "name"))
  var name: String?

  @Option(
    help: ArgumentHelp(
      "Where the inviting device is, HOST or HOST:PORT, when it is not found by itself.", valueName: "address"
    ))
  var address: String?

  @Option(help: ArgumentHelp("Seconds to look for the inviting device, 1 to 600.", valueName: "s"))
  var timeout = 30

  func validate() throws { try check("--timeout", timeout, in: 1...600) }

  func run() throws {
    let office = HouseholdOffice(try Here.place())
    let typed = code == "-" ? readLine() ?? "" : code
    let listed = try address.map { try listedPeer($0, defaultPort: MeshPaths.defaultPort) }
    let join = try HouseholdJoin(
      invitation: typed, name: try HouseholdOffice.deviceName(name), host: listed?.host, port: listed?.port,
      searchTime: .seconds(timeout), office: office)
    let joined = try join.run { progress in
      guard let text = progress.text else { return }
      try? OutputStream.diagnostics.write(text + "\n")
    }
    if reporting.json { return try OutputStream.standard.write(jsonLine(joined) + "\n") }
    try OutputStream.standard.write(joined.text + "\n")
  }
}
